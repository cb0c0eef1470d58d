"""What torch is doing around a call: whether it is traced or transformed, and whether gradients are wanted."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["is_tracing", "target_of_export", "under_transform", "wants_gradients"]


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


def target_of_export() -> str | None:
    """What a model is being exported to in this call, "ONNX" or "OpenVINO"; None if it is not.

    Both run elsewhere, where nothing knows our ops. TorchScript and torch.export keep them.
    """
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # soon said, in every call
        return None
    return _target_of_export()


_OPENVINO = "openvino.frontend.pytorch"


@torch.compiler.assume_constant_result
def _target_of_export() -> str | None:
    if torch.onnx.is_in_onnx_export():
        return "ONNX"
    if _OPENVINO not in sys.modules:
        return None
    # OpenVINO's converter traces like anybody else; only the stack tells it from a torch.jit.trace that stays with us.
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_globals.get("__name__", "").startswith(_OPENVINO):
            return "OpenVINO"
    return None


def wants_gradients(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd would record an op on ``tensors``."""
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors)
