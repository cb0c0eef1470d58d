"""The two blocks of a layer as they are trained: with dropout, and with gradients that recompute little.

Forward passes are ops that also return what the gradients need (``*_train``), gradients are ops of their own
(``*_backward``, see :mod:`squeezebert_kernels.ops.gradients`). The functions take arguments that were checked.

Dropout is that of torch: a value is kept with probability 1 - p and scaled by 1 / (1 - p). Which ones is a function of
one number that each block draws from torch's generator of the device of x, so ``torch.manual_seed`` makes it
reproducible, and what restores the generator (gradient checkpointing) restores the choice. The choice is not the one
that torch's own dropout would make.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .torch_state import is_tracing, wants_gradients

__all__ = ["attention_block", "is_autocast", "is_wanted", "post_attention_block"]


def is_wanted(tensors: Sequence[Tensor | None], packed: Tensor | None, *dropout_p: float) -> bool:
    """Whether a block of these tensors is trained: dropout is at work, or gradients will be asked for.

    Otherwise the op of inference runs, whose gradients compute again what they need: with packed weights, which may say
    another dtype; and under a tracer, since an exported model is rarely trained.
    """
    if any(p > 0 for p in dropout_p):
        return True
    return packed is None and wants_gradients(tensors) and not is_tracing()


def _seed(x: Tensor, *dropout_p: float) -> Tensor | None:
    if all(p == 0 for p in dropout_p):
        return None
    return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=x.device)


def is_autocast(device: str) -> bool:
    """Whether autocast is at work on devices of this type."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    return torch.amp.autocast(device, enabled=False) if is_autocast(device) else nullcontext()


def _prepare(tensors: Sequence[Tensor | None], dtype: str | None) -> tuple[list[Any], str]:
    """The tensors as the ops take them, and what a CPU multiplies in: under autocast bfloat16, between float32 values.

    A GPU multiplies in the dtype of the tensors: under autocast the one of autocast.
    """
    x = tensors[0]
    assert x is not None
    device = x.device.type
    chosen = "bfloat16" if x.dtype == torch.bfloat16 else "float32"
    if is_autocast(device):
        low = torch.get_autocast_dtype(device)
        chosen = "bfloat16" if low == torch.bfloat16 else "float32"
        wanted = torch.float32 if device == "cpu" else low
        tensors = [None if t is None else t.to(wanted) for t in tensors]
    return list(tensors), dtype or chosen


def attention_block(
    tensors: Sequence[Tensor | None],
    num_heads: int,
    groups: Sequence[int],
    *,
    dropout_p: float = 0.0,
    dtype: str | None = None,
) -> Tensor:
    """``ops.attention_block`` of (x, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, attention_mask).

    ``dtype`` is what a CPU multiplies in, "float32" or "bfloat16"; None: bfloat16 if x is, or autocast says so.
    """
    operands, chosen = _prepare(tensors, dtype)
    with _without_autocast(operands[0].device.type):
        op = torch.ops.squeezebert_kernels.attention_block_train.default
        return op(*operands, _seed(operands[0], dropout_p), num_heads, *groups, dropout_p, chosen)[0]


def post_attention_block(
    tensors: Sequence[Tensor | None],
    groups: Sequence[int],
    activation: str,
    eps: Sequence[float],
    *,
    dropout_p: Sequence[float] = (0.0, 0.0),
    dtype: str | None = None,
) -> Tensor:
    """``ops.post_attention_block`` of its twelve tensors; ``dropout_p`` behind the post and the output convolution."""
    operands, chosen = _prepare(tensors, dtype)
    device = operands[0].device.type
    with _without_autocast(device):
        op = torch.ops.squeezebert_kernels.post_attention_block_train.default
        y = op(*operands, _seed(operands[0], *dropout_p), *groups, activation, *eps, *dropout_p, chosen)[0]
    return y.float() if is_autocast(device) else y
