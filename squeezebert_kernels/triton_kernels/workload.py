"""What SqueezeBERT launches of each kernel: for tuning, and for compiling ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import launchers, training

__all__ = ["CHANNELS", "GROUPS", "HEADS", "HIDDEN", "flops", "train", "workload"]

CHANNELS, HIDDEN, GROUPS, HEADS = 768, 3072, 4, 12


def workload(
    kernel: str, dtype: torch.dtype, size: int, device: torch.device | str, sequences: int = 64
) -> Callable[[], Any]:
    """A call of ``kernel`` as SqueezeBERT makes it, for ``size`` tokens; attention: for sequences of that length."""
    generator = None if str(device) == "meta" else torch.Generator(device).manual_seed(0)

    def t(*shape: int, scale: float = 1.0) -> Tensor:
        if generator is None:
            return torch.empty(shape, dtype=dtype, device=device)
        return (torch.randn(shape, generator=generator, device=device) * scale).to(dtype)

    k = CHANNELS // GROUPS
    tokens = sequences * size if kernel in ("attention", "flash") else size
    x, vector, square = t(tokens, CHANNELS), t(CHANNELS), t(CHANNELS, CHANNELS, scale=CHANNELS**-0.5)
    three = (t(CHANNELS, k, scale=k**-0.5), t(CHANNELS, k, scale=k**-0.5), t(CHANNELS, k, scale=k**-0.5))
    biases = (vector, vector, vector)
    up, up_bias, down = t(HIDDEN, k, scale=k**-0.5), t(HIDDEN), t(CHANNELS, k * 4, scale=(k * 4) ** -0.5)
    batch, mask = x.view(sequences, -1, CHANNELS) if tokens != size else x, t(sequences, 1, 1, size)
    calls: dict[str, Callable[[], Any]] = {
        "conv": lambda: launchers.conv(x, up, up_bias, GROUPS, "gelu"),
        "conv_residual": lambda: launchers.conv_residual(x, square, vector, x, 1),
        "qkv": lambda: launchers.project(x, three, biases, (GROUPS,) * 3),
        "ffn": lambda: launchers.ffn(x, up, up_bias, down, vector, GROUPS, GROUPS, "gelu"),
        "attention": lambda: launchers.attention(batch, three, biases, mask, HEADS, GROUPS, None, sequences, size),
        "flash": lambda: launchers.flash(x, x, x, mask, HEADS, None, sequences, size, torch.empty_like(batch)),
    }
    return calls[kernel]


def flops(kernel: str, size: int, sequences: int = 64) -> float:
    """Multiplications and additions of a :func:`workload`."""
    k, attention = CHANNELS // GROUPS, 4.0 * sequences * size * size * CHANNELS
    projections = 6.0 * CHANNELS * k
    return {
        "conv": 2.0 * HIDDEN * k * size,
        "conv_residual": 2.0 * CHANNELS * CHANNELS * size,
        "qkv": projections * size,
        "ffn": 4.0 * HIDDEN * k * size,
        "attention": projections * sequences * size + attention,
        "flash": attention,
    }[kernel]


def train(dtype: torch.dtype, sequences: int, length: int, device: torch.device | str, p: float = 0.1) -> None:
    """Forward and backward of a layer of SqueezeBERT, all gradients, on zeros; with dropout where ``p`` is not 0."""

    def t(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    k, groups = CHANNELS // GROUPS, (GROUPS,) * 3
    x, vector, square, narrow = t(sequences, length, CHANNELS), t(CHANNELS), t(CHANNELS, CHANNELS), t(CHANNELS, k)
    up, down, mask = t(HIDDEN, k), t(CHANNELS, HIDDEN // GROUPS), t(sequences, 1, 1, length)
    seed = torch.zeros(1, dtype=torch.int64, device=device)
    context, *saved = training.attention_block_train(
        x, narrow, vector, narrow, vector, narrow, vector, mask, seed, HEADS, *groups, p
    )
    tail: list[Any] = [1, GROUPS, GROUPS, "gelu", 1e-12, 1e-12, p, p, "float32"]
    weights: list[Any] = [square, vector, vector, vector, up, t(HIDDEN), down, vector, vector, vector, seed]
    y, *sums = training.post_attention_block_train(context, x, *weights, *tail)
    back: list[Any] = [y, context, square, vector, up, down, vector, seed, *sums, *tail, [True] * 12]
    training.post_attention_block_backward(*back)
    back = [y, x, narrow, narrow, narrow, mask, seed, context, *saved, HEADS, *groups, p, "float32", [True] * 7]
    training.attention_block_backward(*back)
