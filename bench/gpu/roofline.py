"""A prediction of one SqueezeBERT layer on a GPU from bytes, FLOPs and launches, held against the H100.

    python bench/gpu/roofline.py [--markdown]

A prediction is not a measurement. A kernel takes a launch gap and the slowest of `terms`, and what runs alone besides:
fp32 where one program fills an SM, the last program of a row tile. `Assumptions` come from measurements on an H100, so
agreement there is partly by construction; the other GPUs are extrapolated. It says of the shapes below
(tests/bench/test_gpu_roofline.py asserts every figure):

- On the H100 it is within 10 % of a shipped layer as measured, 25 % of each kernel and of what was tried. L2 at the
  assumed 4.8 TB/s bounds the kernels of 8192 tokens, but the post conv exceeds it: 27 us, not the 31 predicted.
- Stock PyTorch (21 launches) takes 1.2 to 3.0 times as long as what is shipped (5 to 7), both in a CUDA graph.
- Two kernels (monolithic) take 2.0 to 2.7 times as long up to 128 tokens, where at most 8 programs each pull 3.5 MB of
  weights through one SM; beyond, 1.1 to 1.8 times on H100 and H200, but 0.88 to 1.7 times on A100 and laptop.
- LayerNorm by the last program of a row tile takes 1.04 to 1.5 times as long on H100 and H200, 0.9 to 1.35 elsewhere.
- Hidden values in registers, against two kernels for the feed-forward network, on H100 and H200: 0.58 of the time from
  8192 tokens on, 0.93 at 1024, 1.1 to 1.2 times up to 384. On A100 and laptop they gain 6 % at most and cost up to 42.
- Attention in one kernel takes 0.55 to 0.65 of two kernels' time on H100 and H200 from 1024 tokens (of 128 each) on,
  but 1.0 to 2.0 times at 1x128, where 12 programs leave most SMs idle.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import partial
from math import ceil

LAYERS, WIDTH, GROUPS, HIDDEN, HEADS = 12, 768, 4, 3072, 12
GROUP, HEAD, UP = WIDTH // GROUPS, WIDTH // HEADS, HIDDEN // GROUPS  # 192 channels, 64 of a head, 768 hidden of a group
SIZE = 2  # bytes of bf16
QKV_WEIGHTS, POST_WEIGHTS, FFN_WEIGHTS = 3 * WIDTH * GROUP * SIZE, WIDTH * WIDTH * SIZE, 2 * HIDDEN * GROUP * SIZE
SHAPES = ((1, 32), (1, 128), (1, 384), (8, 128), (64, 128), (256, 128), (64, 384))
ROWS, COLUMNS, STEP = (16, 32, 64, 128), (32, 64, 128, 256), 64  # tiles tried (the fastest counts); channels at a time
FEW_TOKENS = 256  # up to which "shipped" has two kernels for the feed-forward network
GELU, SOFTMAX, NORM = 13, 8, 10  # fp32 instructions of an element
DETAILED = ((1, 128), (64, 128))  # shapes whose kernels are printed


@dataclass(frozen=True)
class Gpu:
    """Dense bf16 with fp32 sums, boost clock, memory, SMs and shared memory: NVIDIA's data sheets and white papers.

    Estimates: `l2_gbs`, what our kernels reach, all in; `small`, the share of the peak that tiles below 64 rows get, as
    Hopper's fast instruction (wgmma) needs 64. On the H100 attention (160 MB) and the feed-forward network (302 MB of
    weights at 64 tokens a program) were measured at 4800 GB/s: half of 5120 bytes a clock, as here for the A100.
    """

    name: str
    tflops: float
    hbm_gbs: float
    l2_gbs: float
    l2_mib: float
    sms: int
    shared_kib: int  # of an SM
    clock: float  # GHz
    small: float = 1.0


GPUS = (
    Gpu("A100-SXM 80GB", 312, 2039, 3700, 40, 108, 164, 1.41),
    Gpu("H100-SXM", 989.4, 3350, 4800, 50, 132, 228, 1.83, 0.6),
    Gpu("H200-SXM", 989.4, 4800, 4800, 50, 132, 228, 1.83, 0.6),
    # At 115 W and 2.175 GHz: NVIDIA's 321 "AI TOPS" are sparse int8, an eighth of which is dense bf16.
    Gpu("RTX 4070 Laptop", 40.1, 256, 1400, 32, 36, 100, 2.175),
)
MEASURED_ON = GPUS[1]


@dataclass
class Assumptions:
    fraction: float = 0.65  # of the tensor cores' peak that a full wave reaches; torch.mm of the post conv: 0.66
    memory: float = 0.85  # of the data sheet's bandwidth that is reached; LayerNorm of 256x128: 0.84
    gap: float = 1.8  # us of a dependent kernel of a CUDA graph; LayerNorm of 1x32 takes 1.9 in all
    step: float = 0.2  # us for STEP channels where nothing hides latency; fitted to the post conv of 1x128
    alone: float = (
        20.0  # GB/s of the last program of a row tile, which waits for memory; fitted to "last program" at 64x128
    )


@dataclass(frozen=True)
class Kernel:
    """What all programs of a kernel do together, but for `bytes_per_program`, `tail_bytes` and `rows` (of a tile)."""

    name: str
    flops: float
    hbm_bytes: float
    programs: int
    bytes_per_program: float
    fp32_ops: float = 0
    exps: float = 0
    tail_bytes: float = 0  # moved by the last program of a row tile alone
    tails: int = 0  # row tiles: an SM whose program is such a last one does nothing else
    rows: int = 128
    steps: float = 0  # of STEP channels that a program takes one after the other
    serial: bool = False  # one program fills an SM with its registers: nothing runs while it does fp32


def terms(gpu: Gpu, kernel: Kernel, a: Assumptions) -> dict[str, float]:
    """Microseconds of each resource, of which the slowest counts."""
    waves = ceil(kernel.programs / gpu.sms)
    uneven = waves * gpu.sms / kernel.programs  # the inverse of the wave-quantization efficiency
    peak = gpu.tflops * a.fraction * (gpu.small if kernel.rows < 64 else 1)
    return {
        "tensor": kernel.flops / peak / 1e6 * uneven,
        "fp32": kernel.fp32_ops / (gpu.sms * 128 * gpu.clock) / 1e3 * uneven,
        "exp": kernel.exps / (gpu.sms * 16 * gpu.clock) / 1e3 * uneven,
        "HBM": kernel.hbm_bytes / gpu.hbm_gbs / a.memory / 1e3,
        "L2": (kernel.programs * kernel.bytes_per_program + kernel.tails * kernel.tail_bytes) / gpu.l2_gbs / 1e3,
        "L2 to SM": waves * kernel.bytes_per_program / (64 * gpu.clock) / 1e3,
        "latency": kernel.steps * a.step,
    }


def time(gpu: Gpu, kernel: Kernel, a: Assumptions) -> float:
    """Microseconds of a kernel in a CUDA graph."""
    tail = kernel.tail_bytes / a.alone / 1e3 * max(1, kernel.tails / gpu.sms)
    parts = terms(gpu, kernel, a)
    after = parts.pop("fp32") if kernel.serial else 0
    return a.gap + max(parts.values()) + after + tail


def total(gpu: Gpu, kernels: list[Kernel], a: Assumptions) -> float:
    """Microseconds of a layer in a CUDA graph."""
    return sum(time(gpu, kernel, a) for kernel in kernels)


def flops_per_token(length: int) -> int:
    return 3 * WIDTH * GROUP * 2 + WIDTH * WIDTH * 2 + 2 * HIDDEN * GROUP * 2 + 2 * 2 * length * WIDTH


def floor(gpu: Gpu, batch: int, length: int) -> float:
    """Microseconds below which no design gets: FLOPs at the full peak; weights once from memory."""
    compute = batch * length * flops_per_token(length) / gpu.tflops / 1e6
    return max(compute, (QKV_WEIGHTS + POST_WEIGHTS + FFN_WEIGHTS) / gpu.hbm_gbs / 1e3)


def misses(gpu: Gpu, *tensors: float) -> float:
    """Bytes of the activations that do not stay in L2, which a tensor shares with what is written meanwhile."""
    return sum(tensor for tensor in tensors if tensor > gpu.l2_mib * 2**20 / 2)


def fastest(gpu: Gpu, kernels: Iterable[Kernel], a: Assumptions) -> Kernel:
    return min(kernels, key=lambda kernel: time(gpu, kernel, a))


def elementwise(gpu: Gpu, name: str, tensors: list[float], fp32_ops: float = 0, exps: float = 0) -> Kernel:
    """Reads or writes each of `tensors` (bytes) once."""
    programs = ceil(sum(tensors) / 2**14)
    return Kernel(name, 0, misses(gpu, *tensors), programs, sum(tensors) / programs, fp32_ops, exps=exps)


def matmul(
    gpu: Gpu, a: Assumptions, name: str, count: int, m: int, n: int, k: int, weights: bool = True, then: str = ""
) -> Kernel:
    """`count` products, m x k by k x n. Then "gelu"; "residual"; "norm": residual, LayerNorm by the last program of a
    row; or "library": everything is read once, as cuBLAS shares loads between SMs."""
    x, w, y = count * m * k * SIZE, count * k * n * SIZE, count * m * n * SIZE
    outputs = {"residual": 2, "norm": 4}.get(then, 1)  # residual; sums read again, normalized written
    hbm = misses(gpu, x, *[y] * outputs) + (w if weights else misses(gpu, w))
    gelu, shared = GELU * count * m * n * (then == "gelu"), then == "library"

    def tile(bm: int, bn: int) -> Kernel:
        tails = ceil(m / bm)
        programs, tail = count * tails * n // bn, 2 * bm * count * n * SIZE * (then == "norm")
        each = (x + w + y) / programs if shared else ((bm + bn) * k + bm * bn * min(outputs, 2)) * SIZE
        args = 2 * programs * bm * bn * k, hbm, programs, each, gelu
        return Kernel(f"{name} {bm}x{bn}", *args, tail_bytes=tail, tails=tails, rows=bm, steps=k / STEP)

    return fastest(gpu, (tile(bm, bn) for bm in ROWS for bn in COLUMNS if n % bn == 0), a)


def unfused(gpu: Gpu, batch: int, length: int, a: Assumptions) -> list[Kernel]:
    """Stock PyTorch. In its favour: products as fast as torch.mm, biases for free, transposes at full bandwidth."""
    mm, tokens = partial(matmul, gpu, a, then="library"), batch * length
    x, scores, hidden = tokens * WIDTH * SIZE, batch * HEADS * length * length * SIZE, tokens * HIDDEN * SIZE
    n, copies = scores // SIZE, [elementwise(gpu, name, [x, x]) for name in ("permute", "permute back")]
    norm = [elementwise(gpu, "residual", [x] * 3), elementwise(gpu, "LayerNorm", [x] * 2, NORM * x / SIZE), *copies]
    return [
        *(mm(name, GROUPS, tokens, GROUP, GROUP) for name in ("query", "key", "value")),
        mm("scores", batch * HEADS, length, length, HEAD, weights=False),
        *(elementwise(gpu, name, [scores, scores]) for name in ("scale", "mask")),
        elementwise(gpu, "softmax", [scores, scores], SOFTMAX * n, n),
        mm("context", batch * HEADS, length, HEAD, length, weights=False),
        elementwise(gpu, "transpose", [x, x]),
        mm("post", 1, tokens, WIDTH, WIDTH),
        *norm,
        mm("up", GROUPS, tokens, UP, GROUP),
        elementwise(gpu, "GELU", [hidden, hidden], GELU * tokens * HIDDEN),
        mm("down", GROUPS, tokens, GROUP, UP),
        *norm,
    ]


def projected(gpu: Gpu, batch: int, length: int, a: Assumptions) -> list[Kernel]:
    """Attention in two kernels: q, k and v, then a flash kernel of query tiles."""
    x, heads, exps = batch * length * WIDTH * SIZE, batch * HEADS, batch * HEADS * length * length

    def flash(bm: int) -> Kernel:
        programs, each = heads * ceil(length / bm), 2 * (bm + length) * HEAD * SIZE
        args = 4 * programs * bm * length * HEAD, misses(gpu, 3 * x, x), programs, each
        return Kernel(f"flash {bm}", *args, SOFTMAX * exps, exps=exps, rows=bm, steps=2 * length / STEP)

    qkv = matmul(gpu, a, "qkv", GROUPS, batch * length, 3 * GROUP, GROUP)
    return [qkv, fastest(gpu, map(flash, ROWS), a)]


def attention(gpu: Gpu, batch: int, length: int, a: Assumptions) -> list[Kernel]:
    """One program a sequence and head, up to 128 tokens; beyond, two kernels."""
    if length > 128:
        return projected(gpu, batch, length, a)
    x, programs, exps = batch * length * WIDTH * SIZE, batch * HEADS, batch * HEADS * length * length
    blocks = ceil(length / 64)  # of 64 queries, each of which reads its part of x again, and the weights
    each = (2 * length * GROUP + (2 + blocks) * GROUP * HEAD + length * HEAD) * SIZE
    steps = GROUP / STEP * (1 + blocks) + blocks * 2 * length / STEP
    args = programs * length * HEAD * (6 * GROUP + 4 * length), QKV_WEIGHTS + misses(gpu, x, x), programs, each
    return [Kernel("attention", *args, SOFTMAX * exps, exps=exps, rows=min(length, 64), steps=steps)]


def ffn(gpu: Gpu, tokens: int, a: Assumptions, norm: bool = False) -> Kernel:
    """A program per token tile and group, whose hidden values stay in registers; `norm` by the last of a row tile."""
    x, fp32 = tokens * WIDTH * SIZE, GELU * tokens * HIDDEN
    hbm = FFN_WEIGHTS + misses(gpu, *[x] * (5 if norm else 3))

    def tile(bm: int) -> Kernel:
        tails, tail = ceil(tokens / bm), bm * WIDTH * SIZE * 2 * norm
        programs, each = tails * GROUPS, 3 * bm * GROUP * SIZE + FFN_WEIGHTS / GROUPS  # input, residual, output
        args = tails * bm * HIDDEN * GROUP * 4, hbm, programs, each, fp32, 0, tail, tails
        return Kernel(f"FFN {bm}", *args, rows=bm, steps=2 * UP / STEP, serial=True)

    return fastest(gpu, map(tile, ROWS), a)


def two_step_ffn(gpu: Gpu, tokens: int, a: Assumptions) -> list[Kernel]:
    up = matmul(gpu, a, "up", GROUPS, tokens, UP, GROUP, then="gelu")
    return [up, matmul(gpu, a, "down", GROUPS, tokens, GROUP, UP, then="residual")]


def shipped(gpu: Gpu, batch: int, length: int, a: Assumptions) -> list[Kernel]:
    """What squeezebert_kernels launches: five kernels, of few tokens up to seven."""
    tokens, x = batch * length, batch * length * WIDTH * SIZE
    norm = elementwise(gpu, "LayerNorm", [x, x], NORM * tokens * WIDTH)
    start = projected if 2 * batch * HEADS < gpu.sms else attention
    end = two_step_ffn(gpu, tokens, a) if tokens <= FEW_TOKENS else [ffn(gpu, tokens, a)]
    post = matmul(gpu, a, "post", 1, tokens, WIDTH, WIDTH, then="residual")
    return [*start(gpu, batch, length, a), post, norm, *end, norm]


def last_program(gpu: Gpu, batch: int, length: int, a: Assumptions) -> list[Kernel]:
    """Tried: three kernels, of which the last program of a row tile also does the LayerNorm."""
    post = matmul(gpu, a, "post", 1, batch * length, WIDTH, WIDTH, then="norm")
    return [*attention(gpu, batch, length, a), post, ffn(gpu, batch * length, a, norm=True)]


def monolithic(gpu: Gpu, batch: int, length: int, a: Assumptions) -> list[Kernel]:
    """Attention, and one program per token tile for all the rest: every tile reads all weights."""
    tokens, x = batch * length, batch * length * WIDTH * SIZE
    hbm = POST_WEIGHTS + FFN_WEIGHTS + misses(gpu, x, x, x)

    def tile(bm: int) -> Kernel:
        programs, each = ceil(tokens / bm), POST_WEIGHTS + FFN_WEIGHTS + 3 * bm * WIDTH * SIZE
        flops = programs * bm * 2 * (WIDTH * WIDTH + 2 * HIDDEN * GROUP)
        args = flops, hbm, programs, each, tokens * (GELU * HIDDEN + 2 * NORM * WIDTH)
        return Kernel(f"post and FFN {bm}", *args, rows=bm, steps=(WIDTH + 2 * HIDDEN) / STEP, serial=True)

    # LayerNorm needs whole rows: fp32 sums and the next step's bf16 input, in registers (256 KiB) and shared memory.
    fits = [bm for bm in ROWS if bm * WIDTH * (4 + SIZE) <= (256 + gpu.shared_kib) * 1024]
    return [*attention(gpu, batch, length, a), fastest(gpu, map(tile, fits), a)]


DESIGNS = {"unfused": unfused, "two kernels": monolithic, "last program": last_program, "shipped": shipped}
PARTS = {"attention": "attention qkv flash", "post": "post", "FFN": "FFN up down", "a LayerNorm": "LayerNorm"}

# Microseconds of a call in a CUDA graph: H100 80GB HBM3, bf16, torch 2.11, Triton 3.6; "unfused" is torch.mm. The
# feed-forward network of 64x128 took 42 to 50 without GELU. Tried, not modelled: LayerNorm by the next kernel while it
# loads, three kernels, 138 at 64x128 (attention 46.5, post 38.5, FFN 61.6) and 27.7 at 1x128.
MEASURED: dict[tuple[str, tuple[int, int]], dict[str, float]] = {
    ("shipped", (64, 128)): {"layer": 121, "attention": 32.1, "post": 26.9, "FFN": 52.2, "a LayerNorm": 6.6},
    ("shipped", (1, 128)): {"layer": 21.8, "attention": 6.5, "post": 4.5, "FFN": 8.0, "a LayerNorm": 2.0},
    ("shipped", (256, 128)): {"a LayerNorm": 35.6},
    ("last program", (64, 128)): {"layer": 165, "attention": 35.6, "post": 44.8, "FFN": 81.4},
    ("last program", (1, 128)): {"layer": 28.6},
    ("unfused", (64, 128)): {"post": 16.3},
}


def compared(a: Assumptions) -> dict[tuple[str, tuple[int, int]], dict[str, tuple[float, float]]]:
    """What MEASURED holds, each predicted and measured."""
    found = {}
    for (design, shape), measured in MEASURED.items():
        kernels = DESIGNS[design](MEASURED_ON, *shape, a)
        predicted = {"layer": total(MEASURED_ON, kernels, a)}
        for part, names in PARTS.items():
            these = [kernel for kernel in kernels if kernel.name.split()[0] in names.split()]
            predicted[part] = total(MEASURED_ON, these, a) / (2 if part == "a LayerNorm" else 1)
        found[design, shape] = {part: (predicted[part], us) for part, us in measured.items()}
    return found


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join([f"{title}:", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def predictions(a: Assumptions) -> str:
    def cell(gpu: Gpu, shape: tuple[int, int]) -> str:
        return " / ".join(f"{LAYERS * total(gpu, design(gpu, *shape, a), a):.0f}" for design in DESIGNS.values())

    rows = [["{}x{}".format(*shape), *(cell(gpu, shape) for gpu in GPUS)] for shape in SHAPES]
    title = f"Predicted, not measured: us of 12 layers in a CUDA graph, bf16, {' / '.join(DESIGNS)}"
    return table(title, ["predicted us", *(gpu.name for gpu in GPUS)], rows)


def comparison(a: Assumptions) -> str:
    rows, columns = [], ["layer", *PARTS]
    for (design, (batch, length)), pairs in compared(a).items():
        cells = ["{:.1f} / {:.1f}".format(*pairs[part]) if part in pairs else "" for part in columns]
        rows.append([f"{design}, {batch}x{length}", *cells])
    title = "Model against measurement, us of one layer in a CUDA graph, H100 80GB HBM3, bf16, torch 2.11, Triton 3.6"
    return table(title, ["predicted / measured us", *columns], rows)


def details(a: Assumptions, shape: tuple[int, int]) -> str:
    rows = []
    for name, design in DESIGNS.items():
        for kernel in design(MEASURED_ON, *shape, a):
            parts, us = terms(MEASURED_ON, kernel, a), f"{time(MEASURED_ON, kernel, a):.1f}"
            rows.append([f"{name}: {kernel.name}", us, max(parts, key=lambda part: parts[part]), str(kernel.programs)])
    title = "Predicted us of each kernel, {}, {}x{}".format(MEASURED_ON.name, *shape)
    return table(title, ["kernel, tile", "predicted us", "bound by", "programs"], rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Microseconds of a SqueezeBERT layer on GPUs: a prediction.")
    parser.add_argument("--markdown", action="store_true", help="only the tables for the documentation")
    for field in fields(Assumptions):
        parser.add_argument(f"--{field.name}", type=float, default=field.default, metavar="X")
    args = parser.parse_args(argv)
    a = Assumptions(**{field.name: getattr(args, field.name) for field in fields(Assumptions)})
    print(predictions(a), comparison(a), sep="\n", end="")
    if not args.markdown:
        print("\nAssumed:", ", ".join(f"{k} {v:g}" for k, v in asdict(a).items()), end="\n\n")
        print(*(details(a, shape) for shape in DETAILED), sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
