"""Committed instruction counts, which guard.py (x86) and arm/count.py (AArch64) hold theirs against.

instructions.json is {compiler: {"tier/dtype/case": instructions of one call}}: counts belong to a compiler.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).with_name("instructions.json")


def _read() -> dict[str, dict[str, int]]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def update(counts: dict[str, int], compiler: str) -> None:
    """Commits ``counts``; those of other kernels and compilers stay."""
    known = _read()
    known[compiler] = {**known.get(compiler, {}), **counts}
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{FILE.name}: {len(counts)} counts of {compiler}")


def check(counts: dict[str, int], compiler: str, tolerance: float) -> int:
    """Prints what changed. The exit status: 1 where a kernel needs over ``tolerance`` per cent more instructions than
    it did, or where there is nothing to compare with."""
    known = _read()
    if compiler not in known:
        print(f"NOTHING WAS CHECKED: no counts of {compiler}, only of {', '.join(known) or 'nothing'}")
        return 1
    worse = 0
    for key, count in counts.items():
        if key not in known[compiler]:
            print(f"new       {key}: {count}, not in {FILE.name}")
            continue
        before = known[compiler][key]
        change = 100 * (count / before - 1)
        if change > tolerance:
            worse += 1
            print(f"WORSE     {key}: {before} -> {count} instructions, {change:+.1f} %")
        elif change < -tolerance:
            print(f"better    {key}: {before} -> {count} instructions, {change:+.1f} %: update {FILE.name}")
    print(f"{len(counts)} kernels, {compiler}: " + (f"{worse} WORSE than before" if worse else "none is worse"))
    return 1 if worse else 0
