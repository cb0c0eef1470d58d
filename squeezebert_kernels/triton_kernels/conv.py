"""Grouped pointwise convolution as Triton kernels: with an activation, with a residual, three at once."""

import triton
import triton.language as tl

from .device_functions import activate, dot, let_next_start, wait_for_input


@triton.jit
def conv_tile(
    x, weight, tile, group, block, T, x_stride,
    K: tl.constexpr, N: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A float32 tile [BLOCK_M, BLOCK_N] of x [T, groups*K] times the transposed weight [groups*N, K] of one group.

    Rows and columns beyond the end repeat the last one, so that no load needs a mask for them: the caller stores none.
    """
    rows = tl.minimum(tile * BLOCK_M + tl.arange(0, BLOCK_M), T - 1).to(tl.int64)
    columns = tl.minimum(block * BLOCK_N + tl.arange(0, BLOCK_N), N - 1)
    ks = tl.arange(0, BLOCK_K)
    a_at = x + rows[:, None] * x_stride + (group * K + ks)[None, :]
    b_at = weight + (group * N + columns)[None, :] * K + ks[:, None]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            a = tl.load(a_at)
            b = tl.load(b_at)
        else:
            a = tl.load(a_at, mask=(ks < K - k)[None, :], other=0.0)
            b = tl.load(b_at, mask=(ks < K - k)[:, None], other=0.0)
        acc = dot(a, b, acc, PRECISION, UPCAST)
        a_at += BLOCK_K
        b_at += BLOCK_K
    return acc


@triton.jit(do_not_specialize=["T"])
def conv_kernel(
    x, weight, bias, residual, out, T, x_stride, residual_stride,
    GROUPS: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
    HAS_BIAS: tl.constexpr, ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``activation(conv(x) + bias)``, with RESIDUAL ``+ residual``: one program for each tile of out.

    x [T, GROUPS*K], weight [GROUPS*N, K], residual and out [T, GROUPS*N].
    """
    wait_for_input(PDL)
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    programs: tl.constexpr = GROUPS * blocks
    tile = tl.program_id(0) // programs
    group = (tl.program_id(0) % programs) // blocks
    block = tl.program_id(0) % blocks
    acc = conv_tile(x, weight, tile, group, block, T, x_stride, K, N, PRECISION, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K)
    let_next_start(PDL)
    rows = (tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    ok = (rows < T)[:, None] & (columns < N)[None, :]
    channels = group * N + columns
    if HAS_BIAS:
        acc += tl.load(bias + channels, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    acc = activate(acc, ACTIVATION, out.dtype.element_ty.primitive_bitwidth == 16)
    if RESIDUAL:
        at = rows[:, None] * residual_stride + channels[None, :]
        acc += tl.load(residual + at, mask=ok, other=0.0).to(tl.float32)
    at = rows[:, None] * (GROUPS * N) + channels[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["T"])
def qkv_kernel(
    x, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, q, k, v, T, x_stride,
    GROUPS: tl.constexpr, K: tl.constexpr, N: tl.constexpr, HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Three convolutions of the same x, of equal shape: q, k and v [T, GROUPS*N]."""
    wait_for_input(PDL)
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    programs: tl.constexpr = 3 * GROUPS * blocks
    tile = tl.program_id(0) // programs
    which = (tl.program_id(0) % programs) // (GROUPS * blocks)
    group = (tl.program_id(0) % (GROUPS * blocks)) // blocks
    block = tl.program_id(0) % blocks
    weight = q_weight
    bias = q_bias
    out = q
    if which == 1:
        weight = k_weight
        bias = k_bias
        out = k
    if which == 2:
        weight = v_weight
        bias = v_bias
        out = v
    acc = conv_tile(x, weight, tile, group, block, T, x_stride, K, N, PRECISION, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K)
    let_next_start(PDL)
    rows = (tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    channels = group * N + columns
    if HAS_BIAS:
        acc += tl.load(bias + channels, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    at = rows[:, None] * (GROUPS * N) + channels[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=(rows < T)[:, None] & (columns < N)[None, :])
