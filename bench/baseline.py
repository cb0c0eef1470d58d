"""Instruction counts beside committed ones: what guard.py and arm/count.py share."""

from __future__ import annotations


def compare(counts: dict[str, int], baseline: dict[str, int], tolerance: float) -> int:
    """Prints what changed; returns how many kernels need more instructions than the tolerance (per cent) allows."""
    worse = 0
    for key, count in counts.items():
        if key not in baseline:
            print(f"new       {key}: {count}, not in the baseline")
            continue
        change = 100 * (count / baseline[key] - 1)
        if change > tolerance:
            worse += 1
            print(f"WORSE     {key}: {baseline[key]} -> {count} instructions, {change:+.1f} %")
        elif change < -tolerance:
            print(f"better    {key}: {baseline[key]} -> {count} instructions, {change:+.1f} %: update the baseline")
    return worse
