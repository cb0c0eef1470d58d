"""Instructions that the ARM kernels execute, counted exactly under emulation, by tier, dtype and case.

    python bench/arm/count.py                     a table
    python bench/arm/count.py --guard             compares with bench/instructions.json; exit status 1 for 2 % more
    python bench/arm/count.py --update            writes the counts of this compiler into it
    python bench/arm/count.py --isa neon --case "conv 128x192x192 g4" --hottest 2

What one call executes is the difference of two runs with a different number of calls, divided by that number. `ideal`
is what the vector multiply-adds alone would take, made by the widest instruction that the kernel uses.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import baseline
import emulation
from emulation import PRODUCTS, Counts, Failed, Unavailable, need_tool, run_or_raise

DTYPES = ("float32", "float16", "bfloat16", "int8")  # of squeezebert_kernels/ops/dtypes.py, which needs torch
# SqueezeBERT at 128 tokens.
CASES = (
    "conv 128x192x192 g4",
    "conv 128x192x192 g4 bias gelu",
    "conv 128x192x768 g4 bias gelu",
    "conv 128x768x192 g4 bias residual",
    "conv 128x768x768 g1 bias residual",
    "encode 128x768 g1",
    "layer_norm 128x768",
    "attention 128x128x64",
    "encoder_layer 128x768x3072 g4",
)
TOLERANCE = 2.0
NO_SUCH_CASE = 2  # exit status of sbk_kernel_bench where the build has no such tier, or the tier no such dtype or case


def products(case: str) -> int:
    """Multiply-adds of values that a case has to make; 0 where it is not about them (bench/cpp/cases.h)."""
    kernel, sizes, *words = case.split()
    groups = next((int(word[1:]) for word in words if word[0] == "g" and word[1:].isdigit()), 1)
    if kernel == "conv":
        rows, k, n = map(int, sizes.split("x"))
        return rows * k * n * groups
    if kernel == "attention":
        rows, keys, d = map(int, sizes.split("x"))
        return 2 * rows * keys * d
    if kernel == "encoder_layer":
        tokens, channels, hidden = map(int, sizes.split("x"))
        weights = (3 * channels * channels + 2 * channels * hidden) // groups + channels * channels
        return tokens * weights + 2 * tokens * tokens * channels
    return 0


@dataclass
class Result:
    counts: Counts
    ideal: int  # 0: there is none

    def record(self) -> dict[str, object]:
        classes = {name: count for name, count in self.counts.classes.items() if count}
        return {"total": self.counts.total, "ideal": self.ideal, "classes": classes}


def measure(program: Path, isa: str, dtype: str, case: str, cpu: str, hottest: int) -> Result:
    def command(calls: int) -> list[str | Path]:
        return [program, "--isa", isa, "--dtype", dtype, "--case", case, "--calls", str(calls)]

    counts = emulation.count_one_call(command, cpu=cpu, hottest=hottest)
    used = max(PRODUCTS, key=lambda name: counts.classes[name] * PRODUCTS[name])
    return Result(counts, products(case) // PRODUCTS[used])


HEADER = f"{'':52} {'total':>11} {'multiply-adds':>13} {'share %':>8} {'loads':>10} {'stores':>9} {'total/ideal':>11}"


def row(key: str, result: Result) -> str:
    counts = result.counts
    loads = counts.classes["vector_load"] + counts.classes["load"]
    stores = counts.classes["vector_store"] + counts.classes["store"]
    share = f"{100 * counts.multiplies / counts.total:.1f}"
    ratio = f"{counts.total / result.ideal:.3f}" if result.ideal else ""
    return f"{key:52} {counts.total:11} {counts.multiplies:13} {share:>8} {loads:10} {stores:9} {ratio:>11}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Instructions of the ARM kernels, counted under emulation.")
    parser.add_argument("--guard", action="store_true", help=f"compare with {baseline.FILE.name}")
    parser.add_argument("--update", action="store_true", help=f"write the counts into {baseline.FILE.name}")
    parser.add_argument("--compiler", help="gcc, zig or clang; default: the first that is installed")
    parser.add_argument("--program", type=Path, help="an aarch64 sbk_kernel_bench, instead of building one")
    parser.add_argument("--isa", action="append", help="only this tier; may be given several times")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="only this dtype; likewise")
    parser.add_argument(
        "--case", action="append", help="this case (bench/cpp/cases.h) instead of the usual ones; likewise"
    )
    parser.add_argument("--hottest", type=int, default=0, metavar="N", help="print the N hottest blocks")
    parser.add_argument("--json", type=Path, help="write the counts by class there")
    args = parser.parse_args(argv)

    try:
        program = args.program or emulation.build_bench(args.compiler)
        qemu = need_tool(emulation.QEMU, "apt install qemu-user")
        compiler = run_or_raise([qemu, program, "--compiler"], "running the benchmark").strip()
        results: dict[str, Result] = {}
        print(f"{compiler}; instructions of one call\n{HEADER}")
        for isa in args.isa or emulation.CPUS:
            cpu = emulation.CPUS.get(isa, emulation.DEFAULT_CPU)
            for dtype in args.dtype or DTYPES:
                for case in args.case or CASES:
                    key = f"{isa}/{dtype}/{case}"
                    try:
                        results[key] = measure(program, isa, dtype, case, cpu, args.hottest)
                    except Failed as error:
                        if error.status != NO_SUCH_CASE:
                            raise
                        continue
                    print(row(key, results[key]), flush=True)
                    for block in results[key].counts.hottest:
                        print(f"  {block['executions']} times:", *block["instructions"], sep="\n    ")
    except Unavailable as error:
        print(f"count: error: {error}", file=sys.stderr)
        return 2
    if not results:
        print("NOTHING WAS COUNTED: no such tier, dtype or case in this build")
        return 1
    if args.json:
        records = {key: result.record() for key, result in results.items()}
        args.json.write_text(json.dumps({"compiler": compiler, "cases": records}, indent=1) + "\n", encoding="utf-8")
    totals = {key: result.counts.total for key, result in results.items()}
    if args.update:
        baseline.update(totals, compiler)
    elif args.guard:
        return baseline.check(totals, compiler, TOLERANCE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
