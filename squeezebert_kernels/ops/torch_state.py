"""What torch is doing around a call: whether it is traced or transformed, and whether gradients are wanted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["is_tracing", "under_transform", "wants_gradients"]


def under_transform() -> bool:
    """Whether a torch.func transform (grad, vmap, jvp, ...) or forward-mode differentiation is at work.

    The kernels know derivatives of reverse mode only; the plain formulas of the reference know them all.
    """
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def is_tracing() -> bool:
    """Whether the ops are recorded instead of run, or may be: by a compiler, a tracer or a dispatch mode (fake tensors,
    make_fx)."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0


def wants_gradients(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd would record an op on ``tensors``."""
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors)
