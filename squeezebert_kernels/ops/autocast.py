"""The ops under autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ENDS_IN_LAYER_NORM = {
    "grouped_pointwise_conv": False,
    "grouped_pointwise_conv_layer_norm": True,
    "attention_block": False,
    "post_attention_block": True,
    "encoder_layer": True,
}
"""The ops on activations."""


def _register(library: Any, name: str, ends_in_layer_norm: bool) -> None:
    op = getattr(getattr(torch.ops, library.ns), name).default

    def autocast(*args: Any, **kwargs: Any) -> Tensor:
        if isinstance(args[0], Tensor) and args[0].dtype == torch.float64:  # which autocast leaves alone
            raise ValueError(f"{name} has no kernel for float64; use the function of squeezebert_kernels.ops")
        operands = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        with torch.amp.autocast("cpu", enabled=False):
            y = op(*operands, **kwargs)
        return y if ends_in_layer_norm else y.to(torch.get_autocast_dtype("cpu"))

    def autocast_cuda(*args: Any, **kwargs: Any) -> Tensor:
        dtype = torch.get_autocast_dtype("cuda")
        operands = [a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        with torch.amp.autocast("cuda", enabled=False):
            y = op(*operands, **kwargs)
        return y.float() if ends_in_layer_norm else y

    library.impl(name, autocast, "AutocastCPU")
    library.impl(name, autocast_cuda, "AutocastCUDA")


def register(library: Any) -> None:
    """Registers the autocast behaviour of the ops that ``library`` (a torch.library.Library) defines.

    The CPU kernels still compute in float32, the CUDA kernels take everything in the autocast dtype; the result has the
    dtype that torch's own ops would give: the autocast dtype behind a matrix product, float32 behind a LayerNorm.
    """
    for name, ends_in_layer_norm in ENDS_IN_LAYER_NORM.items():
        _register(library, name, ends_in_layer_norm)
