"""Launches the kernels: views of the arguments, grids, scratch memory. Arguments have been checked."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import Tensor

from . import configs
from .attention import attention_kernel, flash_kernel
from .conv import conv_kernel, qkv_kernel
from .device_functions import norm_kernel
from .ffn import ffn_kernel

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether Triton runs the kernels in its interpreter, on any tensors: a debugging aid of Triton's, and our tests'."""
_LARGEST_FFN_GROUP = 192
"""Channels of a group: of more, tiles of 128 tokens and their weights do not fit the shared memory."""


def power_of_2(n: int, least: int = 16) -> int:
    return max(least, 1 << (n - 1).bit_length())


def rows_of(x: Tensor) -> Tensor:
    """``x`` [..., C] as rows [T, C] whose channels are adjacent; a copy only where strides make it one."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def matrix(weight: Tensor) -> Tensor:
    return weight.reshape(weight.shape[0], weight.shape[1]).contiguous()


def vector(v: Tensor | None, instead: Tensor) -> Tensor:
    """A vector, contiguous; ``instead`` for None, where a kernel wants a pointer that it does not use."""
    return instead if v is None else v.contiguous()


def precision(dtype: torch.dtype) -> str:
    """How tl.dot multiplies float32: in one pass of TF32 where torch may, else in three, to float32's accuracy."""
    if dtype != torch.float32 or INTERPRETED:
        return "ieee"
    try:  # the old switch raises after the new one was used; older versions of torch have no new one
        allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    except (AttributeError, RuntimeError):
        allowed = torch.backends.cuda.matmul.allow_tf32
    return "tf32" if allowed else "tf32x3"


@functools.cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


@functools.cache
def _has_dependent_launch(index: int) -> bool:
    return torch.cuda.get_device_capability(index) >= (9, 0)


def launch(kernel: Any, programs: int, x: Tensor, *arguments: Any, **constants: Any) -> None:
    """Runs ``kernel`` as ``programs`` programs on the current stream of the device of ``x``, its first argument.

    Every launch goes through here: bench/gpu/ahead.py puts a recorder in its place.
    """
    constants |= {"PRECISION": precision(x.dtype), "UPCAST": INTERPRETED and x.dtype == torch.bfloat16, "PDL": False}
    if x.is_cuda and _has_dependent_launch(x.device.index):
        constants |= {"PDL": True, "launch_pdl": True}
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        kernel[(programs,)](x, *arguments, **constants)
    else:
        with torch.cuda.device(x.device):
            kernel[(programs,)](x, *arguments, **constants)


def _fit_conv(config: configs.Config, k: int, n: int) -> None:
    """Narrows the blocks of ``config`` to a convolution with groups [n, k]."""
    config["BLOCK_N"] = min(config["BLOCK_N"], power_of_2(n))
    config["BLOCK_K"] = min(config["BLOCK_K"], power_of_2(k))


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str) -> Tensor:
    """``activation(conv(x) + bias)``: [..., C_out]."""
    return _conv("conv", x, weight, bias, None, groups, activation)


def conv_residual(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, groups: int) -> Tensor:
    """``conv(x) + bias + residual``: [..., C_out]."""
    return _conv("conv_residual", x, weight, bias, residual, groups, "none")


