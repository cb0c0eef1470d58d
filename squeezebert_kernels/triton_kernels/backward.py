"""Training of convolutions, activations and LayerNorm as Triton kernels.

Every sum has a fixed order: there are no atomics. What is summed over tokens is summed in parts, and these by
``column_sums_kernel``.
"""

import triton
import triton.language as tl

from .conv import conv_tile
from .device_functions import activate, dot, let_next_start, wait_for_input
from .dropout import dropout_tile


@triton.jit
def activate_backward(grad, z, ACTIVATION: tl.constexpr):
    """``grad * ACTIVATION'(z)`` of float32 values."""
    if ACTIVATION == "gelu":
        density = tl.exp(-0.5 * z * z) * 0.3989422804014327
        return grad * (0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * density)
    elif ACTIVATION == "gelu_tanh":
        # Beyond 10 the derivative is 0 or 1, and squares would overflow.
        z = tl.minimum(tl.maximum(z, -10.0, propagate_nan=tl.PropagateNan.ALL), 10.0, propagate_nan=tl.PropagateNan.ALL)
        s = 1.0 / (1.0 + tl.exp((z + 0.044715 * z * z * z) * -1.5957691216057308))
        return grad * (s + z * s * (1.0 - s) * (1.5957691216057308 * (1.0 + 0.134145 * z * z)))
    elif ACTIVATION == "relu":
        return tl.where(z <= 0.0, 0.0, grad)
    else:
        return grad


