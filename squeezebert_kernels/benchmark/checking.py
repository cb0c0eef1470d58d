"""Whether a result is right: the reference in float64, the error against it, and how much of that is rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import reference

UNIT = {"fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11, "int8": 1 / 127}
"""Error of rounding a value near 1. int8: to one of 127 steps, the largest value being about four times the usual."""


def exact(op: str, *arguments: Any, **options: Any) -> Tensor:
    """The result of ``op``, a function of :mod:`squeezebert_kernels.ops.reference`, in float64 on the same values.

    Floating-point tensors among ``arguments`` are converted; a boolean mask becomes one of 0 and -inf, which is added.
    """
    return getattr(reference, op)(*map(_in_float64, arguments), **options)


def _in_float64(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.bool:
        return torch.zeros(value.shape, dtype=torch.float64, device=value.device).masked_fill(~value, -torch.inf)
    return value.double() if value.is_floating_point() else value


def relative_error(output: Tensor, expected: Tensor, mask: Tensor | None = None) -> float:
    """``|output - expected| / |expected|`` in the Frobenius norm; infinite where shapes differ or something is NaN.

    ``mask`` [batch, length] says which positions of [batch, length, ...] count; None: all.
    """
    if output.shape != expected.shape:
        return float("inf")
    if mask is not None:
        output, expected = output[mask.bool()], expected[mask.bool()]
    expected = expected.double()
    error = ((output.double() - expected).norm() / expected.norm()).item()
    return error if error == error else float("inf")


def tolerance(dtype: str, config: Any) -> float:
    """Allowed relative error of last_hidden_state, for a model of this configuration.

    Rounding errors of the six products of every layer add up like a random walk; sums in float32 contribute one unit
    per square root of their length. Four times that.
    """
    products = 6 * config.num_hidden_layers
    length = config.hidden_size if dtype == "fp32" else 1
    return 4 * UNIT[dtype] * (products * length) ** 0.5
