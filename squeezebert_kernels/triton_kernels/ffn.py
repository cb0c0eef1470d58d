"""The feed-forward network of one group as one Triton kernel: its hidden channels never leave the program."""

import triton
import triton.language as tl

from .device_functions import activate, dot, let_next_start, wait_for_input


@triton.constexpr_function
def chunk_width(channels, chunk, i):
    """Channels of chunk ``i``, a power of two: ``chunk``, of the last one what is left."""
    left = channels - i * chunk
    return chunk if left >= chunk else max(16, 1 << (left - 1).bit_length())


@triton.jit(do_not_specialize=["T"])
def ffn_kernel(
    h, up_weight, up_bias, down_weight, down_bias, out, T, h_stride,
    GROUPS: tl.constexpr, C: tl.constexpr, HIDDEN: tl.constexpr,
    HAS_UP_BIAS: tl.constexpr, HAS_DOWN_BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_H: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """``down(activation(up(h))) + h``; one program for each tile of rows and group.

    h and out [T, GROUPS*C], up_weight [GROUPS*HIDDEN, C], down_weight [GROUPS*C, HIDDEN]. C is walked in chunks, since
    the sizes of Triton's blocks are powers of two: 192 = 128 + 64.
    """
    wait_for_input(PDL)
    chunks: tl.constexpr = (C + CHUNK - 1) // CHUNK
    even: tl.constexpr = (chunks - 1) * CHUNK + chunk_width(C, CHUNK, chunks - 1) == C
    dtype = out.dtype.element_ty
    tile = tl.program_id(0) // GROUPS
    group = tl.program_id(0) % GROUPS
    rows = (tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    safe_rows = tl.minimum(rows, T - 1)
    hs = tl.arange(0, BLOCK_H)

    inputs = ()
    sums = ()
    for i in tl.static_range(chunks):
        columns = i * CHUNK + tl.arange(0, chunk_width(C, CHUNK, i))
        at = h + safe_rows[:, None] * h_stride + (group * C + columns)[None, :]
        if even:
            inputs = inputs + (tl.load(at),)
        else:
            inputs = inputs + (tl.load(at, mask=(columns < C)[None, :], other=0.0),)
        sums = sums + (tl.zeros([BLOCK_M, chunk_width(C, CHUNK, i)], tl.float32),)

    up_at = up_weight + (group * HIDDEN + hs)[None, :] * C
    down_at = down_weight + group * C * HIDDEN + hs[:, None]
    for j in range(0, HIDDEN, BLOCK_H):
        hidden = tl.zeros([BLOCK_M, BLOCK_H], tl.float32)
        for i in tl.static_range(chunks):
            up_cs = i * CHUNK + tl.arange(0, chunk_width(C, CHUNK, i))
            if even and HIDDEN % BLOCK_H == 0:
                w = tl.load(up_at + up_cs[:, None])
            else:
                w = tl.load(up_at + up_cs[:, None], mask=(up_cs < C)[:, None] & (hs < HIDDEN - j)[None, :], other=0.0)
            hidden = dot(inputs[i], w, hidden, PRECISION, UPCAST)
        if HAS_UP_BIAS:
            b = tl.load(up_bias + group * HIDDEN + j + hs, mask=hs < HIDDEN - j, other=0.0)
            hidden += b.to(tl.float32)[None, :]
        a = activate(hidden, ACTIVATION, dtype.primitive_bitwidth == 16).to(dtype)
        new = ()
        for i in tl.static_range(chunks):
            down_cs = i * CHUNK + tl.arange(0, chunk_width(C, CHUNK, i))
            down_w_at = down_at + down_cs[None, :] * HIDDEN
            if even and HIDDEN % BLOCK_H == 0:
                w2 = tl.load(down_w_at)
            else:
                w2 = tl.load(down_w_at, mask=(down_cs < C)[None, :] & (hs < HIDDEN - j)[:, None], other=0.0)
            new = new + (dot(a, w2, sums[i], PRECISION, UPCAST),)
        sums = new
        up_at += BLOCK_H * C
        down_at += BLOCK_H
    let_next_start(PDL)

    for i in tl.static_range(chunks):
        columns = i * CHUNK + tl.arange(0, chunk_width(C, CHUNK, i))
        channels = group * C + columns
        ok = (rows < T)[:, None] & (columns < C)[None, :]
        y = sums[i]
        if HAS_DOWN_BIAS:
            y += tl.load(down_bias + channels, mask=columns < C, other=0.0).to(tl.float32)[None, :]
        y += tl.load(h + rows[:, None] * h_stride + channels[None, :], mask=ok, other=0.0).to(tl.float32)
        tl.store(out + rows[:, None] * (GROUPS * C) + channels[None, :], y.to(dtype), mask=ok)
