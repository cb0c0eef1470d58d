"""Which tensors have kernels; and the registration of those for CUDA devices."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

from .autocast import ENDS_IN_LAYER_NORM
from .dtypes import KERNEL_DTYPES
from .schemas import on_one_device
from .torch_state import target_of_export, under_transform

__all__ = ["describe", "register", "why_no_kernel", "why_no_triton"]

TRAINING_OPS = (
    "attention_block_backward", "attention_block_train", "dropout_factors", "grouped_pointwise_conv_backward",
    "post_attention_block_backward", "post_attention_block_train",
)  # fmt: skip

CAPABILITY = (8, 0)
"""The least compute capability: bfloat16 and TF32 products, asynchronous copies."""


def why_no_kernel(x: Tensor) -> str | None:
    """Why no kernel computes on tensors like ``x``; None if one does."""
    if not isinstance(x, Tensor):
        return f"a {type(x).__name__} is no tensor"
    if under_transform():
        return "a torch.func transform or forward-mode differentiation is at work"
    if (target := target_of_export()) is not None:
        return f"an export to {target}, which has no such kernels"
    if x.dtype not in KERNEL_DTYPES:
        return f"no kernels for {x.dtype}"
    if x.is_cuda:
        return why_no_triton(x.device.index)
    return None if x.device.type in ("cpu", "meta") else f"no kernels for device type {x.device.type!r}"


@torch.compiler.assume_constant_result
def why_no_triton(index: int | None) -> str | None:
    """Why the Triton kernels do not run on the CUDA device of that index (None: the current one); None if they do."""
    return _why_no_triton(index)


@functools.cache
def _why_no_triton(index: int | None) -> str | None:
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "the Triton kernels are for CUDA devices"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    capability = torch.cuda.get_device_capability(index)
    if capability < CAPABILITY:
        return f"the Triton kernels need compute capability {CAPABILITY[0]}.{CAPABILITY[1]}, this GPU has " + (
            ".".join(map(str, capability))
        )
    return None


def describe(index: int | None) -> str:
    """The device, the version of Triton and where launch configurations come from, for reports."""
    import triton

    from ..triton_kernels import configs

    device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
    configs.load(device)  # raises here, not in the first call, if it is no such file
    return f"{torch.cuda.get_device_name(device)}, Triton {triton.__version__}, {configs.path_for(device).name}"


def register(library: Any) -> None:
    """Registers the Triton kernels for the CUDA key of the ops of ``library``; they are imported at first use."""

    def launcher(name: str) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            from .. import triton_kernels

            return getattr(triton_kernels, name)(*args, **kwargs)

        return run

    for name in (*ENDS_IN_LAYER_NORM, *TRAINING_OPS):
        library.impl(name, on_one_device(library, name, launcher(name)), "CUDA")
