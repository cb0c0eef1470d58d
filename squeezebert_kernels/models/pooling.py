"""One vector of each sequence of hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["POOLING", "pooled"]

POOLING = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""As sentence-transformers calls them."""


def pooled(hidden: Tensor, mask: Tensor, pooling: str | Sequence[str] = "mean", *, normalize: bool = True) -> Tensor:
    """The vector of every sequence, as sentence-transformers computes it.

    Args:
        hidden: [B, S, C], floating.
        mask: [B, S], 1 for the tokens that count and 0 for the others, such as padding.
        pooling: of the tokens that count "mean"; "cls", the first; "lasttoken", the last; "max", of each channel;
            "mean_sqrt_len_tokens", the sum divided by the square root of their number; "weightedmean", weighted by the
            position from 1 on. The vectors of several are joined, in their order.
        normalize: divide by the Euclidean norm.

    Returns:
        [B, C] times the number of poolings, in the dtype of ``hidden``. Of a sequence in which no token counts it is 0;
        for "cls" the first token, for "max" -inf.

    Raises:
        ValueError: a pooling that is not known.
    """
    names = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    if not names or any(name not in POOLING for name in names):
        raise ValueError(f"pooling must be of {', '.join(POOLING)}, got {pooling!r}")
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    vectors = torch.cat([_pool(hidden, mask, weight, name) for name in names], dim=-1)
    return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors


def _pool(hidden: Tensor, mask: Tensor, weight: Tensor, name: str) -> Tensor:
    rows = torch.arange(len(hidden), device=hidden.device)
    if name == "cls":
        return hidden[rows, mask.int().argmax(1)]
    if name == "lasttoken":
        last = mask.shape[1] - 1 - mask.int().flip(1).argmax(1)
        return (hidden * weight)[rows, last]
    if name == "max":
        return hidden.masked_fill(weight == 0, -torch.inf).amax(1)
    if name == "weightedmean":
        weight = weight * torch.arange(1, mask.shape[1] + 1, device=hidden.device, dtype=hidden.dtype).unsqueeze(-1)
    count: Any = weight.sum(1).clamp(min=1)
    return (hidden * weight).sum(1) / (count.sqrt() if name == "mean_sqrt_len_tokens" else count)
