"""Functions that the kernels share, inlined into each: products, activations; and LayerNorm."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait_for_input(PDL: tl.constexpr):
    """With programmatic dependent launch (Hopper): waits for the end of the kernel before. Must come first."""
    if PDL:
        gdc_wait()


@triton.jit
def let_next_start(PDL: tl.constexpr):
    """Lets programs of the next kernel take multiprocessors that are free, and wait there: saves most of its launch. At
    the end of the long loop of a kernel: earlier, they would take the place of programs that have work to do."""
    if PDL:
        gdc_launch_dependents()


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """``acc + a b`` in float32."""
    if UPCAST:  # Triton's interpreter multiplies the bit patterns of bfloat16
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def gelu_for_half(x):
    """x Phi(x) with an error below 3.4e-4, a third of what float16 rounds off where it is largest (3.75).

    erf(t / sqrt 2) = t P(t^2), a polynomial that scripts/fit_polynomials.py fits: the error of the product is least,
    and it is 1 to a few ulp at 3.75, beyond which it stays. It takes two thirds of the instructions of erf and no
    special functions. FFN kernels are short of both: they compute one GELU for every 768 multiplications.
    """
    x = tl.maximum(x, -3.75, propagate_nan=tl.PropagateNan.ALL)  # whose GELU is that of all below, nearly 0
    t = tl.minimum(x, 3.75)
    s = t * t
    p = 6.882861214307923e-08 * s - 4.284037459001411e-06
    p = p * s + 0.00011560855637071654
    p = p * s - 0.001801901962608099
    p = p * s + 0.018310653045773506
    p = p * s - 0.1306699812412262
    p = p * s + 0.7967508435249329
    half = 0.5 * x
    return half + half * (p * t)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr, HALF: tl.constexpr):
    """``ACTIVATION(x)`` of float32 values; ``HALF`` if the result is rounded to float16 or bfloat16 next."""
    if ACTIVATION == "gelu":
        return gelu_for_half(x) if HALF else 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        return x / (1.0 + tl.exp((x + 0.044715 * x * x * x) * -1.5957691216057308))  # -2 sqrt(2 / pi)
    elif ACTIVATION == "relu":
        return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
        return x


@triton.jit(do_not_specialize=["T"])
def norm_kernel(
    z, gamma, beta, out, T, eps, C: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """LayerNorm of z [T, C], ROWS rows a program. It needs whole rows, of which the programs in front have parts."""
    wait_for_input(PDL)
    columns = tl.arange(0, BLOCK_C)
    inside = columns < C
    g = tl.load(gamma + columns, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(beta + columns, mask=inside, other=0.0).to(tl.float32)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = rows.to(tl.int64)[:, None] * C + columns[None, :]
    ok = (rows < T)[:, None] & inside[None, :]
    x = tl.load(z + at, mask=ok, other=0.0).to(tl.float32)
    let_next_start(PDL)
    mean = tl.sum(x, 1) / C
    d = tl.where(inside[None, :], x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(d * d, 1) / C + eps)
    tl.store(out + at, (d * rstd[:, None] * g[None, :] + b[None, :]).to(out.dtype.element_ty), mask=ok)
