"""The GPU suite: is it right, how fast is it, and how fast are others, in a few minutes.

    python bench/gpu/run.py [--output DIR] [--minutes 8] [--shapes 1x128,64x128] [--dtypes bf16,fp16] [--only SUBSTRING]
    python bench/gpu/plots.py DIR/results.json DIR

Writes DIR/results.json after every measurement, prints tables at the end. Exit status 1 if one of our results is wrong
(not if a rival is faster), 2 for bad arguments. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import correctness
import micro
import torch
from contestants import SHAPES, SMOKE_SHAPES, Models, shape_named
from models import ModelBench, configure
from results import Budget, DeviceLost, Results, Run, reason_of
from summary import bars, print_summary
from timing import peaks

from squeezebert_kernels import machine
from squeezebert_kernels.benchmark.workload import Shape
from squeezebert_kernels.console import quiet_transformers
from squeezebert_kernels.ops.dtypes import FLOATING

CORRECTNESS_SHARE = 0.25  # of the time, at first: the kernels of every case are compiled; the rest follows at the end
THOROUGH_MINUTES = 30  # enough to autotune every shape
PRIMARY = 2  # shapes that come first, with all contestants
MICRO_DTYPE = "bf16"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Correctness and speed of the kernels on a GPU.")
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("OUT", "build/bench-gpu")), metavar="DIR",
                        help="for results.json; default: $OUT, or build/bench-gpu")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=8, help="to spend; %(default)s")
    parser.add_argument("--shapes", help="BATCHxLENGTH or ragged, comma-separated, the most important first")
    parser.add_argument("--dtypes", help=f"of {', '.join(FLOATING)}, comma-separated, the most important first")
    parser.add_argument("--autotune", choices=("never", "first", "always"),
                        help="torch.compile with max-autotune: for stock at the first two shapes, or wherever it "
                        "compiles; default: first, from 30 minutes always")  # fmt: skip
    parser.add_argument("--only", metavar="SUBSTRING", help="only keys with this, as in models/bf16/64x128/ours")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: everything tiny, a smoke test")
    args = parser.parse_args(argv)
    args.autotune = args.autotune or ("always" if args.minutes >= THOROUGH_MINUTES else "first")
    smoke = args.device == "cpu"
    if not smoke and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu is a smoke test")
    names = args.shapes.split(",") if args.shapes else SMOKE_SHAPES if smoke else SHAPES
    try:
        args.shapes = [shape_named(name, smoke=smoke) for name in names]
    except ValueError as error:
        parser.error(f"--shapes: {error}")
    args.dtypes = args.dtypes.split(",") if args.dtypes else ["fp32", "bf16"] if smoke else ["bf16", "fp16"]
    for dtype in args.dtypes:
        if dtype not in FLOATING:
            parser.error(f"--dtypes: {dtype!r} is none of {', '.join(FLOATING)}")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output: {args.output} cannot be used: {error.strerror}")
    return args


@torch.no_grad()
def measure(run: Run, shapes: list[Shape]) -> None:
    """Everything, the most important first."""
    models = Models(run.device, smoke=not run.on_gpu)
    bench = ModelBench(run, models)
    first, *others = run.dtypes
    primary, secondary = shapes[:PRIMARY], shapes[PRIMARY:]
    rest = [(shape, first) for shape in secondary] + [(shape, dtype) for dtype in others for shape in shapes]
    steps: list[Callable[[], None]] = [
        lambda: correctness.check(run, models, CORRECTNESS_SHARE * run.budget.seconds),
        lambda: measure_peaks(run),
        *(partial(bench.measure, shape, first, compiled=True) for shape in primary),
        lambda: micro.measure(run, primary, MICRO_DTYPE),
        # What needs no compiling, for every shape, before what does for any.
        *(partial(bench.measure, shape, dtype, compiled=False) for shape, dtype in rest),
        *(partial(bench.measure, shape, dtype, compiled=True) for shape, dtype in rest),
        lambda: correctness.check(run, models, run.budget.left()),
    ]
    for step in steps:
        try:
            step()
        except DeviceLost:
            raise
        except Exception as error:  # of the suite, not of what it measures: the other steps may still be good
            traceback.print_exc()
            run.fail(f"the step around {run.current!r}", reason_of(error, run.device))


def measure_peaks(run: Run) -> None:
    """The peaks, unless nothing is going to be compared with them."""
    if run.only is not None and run.only.startswith("correctness"):
        return
    run.current = "peaks"
    run.results.data["peaks"] = found = peaks(run.device)
    run.results.save()
    rates = ", ".join(f"{name} {rate:.4g}" for name, rate in found["matmul_tflops"].items())
    run.say(f"peaks: {rates} TFLOP/s, {found['bandwidth_gbs']:.0f} GB/s")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    quiet_transformers()
    configure()
    device = torch.device(args.device)
    settings = {
        "minutes": args.minutes,
        "shapes": [shape.name for shape in args.shapes],
        "lengths": {shape.name: list(shape.lengths) for shape in args.shapes if shape.name == "ragged"},
        "dtypes": args.dtypes,
        "only": args.only,
        "autotune": args.autotune,
    }
    budget = Budget(args.minutes)
    results = Results(args.output / "results.json", machine.facts(device), settings)
    results.save()
    run = Run(device, args.dtypes, budget, results, args.only, args.autotune)
    run.say(f"{results.data['machine']['device']}, torch {torch.__version__}; results in {results.path}")
    lost = None
    try:
        measure(run, args.shapes)
    except DeviceLost as error:
        lost = f"{run.current} broke the CUDA context, the rest of the run is lost: {error}"
        run.say(lost)
    for row in bars(results.data):
        results.put("bars", row)
    results.data.update(elapsed_s=round(budget.spent(), 1), failures=run.failures, device_lost=lost)
    results.save()
    print_summary(results.data)
    if lost:
        print(f"run: error: {lost}", file=sys.stderr)
    return 1 if run.failures or lost else 0


if __name__ == "__main__":
    sys.exit(main())
