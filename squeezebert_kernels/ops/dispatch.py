"""How a function of :mod:`squeezebert_kernels.ops` runs: on a kernel as it is, widened to float32, or plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _native
from .devices import why_no_kernel
from .torch_state import under_transform, wants_gradients

__all__ = ["in_own_words", "is_refusal", "run", "run_trained"]

_REFUSAL = "squeezebert_kernels refuses: "
"""Begins the message of a kernel that refuses its arguments: ``kRefusal`` in csrc/torch/arguments.h."""


def _to_float32(tensors: Sequence[Tensor | None], weights: Sequence[int]) -> list[Tensor | None]:
    """``tensors`` in float32. Conv weights (at these indices) are packed from half precision as they are, unless
    autograd needs them in the dtype of the rest."""
    keep = () if wants_gradients(tensors) else weights
    return [t if t is None or i in keep else t.float() for i, t in enumerate(tensors)]


_PLAIN_OPTIONS = {int, float, str, type(None)}


def _is_plain(tensors: Sequence[Tensor | None], options: Mapping[str, object]) -> bool:
    """Whether an op with these arguments is float32 on a CPU and nothing else."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not under_transform()
        and type(tensors[0]) is Tensor
        and all(t is None or (isinstance(t, Tensor) and t.is_cpu and t.dtype == torch.float32) for t in tensors)
        # The dispatcher takes a bool for an int, and a meta tensor sends the op to its shape function.
        and all(
            type(v) in _PLAIN_OPTIONS or (type(v) is Tensor and v.is_cpu and v.dim() == 1) for v in options.values()
        )
    )


def run(op, reference_op, tensors: Sequence[Tensor | None], weights: Sequence[int], options, check):
    """Runs ``op(*tensors, **options)`` with the kernels where they exist for the dtype and device of ``tensors[0]``.

    ``weights`` are the indices of the conv weights among the tensors. ``check`` raises where an argument does not fit.
    The kernels refuse arguments that they cannot compute with. So on the usual path, plain float32 on a CPU, Python
    looks closer only after a refusal, to say in its own words what is wrong.
    """
    x: Any = tensors[0]
    plain = _is_plain(tensors, options)
    if not plain:
        check()
        if why_no_kernel(x) is not None:
            return reference_op(*tensors, **options)
        if x.is_cuda:
            return op(*tensors, **options)
        if not torch.compiler.is_compiling():
            _native.isa()  # an impossible SBK_ISA is a ValueError here, not the kernel's RuntimeError
    try:
        if plain and not torch.is_grad_enabled():
            with torch._C._AutoDispatchBelowAutograd():  # as autograd itself would, without asking it
                return op(*tensors, **options)
        if plain or x.dtype == torch.float32 or torch.is_autocast_enabled("cpu"):
            return op(*tensors, **options)
        return op(*_to_float32(tensors, weights), **options).to(x.dtype)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        if plain:
            _native.isa()
            check()
        raise in_own_words(error) from None  # what only the kernel can see, such as the content of `packed`


def run_trained(x: Tensor, call: Callable[[], Tensor]) -> Tensor:
    """``call()``, a training op on tensors like ``x``, with what a kernel refuses as a ValueError."""
    if x.is_cpu and not torch.compiler.is_compiling():
        _native.isa()
    try:
        return call()
    except RuntimeError as error:
        raise in_own_words(error) from None


def is_refusal(error: Exception) -> bool:
    """Whether a kernel raised ``error`` because an argument does not fit, before it computed anything."""
    return _REFUSAL in str(error)


def in_own_words(error: Exception) -> Exception:
    """A ValueError with what a kernel said when it refused its arguments; ``error`` itself if none did."""
    said = str(error).partition(_REFUSAL)[2]
    return ValueError(said.partition("\n")[0]) if is_refusal(error) else error
