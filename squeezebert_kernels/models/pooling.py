"""One vector of each sequence of hidden states."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["POOLING", "pooled"]

POOLING = ("mean", "cls")


def pooled(hidden: Tensor, mask: Tensor, pooling: str = "mean", *, normalize: bool = True) -> Tensor:
    """The vector of every sequence, as sentence-transformers computes it.

    Args:
        hidden: [B, S, C], floating.
        mask: [B, S], 1 for real tokens and 0 for padding.
        pooling: "mean" of the real tokens, or "cls", the first token.
        normalize: divide by the Euclidean norm.

    Returns:
        [B, C] in the dtype of ``hidden``; 0 for a sequence without any token.
    """
    if pooling == "cls":
        vectors = hidden[:, 0]
    else:
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        vectors = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
    return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors
