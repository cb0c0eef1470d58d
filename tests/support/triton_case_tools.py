"""What triton_cases.py is made of: small blocks, bars of errors, calls that look at everything around a result."""

import zlib
from contextlib import ExitStack
from unittest import mock

import torch

from squeezebert_kernels.benchmark.checking import relative_error

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
ACTIVATIONS = [None, "gelu", "gelu_tanh", "relu"]
INF, GUARD = float("inf"), 1024

ONE = {"num_warps": 4, "num_stages": 1}
TILE = {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16, **ONE}
SMALL = {
    "conv": TILE,
    "conv_residual": TILE,
    "qkv": {**TILE, "BLOCK_M": 32},
    "ffn": {"FUSED": 1, "BLOCK_M": 16, "BLOCK_H": 16, "CHUNK": 16, **ONE},
    "attention": {"BLOCK_Q": 16, "BLOCK_K": 16, **ONE},
    "flash": {"BLOCK_M": 16, "BLOCK_N": 16, **ONE},
}

# A value that is rounded to the dtype is off by at most UNIT of itself: half its epsilon, the whole for bfloat16, since
# the interpreter cuts bits off where GPUs round.
UNIT = {FP32: 0.5 * torch.finfo(FP32).eps, FP16: 0.5 * torch.finfo(FP16).eps, BF16: torch.finfo(BF16).eps}
# How many values between input and output are rounded one after the other.
CONV = 1
CONV_NORM = 2  # z, out
ATTENTION = 5  # q, k, v, probabilities, context
POST = 5  # z, h, hidden, y, out
LAYER = ATTENTION + POST


def bar_of(dtype, roundings, terms):
    """Of ``||out - expected|| / ||expected||``: independent roundings add up like their root, and so do those of the
    float32 sum of ``terms`` products. A wrong tile, row or bias is far beyond: one wrong value in 1000 makes 0.03."""
    return UNIT[dtype] * roundings**0.5 + torch.finfo(FP32).eps * terms**0.5


class Case:
    """One test: draws its inputs, calls ops and compares; remembers the greatest error, as a part of its bar."""

    def __init__(self, name, dtype):
        self.dtype = dtype
        self.error, self.bar = 0.0, INF
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def draw(self, *shape, scale=1.0):
        return guarded((torch.randn(*shape, generator=self.generator) * scale).to(self.dtype))

    def weight(self, c_out, c_in, groups):
        """Weights that keep values near 1, so that scores and activations are neither flat nor steep."""
        return self.draw(c_out, c_in // groups, 1, scale=(groups / c_in) ** 0.5)

    def compare(self, out, expected, roundings, terms, bar=None):
        """Fails where ``out`` is further from ``expected`` than its bar."""
        assert out.shape == expected.shape, f"shape {tuple(out.shape)}, not {tuple(expected.shape)}"
        if out.numel() == 0:
            return
        assert out.isfinite().all(), f"{int((~out.isfinite()).sum())} of {out.numel()} values are not finite"
        bar = bar_of(self.dtype, roundings, terms) if bar is None else bar
        error = relative_error(out, expected)
        if self.bar == INF or error / bar > self.error / self.bar:
            self.error, self.bar = error, bar
        assert error <= bar, f"error {error:.3g} is above {bar:.3g}; worst at {worst(out, expected)}"


def guarded(t):
    """A copy of ``t`` in the middle of a buffer of NaNs."""
    buffer = torch.full((t.numel() + 2 * GUARD,), float("nan"), dtype=t.dtype)
    buffer[GUARD:-GUARD] = t.flatten()
    return buffer[GUARD:-GUARD].view(t.shape)


def worst(out, expected):
    at = int((out.double() - expected).abs().argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), out.shape))
    return f"{index}: {float(out.flatten()[at]):.6g}, not {float(expected.flatten()[at]):.6g}"


def whole(t):
    """The memory that ``t`` is a view of, its guards included."""
    return t if t._base is None else t._base


def same_bits(a, b):
    return a.shape == b.shape and torch.equal(a.nan_to_num(nan=12345.0), b.nan_to_num(nan=12345.0))


def call(name, *args, kernels=None, twice=False, config=None, paths=(), **options):
    """The op ``name`` of triton_kernels, and what holds for every call of one.

    ``config`` overrides SMALL; ``kernels`` are the names of those that must be launched; with "two" in ``paths``
    attention is never one kernel.
    """
    from squeezebert_kernels import triton_kernels
    from squeezebert_kernels.triton_kernels import configs, launchers

    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    before = [whole(t).clone() for t in tensors]
    launched, launch = [], launchers.launch

    def recorded(kernel, *arguments, **constants):
        launched.append(kernel.fn.__name__)
        launch(kernel, *arguments, **constants)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(launchers, "launch", recorded))
        if config != "shipped":
            stack.enter_context(configs.override(**{**SMALL, **(config or {})}))
        if "two" in paths:
            stack.enter_context(mock.patch.object(launchers, "can_be_one_kernel", return_value=False))
        out = getattr(triton_kernels, name)(*args, **options)
        if kernels is not None:
            assert launched == kernels, f"launched {launched}, not {kernels}"
        if twice:
            again = getattr(triton_kernels, name)(*args, **options)
            assert same_bits(out, again), "a second call gives other values"
    assert out.is_contiguous(), f"strides {out.stride()} of shape {tuple(out.shape)}"
    assert out.dtype == args[0].dtype
    for i, (t, old) in enumerate(zip(tensors, before)):
        assert same_bits(whole(t), old), f"tensor {i} of the arguments was written to"
    return out
