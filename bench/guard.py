"""Instructions that the kernels execute, against committed counts: a guard that works on a busy machine.

    python bench/guard.py            compares; exit status 1 if a kernel needs more instructions than it did
    python bench/guard.py --update   writes the counts of this compiler into instructions.json

Counts come from callgrind where valgrind is installed and can run the tier, which excludes AVX-512, and from running a
kernel step by step in a child process otherwise; both give the same numbers.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import baseline

from squeezebert_kernels.benchmark import native
from squeezebert_kernels.ops.dtypes import PACKED

TIERS = ("avx2", "avx512", "avx512bf16")
VALGRIND_TIERS = ("scalar", "avx2")
CASES = (
    "conv 24x96x96 g1",
    "conv 24x96x96 g1 bias gelu",
    "conv 24x96x96 g1 bias residual",
    "conv 13x45x70 g1 bias",
    "encode 24x96 g1",
    "layer_norm 24x96",
    "attention 24x48x32 mask",
)


def run_bench(program: Path, *options: str, under: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*under, str(program), *options], capture_output=True, text=True, check=False)


def count_with_callgrind(program: Path, isa: str, dtype: str, case: str) -> int | None:
    """Instructions of one run; None where this case does not exist."""
    under = ("valgrind", "--tool=callgrind", "--toggle-collect=sbk_counted_run", f"--callgrind-out-file={os.devnull}")
    done = run_bench(program, "--isa", isa, "--dtype", dtype, "--case", case, "--calls", "1", under=under)
    found = re.search(r"Collected : (\d+)", done.stderr)
    return int(found[1]) if found and done.returncode == 0 else None


def count_stepwise(program: Path, isa: str, dtype: str, case: str) -> int | None:
    done = run_bench(program, "--isa", isa, "--dtype", dtype, "--case", case, "--instructions")
    count = int(done.stdout.split("\t")[-1]) if done.returncode == 0 else -1
    return count if count > 0 else None


def count_all(program: Path, tiers: list[str], counter: str) -> tuple[dict[str, int], list[str]]:
    """(counts by "isa/dtype/case", tiers that could not be counted)."""
    counts: dict[str, int] = {}
    uncounted = []
    for isa in tiers:
        callgrind = counter == "callgrind" or (
            counter == "auto" and isa in VALGRIND_TIERS and shutil.which("valgrind") is not None
        )
        count = count_with_callgrind if callgrind else count_stepwise
        before = len(counts)
        for dtype in PACKED:
            for case in CASES:
                number = count(program, isa, dtype, case)
                if number is not None:
                    counts[f"{isa}/{dtype}/{case}"] = number
        if len(counts) == before:
            uncounted.append(isa)
        else:
            print(f"{isa}: {len(counts) - before} kernels counted {'by callgrind' if callgrind else 'step by step'}")
    return counts, uncounted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Instruction counts of the kernels against committed ones.")
    parser.add_argument("--update", action="store_true", help=f"write the counts into {baseline.FILE.name}")
    parser.add_argument("--tolerance", type=float, default=3.0, metavar="PERCENT", help="default: 3")
    parser.add_argument("--counter", choices=("auto", "callgrind", "step"), default="auto")
    parser.add_argument("--isa", choices=TIERS, action="append", help="only this tier; may be given several times")
    args = parser.parse_args(argv)

    try:
        program = native.build() / "sbk_kernel_bench"
        here = {case.isa for case in native.cases()}
    except native.Unavailable as error:
        print(f"guard: error: {error}", file=sys.stderr)
        return 2
    compiler = run_bench(program, "--compiler").stdout.strip()
    wanted = args.isa or list(TIERS)
    if shutil.which("valgrind") is None:
        print("valgrind is NOT INSTALLED: every tier is counted step by step, which is slower")
    counts, uncounted = count_all(program, [isa for isa in wanted if isa in here], args.counter)
    uncounted += [isa for isa in wanted if isa not in here]
    for isa in uncounted:
        print(f"NOT CHECKED: {isa} cannot be {'run' if isa not in here else 'counted'} on this machine")
    if not counts:
        print("NOTHING WAS CHECKED")
        return 1
    if args.update:
        baseline.update(counts, compiler)
        return 0
    return baseline.check(counts, compiler, args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
