"""Inverted dropout by counters: a factor depends on seed, site, row and column, never on blocks or launches.

Philox 4x32-10 with the 64-bit seed as its key and (column // 4, row, row >> 32, site) as its counter gives the random
numbers of four neighbouring columns. So backward draws what forward drew, and no two elements of a call share a
number: rows have 64 bits, columns 32. The seed is read from its tensor, so that a CUDA graph replays with a new one.
"""

import triton
import triton.language as tl

from .device_functions import wait_for_input


@triton.jit
def dropout_tile(
    seed, rows, first, threshold, scale, SITE: tl.constexpr, WIDTH: tl.constexpr, BY_FOUR: tl.constexpr
):  # fmt: skip
    """Factors 0 or ``scale``, float32 [rows, WIDTH], of columns from ``first``; BY_FOUR where 4 divides ``first``.

    ``threshold`` - (-2^31) of 2^32 numbers drop an element.
    """
    rows = rows.to(tl.int64)
    low = (rows & 0xFFFFFFFF).to(tl.uint32)[:, None]
    high = (rows >> 32).to(tl.uint32)[:, None]
    if BY_FOUR:
        counters = first // 4 + tl.arange(0, WIDTH // 4)
    else:
        counters = (first + tl.arange(0, WIDTH)) // 4
    zeros = tl.zeros([rows.shape[0], counters.shape[0]], tl.uint32)
    r0, r1, r2, r3 = tl.philox(seed, zeros + counters.to(tl.uint32)[None, :], zeros + low, zeros + high, zeros + SITE)
    if BY_FOUR:
        k0 = (r0.to(tl.int32, bitcast=True) >= threshold).to(tl.int8)
        k1 = (r1.to(tl.int32, bitcast=True) >= threshold).to(tl.int8)
        k2 = (r2.to(tl.int32, bitcast=True) >= threshold).to(tl.int8)
        k3 = (r3.to(tl.int32, bitcast=True) >= threshold).to(tl.int8)
        kept = tl.join(tl.join(k0, k2), tl.join(k1, k3)).reshape(rows.shape[0], WIDTH) != 0
    else:
        which = ((first + tl.arange(0, WIDTH)) % 4)[None, :]
        r = tl.where(which < 2, tl.where(which == 0, r0, r1), tl.where(which == 2, r2, r3))
        kept = r.to(tl.int32, bitcast=True) >= threshold
    return tl.where(kept, scale, 0.0)


@triton.jit(do_not_specialize=["rows", "threshold", "scale"])
def dropout_kernel(
    seed, out, rows, columns, threshold, scale,
    SITE: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The factors themselves, out [rows, columns]."""
    wait_for_input(PDL)
    blocks = tl.cdiv(columns, BLOCK_N)
    row = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = (tl.program_id(0) % blocks) * BLOCK_N
    factors = dropout_tile(tl.load(seed), row, first, threshold, scale, SITE, BLOCK_N, True)
    column = first + tl.arange(0, BLOCK_N)
    at = row[:, None] * columns + column[None, :]
    tl.store(out + at, factors, mask=(row < rows)[:, None] & (column < columns)[None, :])