def _conv(
    kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, groups: int, activation: str
) -> Tensor:
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    x, weight = rows_of(x), matrix(weight)
    rows = x if residual is None else rows_of(residual)
    tokens, k, n = x.shape[0], weight.shape[1], weight.shape[0] // groups
    config = configs.choose(kind, x.device, x.dtype, tokens)
    _fit_conv(config, k, n)
    if tokens:
        launch(
            conv_kernel, -(-tokens // config["BLOCK_M"]) * groups * -(-n // config["BLOCK_N"]),
            x, weight, vector(bias, x), rows, out, tokens, x.stride(0), rows.stride(0),
            GROUPS=groups, K=k, N=n, HAS_BIAS=bias is not None, ACTIVATION=activation, RESIDUAL=residual is not None,
            **config,
        )  # fmt: skip
    return out


def layer_norm(z: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """``layer_norm(z)`` over the channels of ``z`` [..., C], contiguous."""
    out, rows = torch.empty_like(z), rows_of(z)
    tokens, channels = rows.shape
    block_c = power_of_2(channels)
    many = tokens >= 1024
    at_once = max(1, min(4 if many else 1, 8192 // block_c))
    if tokens:
        launch(
            norm_kernel, -(-tokens // at_once), rows, gamma.contiguous(), beta.contiguous(), out, tokens, eps,
            C=channels, ROWS=at_once, BLOCK_C=block_c, num_warps=2 if many and block_c <= 1024 else 4, num_stages=1,
        )  # fmt: skip
    return out


def can_be_one_kernel(
    weights: tuple[Tensor, Tensor, Tensor], groups: tuple[int, ...], heads: int, sequences: int, length: int
) -> bool:
    """Whether projections and attention fit one program for each head of sequences of up to ``length`` tokens, and
    these programs are enough to keep half of the multiprocessors busy."""
    size = weights[0].shape[0] // heads
    equal = len(set(groups)) == 1 and heads % groups[0] == 0 and all(w.shape == weights[0].shape for w in weights)
    # All queries, keys and values of a head are in the registers of one program.
    if weights[0].is_cuda and 2 * sequences * heads < _multiprocessors(weights[0].device.index):
        return False
    longest = 32 if weights[0].dtype == torch.float32 else 128
    return equal and length <= longest and size <= 128 and power_of_2(length) * power_of_2(size) <= longest * 64


def mask_arguments(mask: Tensor | None, x: Tensor) -> tuple[Tensor, tuple[int, int, int, int], int]:
    """Pointer, strides for [batch, head, query, key], and the kind that the kernels know."""
    if mask is None:
        return x, (0, 0, 0, 0), 0
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    strides = tuple(0 if n == 1 else s for n, s in zip(mask.shape, mask.stride()))
    return mask, strides, 2 if strides[2] else 1  # type: ignore[return-value]


def attention(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor], biases: tuple[Tensor | None, ...], mask: Tensor | None,
    heads: int, groups: int, offsets: Tensor | None, sequences: int, length: int,
) -> Tensor:  # fmt: skip
    """The context of sequences of at most ``length`` tokens where :func:`can_be_one_kernel`."""
    out = x.new_empty((*x.shape[:-1], weights[0].shape[0]))
    x = rows_of(x)
    q, k, v = map(matrix, weights)
    d = q.shape[0] // heads
    mask_at, strides, kind = mask_arguments(mask, x)
    config = configs.choose("attention", x.device, x.dtype, length)
    config["BLOCK_K"] = min(config["BLOCK_K"], power_of_2(q.shape[1]))
    config["BLOCK_Q"] = min(config["BLOCK_Q"], power_of_2(length))
    if x.shape[0]:
        launch(
            attention_kernel, sequences * heads,
            x, q, vector(biases[0], x), k, vector(biases[1], x), v, vector(biases[2], x), mask_at,
            x if offsets is None else offsets, out,
            x.shape[0], length, x.stride(0), d**-0.5, *strides,
            HEADS=heads, D=d, HEADS_PER_GROUP=heads // groups, K=q.shape[1],
            HAS_Q_BIAS=biases[0] is not None, HAS_K_BIAS=biases[1] is not None, HAS_V_BIAS=biases[2] is not None,
            MASK=kind, HAS_OFFSETS=offsets is not None,
            BLOCK_S=power_of_2(length), BLOCK_D=power_of_2(d), **config,
        )  # fmt: skip
    return out


def project(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor], biases: tuple[Tensor | None, ...], groups: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v [T, H*d]: by one kernel where their shapes are equal."""
    rows = rows_of(x)
    same = len(set(groups)) == 1 and len({w.shape for w in weights}) == 1 and len({b is None for b in biases}) == 1
    if not same:
        return tuple(conv(rows, w, b, g, "none") for w, b, g in zip(weights, biases, groups))  # type: ignore[return-value]
    q, k, v = map(matrix, weights)
    tokens, n = rows.shape[0], q.shape[0] // groups[0]
    outs = [rows.new_empty((tokens, q.shape[0])) for _ in range(3)]
    config = configs.choose("qkv", rows.device, rows.dtype, tokens)
    _fit_conv(config, q.shape[1], n)
    if tokens:
        launch(
            qkv_kernel, -(-tokens // config["BLOCK_M"]) * 3 * groups[0] * -(-n // config["BLOCK_N"]),
            rows, q, vector(biases[0], rows), k, vector(biases[1], rows), v, vector(biases[2], rows),
            *outs, tokens, rows.stride(0), GROUPS=groups[0], K=q.shape[1], N=n, HAS_BIAS=biases[0] is not None,
            **config,
        )  # fmt: skip
    return outs[0], outs[1], outs[2]


def flash(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int, offsets: Tensor | None, sequences: int,
    length: int, out: Tensor,
) -> None:  # fmt: skip
    """Attention of q, k, v [T, H*d] into ``out``."""
    if q.shape[0] == 0:
        return
    d = q.shape[1] // heads
    mask_at, strides, kind = mask_arguments(mask, q)
    config = configs.choose("flash", q.device, q.dtype, length)
    block_d = power_of_2(d)
    for name in ("BLOCK_M", "BLOCK_N"):
        config[name] = min(max(16, config[name] * 64 // max(64, block_d)), power_of_2(length))
    blocks = -(-length // config["BLOCK_M"])
    launch(
        flash_kernel, sequences * blocks * heads,
        q, k, v, mask_at, q if offsets is None else offsets, out,
        q.shape[0], length, blocks, d**-0.5, *strides,
        HEADS=heads, D=d, MASK=kind, HAS_OFFSETS=offsets is not None, BLOCK_D=block_d, **config,
    )  # fmt: skip


def ffn(
    h: Tensor, up_weight: Tensor, up_bias: Tensor | None, down_weight: Tensor, down_bias: Tensor | None,
    up_groups: int, down_groups: int, activation: str,
) -> Tensor:  # fmt: skip
    """``down(activation(up(h))) + h``: [..., C].

    In one kernel where the groups are independent and small enough for one program each, and where there are enough
    tokens: of few, two kernels keep more multiprocessors busy, each of which reads fewer weights.
    """
    config = configs.choose("ffn", h.device, h.dtype, h.numel() // max(1, h.shape[-1]))
    if not config.pop("FUSED") or up_groups != down_groups or h.shape[-1] // up_groups > _LARGEST_FFN_GROUP:
        hidden = conv(h, up_weight, up_bias, up_groups, activation)
        return conv_residual(hidden, down_weight, down_bias, h, down_groups)
    out, groups = h.new_empty(h.shape), up_groups
    rows, up, down = rows_of(h), matrix(up_weight), matrix(down_weight)
    tokens, c, hidden_channels = rows.shape[0], up.shape[1], up.shape[0] // groups
    config["BLOCK_H"] = min(config["BLOCK_H"], power_of_2(hidden_channels))
    config["CHUNK"] = min(config["CHUNK"], power_of_2(c))
    if tokens:
        launch(
            ffn_kernel, -(-tokens // config["BLOCK_M"]) * groups,
            rows, up, vector(up_bias, rows), down, vector(down_bias, rows), out, tokens, rows.stride(0),
            GROUPS=groups, C=c, HIDDEN=hidden_channels, HAS_UP_BIAS=up_bias is not None,
            HAS_DOWN_BIAS=down_bias is not None, ACTIVATION=activation, **config,
        )  # fmt: skip
    return out
