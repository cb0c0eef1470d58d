"""Every kernel x dtype x ISA tier x shape, one thread, without Python in what is timed (bench/cpp)."""

from __future__ import annotations

import statistics

from squeezebert_kernels.benchmark import native
from squeezebert_kernels.ops.dtypes import DTYPES

SHORT = {name: short for short, name in DTYPES.items()}


def test_kernel(case, benchmark, report, request):
    rounds, milliseconds = (request.config.getoption(name) for name in ("--rounds", "--milliseconds"))
    with native.Kernel(case) as kernel:
        assert kernel.error() <= 1, "the result is wrong: not timed"
        benchmark.group = f"{case.isa} {case.dtype}"
        calls = max(1, round(milliseconds / 1e3 / (kernel.run(3) / 3)))
        peaks, seconds = [], []

        def measure_peak():
            peaks.append(native.peak(case.isa, SHORT[case.dtype], milliseconds=milliseconds))

        def run():
            seconds.append(kernel.run(calls) / calls)

        benchmark.pedantic(run, setup=measure_peak, rounds=rounds, iterations=1, warmup_rounds=0)
        shares = [kernel.flops / s / p for s, p in zip(seconds, peaks)]
        report(
            statistics.median(seconds),
            statistics.median(shares),
            flops=kernel.flops,
            traffic=kernel.bytes,
            peak=statistics.median(peaks),
            calls_per_round=calls,
        )