@triton.jit(do_not_specialize=["T", "threshold", "scale"])
def training_conv_kernel(
    x, weight, bias, residual, seed, out, activated, T, x_stride, residual_stride, threshold, scale,
    GROUPS: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
    HAS_BIAS: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, SITE: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``dropout(conv(x) + bias) + residual`` where SITE is not 0; with an ACTIVATION also that of out, as rounded.

    x [T, GROUPS*K], weight [GROUPS*N, K], residual, out and activated [T, GROUPS*N].
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
    if SITE != 0:
        first = group * N + block * BLOCK_N
        acc *= dropout_tile(tl.load(seed), rows, first, threshold, scale, SITE, BLOCK_N, GROUPS == 1 or N % 4 == 0)
    if RESIDUAL:
        at = rows[:, None] * residual_stride + channels[None, :]
        acc += tl.load(residual + at, mask=ok, other=0.0).to(tl.float32)
    at = rows[:, None] * (GROUPS * N) + channels[None, :]
    z = acc.to(out.dtype.element_ty)
    tl.store(out + at, z, mask=ok)
    if ACTIVATION != "none":
        a = activate(z.to(tl.float32), ACTIVATION, out.dtype.element_ty.primitive_bitwidth == 16)
        tl.store(activated + at, a.to(out.dtype.element_ty), mask=ok)


@triton.jit
def input_grad_tile(
    acc, grad, weight, tile, group, block, T, grad_stride,
    K: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``acc`` [BLOCK_M, BLOCK_N] plus grad [T, groups*K] times the weight [groups*K, N] of one group, as it lies there.

    Rows beyond the end repeat the last one: the caller stores none. Columns are masked and not clipped: they lie side
    by side here, which the compiler would not see behind a minimum. It would then copy neither 16 bytes at once nor
    ahead.
    """
    rows = tl.minimum(tile * BLOCK_M + tl.arange(0, BLOCK_M), T - 1).to(tl.int64)
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    a_at = grad + rows[:, None] * grad_stride + (group * K + ks)[None, :]
    b_at = weight + (group * K + ks)[:, None] * N + columns[None, :]
    for k in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            a = tl.load(a_at)
        else:
            a = tl.load(a_at, mask=(ks < K - k)[None, :], other=0.0)
        if K % BLOCK_K == 0 and N % BLOCK_N == 0:
            b = tl.load(b_at)
        else:
            b = tl.load(b_at, mask=(ks < K - k)[:, None] & (columns < N)[None, :], other=0.0)
        acc = dot(a, b, acc, PRECISION, UPCAST)
        a_at += BLOCK_K
        b_at += BLOCK_K * N
    return acc


@triton.jit(do_not_specialize=["T"])
def input_grad_kernel(
    grad, weight, grad_2, weight_2, grad_3, weight_3, residual, z, out, activated, T, grad_stride,
    GROUPS: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
    THREE: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradient of a convolution's input, of the sum of three with THREE, ``+ residual``.

    With an ACTIVATION the input was ``activated = ACTIVATION(z)``: the gradient of z, and ``activated`` once more.
    grads [T, GROUPS*K], weights [GROUPS*K, N], residual, z, out and activated [T, GROUPS*N].
    """
    wait_for_input(PDL)
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    programs: tl.constexpr = GROUPS * blocks
    tile = tl.program_id(0) // programs
    group = (tl.program_id(0) % programs) // blocks
    block = tl.program_id(0) % blocks
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc = input_grad_tile(
        acc, grad, weight, tile, group, block, T, grad_stride, K, N, PRECISION, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K
    )
    if THREE:
        acc = input_grad_tile(
            acc, grad_2, weight_2, tile, group, block, T, grad_stride, K, N, PRECISION, UPCAST,
            BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        acc = input_grad_tile(
            acc, grad_3, weight_3, tile, group, block, T, grad_stride, K, N, PRECISION, UPCAST,
            BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    let_next_start(PDL)
    rows = (tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    ok = (rows < T)[:, None] & (columns < N)[None, :]
    at = rows[:, None] * (GROUPS * N) + (group * N + columns)[None, :]
    if ACTIVATION != "none":
        before = tl.load(z + at, mask=ok, other=0.0).to(tl.float32)
        a = activate(before, ACTIVATION, out.dtype.element_ty.primitive_bitwidth == 16)
        tl.store(activated + at, a.to(out.dtype.element_ty), mask=ok)
        acc = activate_backward(acc, before, ACTIVATION)
    if RESIDUAL:
        acc += tl.load(residual + at, mask=ok, other=0.0).to(tl.float32)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["T", "part"])
def weight_grad_kernel(
    grad, x, out, T, part, grad_stride, x_stride,
    GROUPS: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """``grad^T x`` of one block of the weight of one group, over one part of the tokens: ``part`` of them, in blocks.

    grad [T, GROUPS*N], x [T, GROUPS*K], out [parts, GROUPS*N, K].
    """
    wait_for_input(PDL)
    n_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    k_blocks: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    programs: tl.constexpr = GROUPS * n_blocks * k_blocks
    which = tl.program_id(0) // programs
    group = (tl.program_id(0) % programs) // (n_blocks * k_blocks)
    ns = (tl.program_id(0) % (n_blocks * k_blocks)) // k_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.program_id(0) % k_blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    end = tl.minimum(T, (which + 1) * part)
    tokens = which * part + tl.arange(0, BLOCK_T)
    a_at = grad + tokens.to(tl.int64)[:, None] * grad_stride + (group * N + ns)[None, :]
    b_at = x + tokens.to(tl.int64)[:, None] * x_stride + (group * K + ks)[None, :]
    for first in range(which * part, end, BLOCK_T):
        inside = (first + tl.arange(0, BLOCK_T) < end)[:, None]
        a = tl.load(a_at, mask=inside & (ns < N)[None, :], other=0.0)
        b = tl.load(b_at, mask=inside & (ks < K)[None, :], other=0.0)
        acc = dot(tl.trans(a), b, acc, PRECISION, UPCAST)
        a_at += BLOCK_T * grad_stride
        b_at += BLOCK_T * x_stride
    let_next_start(PDL)
    at = (which.to(tl.int64) * (GROUPS * N) + group * N + ns)[:, None] * K + ks[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=(ns < N)[:, None] & (ks < K)[None, :])


@triton.jit(do_not_specialize=["T", "part"])
def column_sums_kernel(
    x, out, T, columns, part,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sums of ``part`` rows each, a multiple of BLOCK_T, of x [T, columns]: out [parts, columns]."""
    wait_for_input(PDL)
    blocks = tl.cdiv(columns, BLOCK_N)
    which = tl.program_id(0) // blocks
    ns = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    for first in range(which * part, tl.minimum(T, (which + 1) * part), BLOCK_T):
        rows = first + tl.arange(0, BLOCK_T)
        at = rows.to(tl.int64)[:, None] * columns + ns[None, :]
        acc += tl.load(x + at, mask=(rows < T)[:, None] & (ns < columns)[None, :], other=0.0).to(tl.float32)
    let_next_start(PDL)
    total = tl.sum(acc, 0).to(out.dtype.element_ty)
    tl.store(out + which.to(tl.int64) * columns + ns, total, mask=ns < columns)


@triton.jit(do_not_specialize=["T", "part", "threshold", "scale"])
def norm_backward_kernel(
    grad, z, gamma, seed, dz, dropped, sums, T, part, eps, threshold, scale,
    C: tl.constexpr, SITE: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Backward of ``layer_norm(z)``, z [T, C], for ``part`` rows a program, and of the dropout in front of it.

    dz: the gradient of z; dropped (SITE not 0): that of what was dropped out before it was added to z; sums
    [3, programs, C] of these rows: the gradients of gamma and beta, and the sum of ``dropped`` (dz without dropout),
    which is that of the bias of the convolution in front.
    """
    wait_for_input(PDL)
    columns = tl.arange(0, BLOCK_C)
    inside = columns < C
    g = tl.load(gamma + columns, mask=inside, other=0.0).to(tl.float32)
    d_gamma = tl.zeros([ROWS, BLOCK_C], tl.float32)
    d_beta = tl.zeros([ROWS, BLOCK_C], tl.float32)
    d_bias = tl.zeros([ROWS, BLOCK_C], tl.float32)
    start = tl.program_id(0) * part
    for first in range(start, tl.minimum(T, start + part), ROWS):
        rows = first + tl.arange(0, ROWS)
        at = rows.to(tl.int64)[:, None] * C + columns[None, :]
        ok = (rows < T)[:, None] & inside[None, :]
        dy = tl.load(grad + at, mask=ok, other=0.0).to(tl.float32)
        x = tl.load(z + at, mask=ok, other=0.0).to(tl.float32)
        x = tl.where(inside[None, :], x - (tl.sum(x, 1) / C)[:, None], 0.0)
        rstd = tl.rsqrt(tl.sum(x * x, 1) / C + eps)[:, None]
        x *= rstd
        d_gamma += dy * x
        d_beta += dy
        dx = dy * g[None, :]
        dx = rstd * (dx - (tl.sum(dx, 1) / C)[:, None] - x * (tl.sum(dx * x, 1) / C)[:, None])
        tl.store(dz + at, dx.to(dz.dtype.element_ty), mask=ok)
        if SITE != 0:
            dx *= dropout_tile(tl.load(seed), rows, 0, threshold, scale, SITE, BLOCK_C, True)
            tl.store(dropped + at, dx.to(dz.dtype.element_ty), mask=ok)
        d_bias += dx
    let_next_start(PDL)
    at = sums + tl.program_id(0) * C + columns
    size = tl.num_programs(0) * C
    tl.store(at, tl.sum(d_gamma, 0), mask=inside)
    tl.store(at + size, tl.sum(d_beta, 0), mask=inside)
    tl.store(at + 2 * size, tl.sum(d_bias, 0), mask=inside)
