"""Attention for training as Triton kernels: forward with dropout, and backward by recomputation (arXiv 2307.08691).

Probabilities are recomputed from q, k and lse. lse is the log-sum-exp of a row of scores: the logarithm of the sum of
exp(score) over all keys, so that exp(score - lse) is the probability. Each row is divided by its own sum anew: where a
mask of -1e9 or of the least number hides a whole row, lse has lost the logarithm of that sum to rounding. Everything is
in the natural logarithm for the same reason: a change of base would round lse by more than a probability can bear. If a
mask of -inf hides all keys from a query, its context and gradients are 0.
"""

import triton
import triton.language as tl

from .._native import DropoutSite
from .device_functions import dot, let_next_start, wait_for_input
from .dropout import dropout_tile

_SITE = tl.constexpr(int(DropoutSite.PROBABILITIES))


@triton.jit
def with_mask(s, mask, queries, keys, length, row_stride, column_stride, MASK: tl.constexpr):
    """Scores plus mask, -inf for keys beyond ``length``; of ``queries`` and ``keys`` one is a row, one a column.

    MASK: 0 none, 1 equal for all queries, 2 any.
    """
    inside = keys < length
    if MASK == 2:
        at = queries.to(tl.int64) * row_stride + keys.to(tl.int64) * column_stride
        s += tl.load(mask + at, mask=(queries < length) & inside, other=0.0).to(tl.float32)
    elif MASK == 1:
        s += tl.load(mask + keys.to(tl.int64) * column_stride, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, s, float("-inf"))


