"""Timers, and what the machine can do at most.

Contestants take turns, so that a clock that changes meets all of them. On a CPU, the smoke mode, wall time stands for
device time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from squeezebert_kernels.benchmark.timing import seconds_of
from squeezebert_kernels.ops.dtypes import FLOATING

Call = Callable[[], Any]

ROUNDS = 5
LATENCY_CALLS = 60  # of all rounds together
ROUND_SECONDS = 0.06  # of back-to-back calls of one contestant in one round


@dataclass
class Timing:
    """Medians over the rounds."""

    throughput_ms: float  # device time of back-to-back calls, per call
    calls: int  # per round
    latency_ms: float | None = None  # wall time of one call that is waited for
    latency_calls: int = 0


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def back_to_back(call: Call, device: torch.device, calls: int) -> float:
    """Milliseconds per call of ``calls`` in a row."""
    if device.type == "cuda":
        from squeezebert_kernels.triton_kernels.timing import device_ms

        return device_ms(call, calls)
    return 1e3 * seconds_of(call, calls)


def waited_for(call: Call, device: torch.device, calls: int) -> list[float]:
    """Milliseconds of wall time of each of ``calls``, from an idle device to an idle device."""

    def call_and_wait() -> None:
        call()
        synchronize(device)

    synchronize(device)
    return [1e3 * seconds_of(call_and_wait) for _ in range(calls)]


def interleaved(
    calls: Mapping[str, Call], device: torch.device, *, latency: bool, rounds: int = ROUNDS
) -> dict[str, Timing | Exception]:
    """Times warm ``calls`` in turns; one that raises is out, and its exception is the result."""
    counts: dict[str, int] = {}
    runs: dict[str, list[float]] = {name: [] for name in calls}
    waits: dict[str, list[float]] = {name: [] for name in calls}
    failed: dict[str, Exception] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            if name in failed:
                continue
            try:
                if name not in counts:
                    one = back_to_back(call, device, 3)
                    counts[name] = min(max(round(1e3 * ROUND_SECONDS / one), 3), 200)
                call()  # what was in the caches was another contestant's
                runs[name].append(back_to_back(call, device, counts[name]))
                if latency:
                    waits[name] += waited_for(call, device, -(-LATENCY_CALLS // rounds))
            except Exception as error:
                failed[name] = error
    found: dict[str, Timing | Exception] = dict(failed)
    for name in calls:
        if name not in failed:
            wait = statistics.median(waits[name]) if latency else None
            found[name] = Timing(statistics.median(runs[name]), counts[name], wait, len(waits[name]))
    return found


def _median_ms(call: Call, device: torch.device, runs: int) -> float:
    for _ in range(3):
        call()
    return statistics.median(back_to_back(call, device, 1) for _ in range(runs))


def matmul_tflops(device: torch.device, dtype: torch.dtype, size: int, runs: int) -> float:
    """The rate of a square matrix product of random numbers: zeros would draw less power and clock higher."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / _median_ms(lambda: torch.mm(a, b, out=out), device, runs) / 1e9


def copy_gbs(device: torch.device, size: int, runs: int) -> float:
    """Bytes read and written per second, in GB/s, by a copy of ``size`` bytes."""
    source = torch.randint(0, 127, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _median_ms(lambda: target.copy_(source), device, runs) / 1e6


@torch.no_grad()
def peaks(device: torch.device) -> dict[str, Any]:
    """The rates that results are compared with."""
    if device.type != "cuda":
        rates = {name: matmul_tflops(device, dtype, 256, 5) for name, dtype in FLOATING.items() if name != "fp16"}
        return {"matmul_size": 256, "matmul_tflops": rates, "bandwidth_gbs": copy_gbs(device, 2**24, 5)}
    size = 8192
    rates = {name: matmul_tflops(device, dtype, size, 30) for name, dtype in FLOATING.items() if name != "fp32"}
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        rates["tf32"] = matmul_tflops(device, torch.float32, size, 15)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    return {"matmul_size": size, "matmul_tflops": rates, "bandwidth_gbs": copy_gbs(device, 2**31, 20)}
