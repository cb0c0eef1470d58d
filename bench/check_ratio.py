"""Holds kernels, and a run of ``squeezebert-kernels bench``, against the bars of this project. For a quiet machine.

    python bench/check_ratio.py                     kernels, as per cent of the peak measured in turns with them
    python bench/check_ratio.py --results FILE      end to end, from the JSON that the command wrote

Exit status 1 if a bar is missed. Every bar is a ratio of numbers taken in one run on one machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from squeezebert_kernels.benchmark import native
from squeezebert_kernels.ops.dtypes import DTYPES

# (ISA tier, dtype, case, least per cent of peak)
BARE = ("conv 128x192x768 g4", "conv 128x768x192 g4", "conv 128x768x768 g1")
KERNEL_BARS = [
    *(("avx512bf16", dtype, case, bar) for dtype, bar in (("fp32", 95), ("bf16", 94), ("int8", 92)) for case in BARE),
    *(
        ("avx512bf16", dtype, "conv 128x192x768 g4 bias gelu", bar)
        for dtype, bar in (("fp32", 88), ("bf16", 80), ("int8", 65))
    ),
    ("avx2", "fp32", "conv 128x192x768 g4", 85),
]


@dataclass(frozen=True)
class Bar:
    """``slow`` / ``fast`` is to be at least ``least``. ``slow`` may be several: the fastest of them counts."""

    shape: str
    slow: tuple[str, ...]
    fast: str
    least: float
    model: str = "squeezebert"


FP32_PEERS = ("eager-fp32", "compile-fp32", "bmm-fp32", "onnxruntime-fp32", "openvino-fp32")
BF16_PEERS = ("eager-bf16", "compile-bf16", "openvino-bf16")
INT8_PEERS = ("onnxruntime-int8",)
MINILM_FP32 = ("eager-fp32", "compile-fp32", "onnxruntime-fp32", "openvino-fp32")
RATIO_BARS = [
    Bar("1x128", FP32_PEERS, "ours-fp32", 1.65),
    Bar("8x128", FP32_PEERS, "ours-fp32", 1.5),
    Bar("1x384", FP32_PEERS, "ours-fp32", 1.5),
    *(Bar(shape, ("openvino-bf16",), "ours-bf16", 1.6) for shape in ("1x128", "8x128", "1x384")),
    Bar("1x128", ("onnxruntime-fp32",), "ours-int8", 4.8),
    Bar("1x128", ("openvino-bf16",), "ours-int8", 2.5),
    Bar("1x32", FP32_PEERS, "ours-fp32", 1.5),
    Bar("1x32", BF16_PEERS, "ours-bf16", 1.5),
    Bar("1x32", INT8_PEERS, "ours-int8", 1.5),
    *(Bar("1x128", ("bert-base-fp32",), f"ours-{d}", bar) for d, bar in (("fp32", 8), ("bf16", 14), ("int8", 22))),
    Bar("1x128", ("eager-fp16",), "ours-fp32", 80),
    *(Bar(shape, MINILM_FP32, "ours-fp32", 1.0, "minilm") for shape in ("1x128", "8x128")),
    *(Bar(shape, BF16_PEERS, "ours-bf16", 1.0, "minilm") for shape in ("1x128", "8x128")),
]
FLOOR_BARS = {"1x128": 87.0, "8x128": 87.0, "1x384": 87.0}  # ours-fp32-encoder, per cent of the floor
AROUND_ENCODER = 5.0  # per cent of ours-fp32 at 1x128 that embeddings, mask and pooler may take
RAGGED = 15.0  # per cent by which a ragged batch may cost more than its real tokens' share of 32x128


def check_kernels(rounds: int) -> tuple[int, int]:
    """(bars met, bars missed)."""
    met = missed = 0
    here = {case.isa for case in native.cases()}
    for isa, dtype, name, bar in KERNEL_BARS:
        if isa not in here:
            print(f"NOT CHECKED  {isa} {dtype} {name}: this machine has no {isa}")
            continue
        with native.Kernel(native.Case(isa, DTYPES[dtype], name)) as kernel:
            calls = max(1, round(3e-3 / kernel.run(1)))
            shares = []
            for _ in range(rounds):
                peak = native.peak(isa, dtype)
                shares.append(100 * kernel.flops * calls / kernel.run(calls) / peak)
        share, good = statistics.median(shares), statistics.median(shares) >= bar
        low, _, high = statistics.quantiles(shares, n=4)
        print(
            f"{'met   ' if good else 'MISSED'}  {isa} {dtype} {name}: {share:.1f} % ({low:.1f}-{high:.1f}), bar {bar} %"
        )
        met, missed = met + good, missed + (not good)
    return met, missed


def check_results(data: dict[str, Any]) -> tuple[int, int]:
    """(bars met, bars missed) of a run's JSON document."""
    found = {
        (r["threads"], r["model"], r["shape"], r["contestant"]): r
        for r in data["results"]
        if r["status"] == "ok" and r["median_ms"] is not None
    }
    outcome = [0, 0]

    def judge(text: str, value: float | None, bar: float, least: bool = True) -> None:
        if value is None:
            print(f"NOT CHECKED  {text}: not in these results")
            return
        good = value >= bar if least else value <= bar
        outcome[not good] += 1
        print(f"{'met   ' if good else 'MISSED'}  {text}: {value:.2f}, bar {'>=' if least else '<='} {bar}")

    for threads in data["settings"]["threads"]:

        def get(
            shape: str, contestant: str, field: str = "median_ms", model: str = "squeezebert", n: int = threads
        ) -> Any:
            return found.get((n, model, shape, contestant), {}).get(field)

        for bar in RATIO_BARS:
            fast = get(bar.shape, bar.fast, model=bar.model)
            slow = {c: get(bar.shape, c, model=bar.model) for c in bar.slow}
            times = {c: t for c, t in slow.items() if t is not None}
            best = min(times, key=lambda c: times[c], default=None)
            ratio = times[best] / fast if best and fast else None
            text = f"threads {threads}, {bar.model} {bar.shape}: {best or ' or '.join(bar.slow)} / {bar.fast}"
            judge(text, ratio, bar.least)
        for shape, least in FLOOR_BARS.items():
            share = get(shape, "ours-fp32-encoder", "percent_of_floor")
            judge(f"threads {threads}, squeezebert {shape}: ours-fp32-encoder, per cent of floor", share, least)
        whole, encoder = get("1x128", "ours-fp32"), get("1x128", "ours-fp32-encoder")
        around = 100 * (whole - encoder) / whole if whole and encoder else None
        judge(f"threads {threads}, squeezebert 1x128: per cent around the encoder", around, AROUND_ENCODER, least=False)
        ragged, rectangle = get("ragged", "ours-fp32-unpadded"), get("32x128", "ours-fp32")
        lengths = data["settings"]["shapes"].get("ragged")
        excess = None
        if ragged and rectangle and lengths:
            excess = 100 * (ragged / rectangle / (sum(lengths) / (32 * 128)) - 1)
        judge(
            f"threads {threads}, squeezebert ragged: per cent over the share of real tokens",
            excess,
            RAGGED,
            least=False,
        )
    return outcome[0], outcome[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Holds measurements against the bars of this project.")
    parser.add_argument("--results", metavar="FILE", type=Path, help="JSON of squeezebert-kernels bench")
    parser.add_argument("--rounds", metavar="N", type=int, default=25, help="of each kernel (default: 25)")
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {args.rounds}")
    try:
        if args.results is not None:
            met, missed = check_results(json.loads(args.results.read_text(encoding="utf-8")))
        else:
            met, missed = check_kernels(args.rounds)
    except (OSError, ValueError, KeyError) as error:
        print(f"check_ratio: error: {args.results}: {error}", file=sys.stderr)
        return 2
    except native.Unavailable as error:
        print(f"check_ratio: error: {error}", file=sys.stderr)
        return 2
    print(f"{met} bars met, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
