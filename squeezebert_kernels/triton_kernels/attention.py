"""Self-attention as Triton kernels: with its projections where a sequence fits one program, flash-style otherwise.

If a mask of -inf hides all keys from a query, its context is 0.
"""

import triton
import triton.language as tl

from .device_functions import dot, let_next_start, wait_for_input

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def sequence_bounds(offsets, sequence, T, S, HAS_OFFSETS: tl.constexpr):
    """First row and number of rows of a sequence; of ``offsets`` that are no bounds, up to S rows within [0, T]."""
    if HAS_OFFSETS:
        first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), T)
        end = tl.minimum(tl.maximum(tl.load(offsets + sequence + 1), first), tl.minimum(first + S, T))
        return first, (end - first).to(tl.int32)
    else:
        return sequence.to(tl.int64) * S, S


@triton.jit
def in_log2(m, inside):
    """An additive mask times log2 e, finite where it was: what is least stays a number. -inf where not ``inside``."""
    m = m.to(tl.float32)
    scaled = tl.where(m == float("-inf"), m, tl.maximum(m * _LOG2E, -3.0e38))
    return tl.where(inside, scaled, float("-inf"))


@triton.jit
def scores_of(
    q, k, mask, rows, columns, length, scale, mask_row_stride, mask_column_stride,
    MASK: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, Q: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """``(q k^T * scale + mask) * log2 e`` [Q, KEYS], for exp2, -inf for keys beyond ``length``.

    One multiply-add for each score: without a mask of its own for each query, all else is done for a row of keys.
    MASK: 0 none, 1 equal rows, 2 any.
    """
    s = dot(q, tl.trans(k), tl.zeros([Q, KEYS], tl.float32), PRECISION, UPCAST)
    inside = columns < length
    if MASK == 2:
        at = rows.to(tl.int64)[:, None] * mask_row_stride + columns[None, :] * mask_column_stride
        m = tl.load(mask + at, mask=(rows < length)[:, None] & inside[None, :], other=0.0)
        return s * (scale * _LOG2E) + in_log2(m, inside[None, :])
    elif MASK == 1:
        m = tl.load(mask + columns * mask_column_stride, mask=inside, other=0.0)
        return s * (scale * _LOG2E) + in_log2(m, inside)[None, :]
    else:
        return s * (scale * _LOG2E) + tl.where(inside, 0.0, float("-inf"))[None, :]


@triton.jit
def load_k_slice(at, left, K: tl.constexpr, BLOCK_K: tl.constexpr, AXIS: tl.constexpr):
    """A tile of x or of a transposed weight, BLOCK_K of ``left`` channels along ``AXIS``."""
    if K % BLOCK_K == 0:
        return tl.load(at)
    else:
        return tl.load(at, mask=tl.expand_dims(tl.arange(0, BLOCK_K) < left, 1 - AXIS), other=0.0)


@triton.jit
def with_bias(projected, bias, channels, inside, HAS_BIAS: tl.constexpr):
    """A projection plus its bias."""
    if HAS_BIAS:
        projected += tl.load(bias + channels, mask=inside, other=0.0).to(tl.float32)[None, :]
    return projected


@triton.jit(do_not_specialize=["T"])
def attention_kernel(
    x, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, mask, offsets, out,
    T, S, x_stride, scale, mask_batch_stride, mask_head_stride, mask_row_stride, mask_column_stride,
    HEADS: tl.constexpr, D: tl.constexpr, HEADS_PER_GROUP: tl.constexpr, K: tl.constexpr,
    HAS_Q_BIAS: tl.constexpr, HAS_K_BIAS: tl.constexpr, HAS_V_BIAS: tl.constexpr,
    MASK: tl.constexpr, HAS_OFFSETS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Projections and attention of one head of one sequence of at most BLOCK_S tokens: one program.

    x [T, groups*K], weights [HEADS*D, K], out [T, HEADS*D]. q, k and v never leave the program: all keys and values are
    in its shared memory, and BLOCK_Q queries at a time, with all of their scores, in its registers. Fewer registers are
    more programs on a multiprocessor, which wait for memory and for the tensor cores in turns.
    """
    wait_for_input(PDL)
    head = tl.program_id(0) % HEADS
    sequence = tl.program_id(0) // HEADS
    first, length = sequence_bounds(offsets, sequence, T, S, HAS_OFFSETS)
    if length > 0:
        dtype = out.dtype.element_ty
        keys = tl.arange(0, BLOCK_S)
        ds = tl.arange(0, BLOCK_D)
        inside = ds < D
        ks = tl.arange(0, BLOCK_K)
        columns = (head // HEADS_PER_GROUP) * K + ks
        x_at = x + (first + tl.minimum(keys, length - 1))[:, None] * x_stride + columns[None, :]
        w_at = (head * D + tl.minimum(ds, D - 1))[None, :] * K + ks[:, None]
        k = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
        v = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
        for c in range(0, K, BLOCK_K):
            a = load_k_slice(x_at + c, K - c, K, BLOCK_K, 1)
            k = dot(a, load_k_slice(k_weight + w_at + c, K - c, K, BLOCK_K, 0), k, PRECISION, UPCAST)
            v = dot(a, load_k_slice(v_weight + w_at + c, K - c, K, BLOCK_K, 0), v, PRECISION, UPCAST)
        k = with_bias(k, k_bias, head * D + ds, inside, HAS_K_BIAS).to(dtype)
        v = with_bias(v, v_bias, head * D + ds, inside, HAS_V_BIAS).to(dtype)
        mask_at = mask + sequence.to(tl.int64) * mask_batch_stride + head.to(tl.int64) * mask_head_stride
        for start in range(0, length, BLOCK_Q):
            tokens = start + tl.arange(0, BLOCK_Q)
            q_at = x + (first + tl.minimum(tokens, length - 1))[:, None] * x_stride + columns[None, :]
            q = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
            for c in range(0, K, BLOCK_K):
                b = load_k_slice(q_at + c, K - c, K, BLOCK_K, 1)
                q = dot(b, load_k_slice(q_weight + w_at + c, K - c, K, BLOCK_K, 0), q, PRECISION, UPCAST)
            q = with_bias(q, q_bias, head * D + ds, inside, HAS_Q_BIAS)
            if D != BLOCK_D:
                q = tl.where(inside[None, :], q, 0.0)
            s = scores_of(
                q.to(dtype), k, mask_at, tokens, keys, length, scale, mask_row_stride, mask_column_stride,
                MASK, PRECISION, UPCAST, BLOCK_Q, BLOCK_S,
            )  # fmt: skip
            highest = tl.max(s, 1)
            p = tl.exp2(s - tl.where(highest == float("-inf"), 0.0, highest)[:, None])
            total = tl.sum(p, 1)
            context = dot(p.to(dtype), v, tl.zeros([BLOCK_Q, BLOCK_D], tl.float32), PRECISION, UPCAST)
            context = context / tl.where(total == 0.0, 1.0, total)[:, None]
            at = (first + tokens)[:, None] * (HEADS * D) + (head * D + ds)[None, :]
            tl.store(out + at, context.to(dtype), mask=(tokens < length)[:, None] & inside[None, :])
    let_next_start(PDL)


@triton.jit(do_not_specialize=["T"])
def flash_kernel(
    q, k, v, mask, offsets, out,
    T, S, blocks, scale, mask_batch_stride, mask_head_stride, mask_row_stride, mask_column_stride,
    HEADS: tl.constexpr, D: tl.constexpr, MASK: tl.constexpr, HAS_OFFSETS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_M queries of one head over all keys, with a running maximum (Dao et al., arXiv 2205.14135).

    q, k, v, out [T, HEADS*D]. Programs are (sequence, block of queries, head); those beyond the end of a sequence
    return at once.
    """
    wait_for_input(PDL)
    head = tl.program_id(0) % HEADS
    block = (tl.program_id(0) // HEADS) % blocks
    sequence = tl.program_id(0) // HEADS // blocks
    first, length = sequence_bounds(offsets, sequence, T, S, HAS_OFFSETS)
    if block * BLOCK_M < length:
        dtype = q.dtype.element_ty
        tokens = block * BLOCK_M + tl.arange(0, BLOCK_M)
        ds = tl.arange(0, BLOCK_D)
        inside = ds < D
        keys = tl.arange(0, BLOCK_N)
        at = (first + tl.minimum(tokens, length - 1))[:, None] * (HEADS * D) + (head * D + ds)[None, :]
        queries = tl.load(q + at, mask=inside[None, :], other=0.0)
        mask += sequence.to(tl.int64) * mask_batch_stride + head.to(tl.int64) * mask_head_stride
        highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        context = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for start in range(0, length, BLOCK_N):
            columns = start + keys
            kv_at = (first + tl.minimum(columns, length - 1))[:, None] * (HEADS * D) + (head * D + ds)[None, :]
            ks = tl.load(k + kv_at, mask=inside[None, :], other=0.0)
            vs = tl.load(v + kv_at, mask=inside[None, :], other=0.0)
            s = scores_of(
                queries, ks, mask, tokens, columns, length, scale, mask_row_stride, mask_column_stride,
                MASK, PRECISION, UPCAST, BLOCK_M, BLOCK_N,
            )  # fmt: skip
            new = tl.maximum(highest, tl.max(s, 1))
            base = tl.where(new == float("-inf"), 0.0, new)  # keys that a mask of -inf hides: no -inf - -inf
            p = tl.exp2(s - base[:, None])
            shrink = tl.exp2(highest - base)
            total = total * shrink + tl.sum(p, 1)
            context = dot(p.to(dtype), vs, context * shrink[:, None], PRECISION, UPCAST)
            highest = new
        let_next_start(PDL)
        context = context / tl.where(total == 0.0, 1.0, total)[:, None]
        at = (first + tokens)[:, None] * (HEADS * D) + (head * D + ds)[None, :]
        tl.store(out + at, context.to(out.dtype.element_ty), mask=(tokens < length)[:, None] & inside[None, :])
