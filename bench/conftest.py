"""``pytest bench``: every kernel and op, timed beside the peak of the machine.

pytest bench                          the ISA tier in use, one thread for the kernels, --threads for the ops
pytest bench --isa all                every tier of this machine (kernels only)
pytest bench -k "conv and int8"       some
pytest bench --benchmark-json=FILE    with extra_info: GFLOP/s, GB/s, per cent of peak
"""

from __future__ import annotations

import functools

import pytest
import torch

from squeezebert_kernels import _native
from squeezebert_kernels.benchmark import native

ROWS: list[tuple[str, dict[str, float]]] = []


def pytest_addoption(parser):
    group = parser.getgroup("squeezebert_kernels")
    group.addoption("--isa", default=None, help="ISA tier of the kernels, or all (default: the one in use)")
    group.addoption("--rounds", type=int, default=15, help="rounds of each benchmark (default: 15)")
    group.addoption("--milliseconds", type=float, default=2.0, help="length of a round (default: 2)")
    group.addoption("--threads", type=int, default=1, help="threads of the ops (default: 1)")


@functools.cache
def kernel_cases(isa):
    try:
        cases = native.cases()
    except native.Unavailable as error:
        raise pytest.UsageError(str(error)) from None
    possible = list(dict.fromkeys(case.isa for case in cases))
    if isa not in (*possible, "all"):
        raise pytest.UsageError(f"--isa {isa} is not possible on this machine; possible: all, {', '.join(possible)}")
    return [case for case in cases if isa in ("all", case.isa)]


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        cases = kernel_cases(metafunc.config.getoption("--isa") or _native.isa())
        metafunc.parametrize("case", cases, ids=[f"{c.isa}-{c.dtype}-{c.name.replace(' ', '-')}" for c in cases])


@pytest.fixture
def threads(request):
    """torch's threads during a benchmark."""
    before, wanted = torch.get_num_threads(), request.config.getoption("--threads")
    torch.set_num_threads(wanted)
    yield wanted
    torch.set_num_threads(before)


@pytest.fixture
def report(request, benchmark):
    """report(seconds of a call, shares of the peak, ...) -> extra_info, and a line at the end of the run."""

    def fill(seconds, shares, *, flops, traffic, peak, **more):
        info = {"us_per_call": 1e6 * seconds, "gb_per_s": traffic / seconds / 1e9, **more}
        if flops:
            info |= {
                "gflop_per_s": flops / seconds / 1e9,
                "percent_of_peak": 100 * shares,
                "peak_gflop_per_s": peak / 1e9,
            }
        benchmark.extra_info.update({key: round(value, 4) for key, value in info.items()})
        ROWS.append((request.node.name.partition("[")[2].rstrip("]"), info))

    return fill


def pytest_terminal_summary(terminalreporter):
    if not ROWS:
        return
    terminalreporter.section("per cent of a peak measured in turns with each kernel (medians)")
    width = max(len(name) for name, _ in ROWS)
    for name, info in ROWS:
        line = f"{name:{width}}  {info['us_per_call']:10.2f} us  {info['gb_per_s']:7.1f} GB/s"
        if "percent_of_peak" in info:
            line += f"  {info['gflop_per_s']:7.1f} G/s  {info['percent_of_peak']:5.1f} %"
        terminalreporter.write_line(line)