@triton.jit
def place_of(blocks, S, HEADS: tl.constexpr):
    """Head, block and sequence of a program; the first row of its sequence, and of its row of heads."""
    head = tl.program_id(0) % HEADS
    block = (tl.program_id(0) // HEADS) % blocks
    sequence = tl.program_id(0) // HEADS // blocks
    return head, block, sequence, sequence.to(tl.int64) * S, (sequence.to(tl.int64) * HEADS + head) * S


@triton.jit
def load_rows(x, first, rows, length, head, D: tl.constexpr, HEADS: tl.constexpr, BLOCK_D: tl.constexpr):
    """One head of rows of x [T, HEADS*D]; rows beyond the end repeat the last."""
    ds = tl.arange(0, BLOCK_D)
    at = (first + tl.minimum(rows, length - 1))[:, None] * (HEADS * D) + (head * D + ds)[None, :]
    if D == BLOCK_D:
        return tl.load(x + at)
    else:
        return tl.load(x + at, mask=(ds < D)[None, :], other=0.0)


@triton.jit
def store_rows(x, values, first, rows, length, head, D: tl.constexpr, HEADS: tl.constexpr, BLOCK_D: tl.constexpr):
    """The reverse."""
    ds = tl.arange(0, BLOCK_D)
    at = (first + rows)[:, None] * (HEADS * D) + (head * D + ds)[None, :]
    tl.store(x + at, values.to(x.dtype.element_ty), mask=(rows < length)[:, None] & (ds < D)[None, :])


@triton.jit(do_not_specialize=["threshold", "keep_scale"])
def training_flash_kernel(
    q, k, v, mask, seed, out, lse,
    S, blocks, scale, mask_batch_stride, mask_head_stride, mask_row_stride, mask_column_stride, threshold, keep_scale,
    HEADS: tl.constexpr, D: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Context of BLOCK_M queries of one head: q, k, v, out [T, HEADS*D]; and lse [B, HEADS, S]."""
    wait_for_input(PDL)
    head, block, sequence, first, first_row = place_of(blocks, S, HEADS)
    dtype = q.dtype.element_ty
    queries = block * BLOCK_M + tl.arange(0, BLOCK_M)
    qs = load_rows(q, first, queries, S, head, D, HEADS, BLOCK_D)
    mask += sequence.to(tl.int64) * mask_batch_stride + head.to(tl.int64) * mask_head_stride
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    context = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, S, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        ks = load_rows(k, first, keys, S, head, D, HEADS, BLOCK_D)
        vs = load_rows(v, first, keys, S, head, D, HEADS, BLOCK_D)
        s = dot(qs, tl.trans(ks), tl.zeros([BLOCK_M, BLOCK_N], tl.float32), PRECISION, UPCAST) * scale
        s = with_mask(s, mask, queries[:, None], keys[None, :], S, mask_row_stride, mask_column_stride, MASK)
        new = tl.maximum(highest, tl.max(s, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp(s - base[:, None])
        shrink = tl.exp(highest - base)
        total = total * shrink + tl.sum(p, 1)
        if DROPOUT:
            p *= dropout_tile(tl.load(seed), first_row + queries, start, threshold, keep_scale, _SITE, BLOCK_N, True)
        context = dot(p.to(dtype), vs, context * shrink[:, None], PRECISION, UPCAST)
        highest = new
    let_next_start(PDL)
    context = context / tl.where(total == 0.0, 1.0, total)[:, None]
    store_rows(out, context, first, queries, S, head, D, HEADS, BLOCK_D)
    logs = tl.where(total == 0.0, float("-inf"), highest + tl.log(total))
    tl.store(lse + first_row + queries, logs, mask=queries < S)


@triton.jit(do_not_specialize=["threshold", "keep_scale"])
def query_grad_kernel(
    q, k, v, grad, context, mask, seed, lse, dq, delta, inverse,
    S, blocks, scale, mask_batch_stride, mask_head_stride, mask_row_stride, mask_column_stride, threshold, keep_scale,
    HEADS: tl.constexpr, D: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradient of BLOCK_M queries of one head. For the kernel of the keys also, [B, HEADS, S]: delta, the sum of
    grad * context of a query, and what exp(score - lse) is to be multiplied by to be a probability."""
    wait_for_input(PDL)
    head, block, sequence, first, first_row = place_of(blocks, S, HEADS)
    dtype = q.dtype.element_ty
    queries = block * BLOCK_M + tl.arange(0, BLOCK_M)
    qs = load_rows(q, first, queries, S, head, D, HEADS, BLOCK_D)
    gs = load_rows(grad, first, queries, S, head, D, HEADS, BLOCK_D)
    d = tl.sum(gs.to(tl.float32) * load_rows(context, first, queries, S, head, D, HEADS, BLOCK_D).to(tl.float32), 1)
    base = tl.load(lse + first_row + queries, mask=queries < S, other=0.0)
    base = tl.where(base == float("-inf"), 0.0, base)
    mask += sequence.to(tl.int64) * mask_batch_stride + head.to(tl.int64) * mask_head_stride
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, S, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        ks = load_rows(k, first, keys, S, head, D, HEADS, BLOCK_D)
        vs = load_rows(v, first, keys, S, head, D, HEADS, BLOCK_D)
        zeros = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        s = dot(qs, tl.trans(ks), zeros, PRECISION, UPCAST) * scale
        s = with_mask(s, mask, queries[:, None], keys[None, :], S, mask_row_stride, mask_column_stride, MASK)
        p = tl.exp(s - base[:, None])
        total += tl.sum(p, 1)
        dp = dot(gs, tl.trans(vs), zeros, PRECISION, UPCAST)
        if DROPOUT:
            dp *= dropout_tile(tl.load(seed), first_row + queries, start, threshold, keep_scale, _SITE, BLOCK_N, True)
        acc = dot((p * (dp - d[:, None])).to(dtype), ks, acc, PRECISION, UPCAST)
    let_next_start(PDL)
    over = 1.0 / tl.where(total == 0.0, 1.0, total)
    store_rows(dq, acc * (over * scale)[:, None], first, queries, S, head, D, HEADS, BLOCK_D)
    tl.store(delta + first_row + queries, d, mask=queries < S)
    tl.store(inverse + first_row + queries, over, mask=queries < S)


@triton.jit(do_not_specialize=["threshold", "keep_scale"])
def key_value_grad_kernel(
    q, k, v, grad, mask, seed, lse, delta, inverse, dk, dv,
    S, blocks, scale, mask_batch_stride, mask_head_stride, mask_row_stride, mask_column_stride, threshold, keep_scale,
    HEADS: tl.constexpr, D: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients of BLOCK_N keys and values of one head; scores are transposed here, [BLOCK_N, BLOCK_M]."""
    wait_for_input(PDL)
    head, block, sequence, first, first_row = place_of(blocks, S, HEADS)
    dtype = q.dtype.element_ty
    keys = block * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = load_rows(k, first, keys, S, head, D, HEADS, BLOCK_D)
    vs = load_rows(v, first, keys, S, head, D, HEADS, BLOCK_D)
    mask += sequence.to(tl.int64) * mask_batch_stride + head.to(tl.int64) * mask_head_stride
    dk_acc = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv_acc = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, S, BLOCK_M):
        queries = start + tl.arange(0, BLOCK_M)
        inside = queries < S
        qs = load_rows(q, first, queries, S, head, D, HEADS, BLOCK_D)
        gs = load_rows(grad, first, queries, S, head, D, HEADS, BLOCK_D)
        base = tl.load(lse + first_row + queries, mask=inside, other=0.0)
        base = tl.where(base == float("-inf"), 0.0, base)
        over = tl.load(inverse + first_row + queries, mask=inside, other=0.0)
        d = tl.load(delta + first_row + queries, mask=inside, other=0.0)
        zeros = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        s = dot(ks, tl.trans(qs), zeros, PRECISION, UPCAST) * scale
        s = with_mask(s, mask, queries[None, :], keys[:, None], S, mask_row_stride, mask_column_stride, MASK)
        # Queries beyond the end repeat the last one; nothing of theirs may come in, not even an infinity.
        p = tl.where(inside[None, :], tl.exp(s - base[None, :]) * over[None, :], 0.0)
        dp = dot(vs, tl.trans(gs), zeros, PRECISION, UPCAST)
        if DROPOUT:
            factors = dropout_tile(
                tl.load(seed), first_row + queries, block * BLOCK_N, threshold, keep_scale, _SITE, BLOCK_N, True
            )
            factors = tl.trans(factors)
            dp *= factors
            dv_acc = dot((p * factors).to(dtype), gs, dv_acc, PRECISION, UPCAST)
        else:
            dv_acc = dot(p.to(dtype), gs, dv_acc, PRECISION, UPCAST)
        dk_acc = dot((p * (dp - d[None, :])).to(dtype), qs, dk_acc, PRECISION, UPCAST)
    let_next_start(PDL)
    store_rows(dk, dk_acc * scale, first, keys, S, head, D, HEADS, BLOCK_D)
    store_rows(dv, dv_acc, first, keys, S, head, D, HEADS, BLOCK_D)
