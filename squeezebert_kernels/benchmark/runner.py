"""Checks every contestant against stock float32, then times them in turns."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import native
from .checking import relative_error, tolerance
from .contestants import EXTRA, Contestant, NotApplicable, Setting, hidden_of
from .timing import rounds_within, seconds_of
from .workload import Shape, encoder_bytes, encoder_flops, load_stock, model_flops

TURN_CALLS, TURN_SECONDS = 3, 0.1  # calls that are timed in one turn, and seconds after which no other is begun
SLOW, SLOW_RUNS = 1.0, 3  # seconds of a call that is timed this often only
SETTLE = 0.005  # seconds for the threads of the contestant before to go to sleep


@dataclass
class Result:
    """The result of one contestant. ``status``: "ok", "failed", "not installed", "not applicable" or "left out"."""

    model: str
    scope: str
    shape: str
    threads: int
    contestant: str
    label: str
    dtype: str
    status: str = "ok"
    reason: str = ""
    error: float | None = None
    tolerance: float | None = None
    flops: int = 0
    bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    runs: int = 0
    median_ms: float | None = None
    q1_ms: float | None = None
    q3_ms: float | None = None
    min_ms: float | None = None
    ratio_to_ours: float | None = None
    floor_ms: float | None = None
    percent_of_floor: float | None = None

    def summarise(self) -> None:
        """Fills in the statistics from ``seconds``."""
        times = sorted(1e3 * s for s in self.seconds)
        self.runs = len(times)
        if not times:
            return
        self.median_ms, self.min_ms = statistics.median(times), times[0]
        quartiles = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [times[0]] * 3
        self.q1_ms, self.q3_ms = quartiles[0], quartiles[2]

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["seconds"] = [round(s, 7) for s in self.seconds]
        return fields


@dataclass
class Heat:
    """One interleaved run: its results, and the peaks (operations per second) measured between their turns."""

    results: list[Result]
    peaks: dict[str, float]


@dataclass
class _Entrant:
    result: Result
    call: Callable[[], Any]
    slow: bool


class PeakMeter:
    """Peaks of the ISA tier in use, per dtype; ``reason`` where they cannot be measured."""

    def __init__(self, isa: str) -> None:
        self.isa, self.reason = isa, ""
        self.bandwidths: dict[int, float] = {}
        try:
            native.peak(isa, "fp32", milliseconds=0.1)
        except native.Unavailable as error:
            self.reason = str(error)

    def measure(self, threads: int, rates: dict[str, list[float]]) -> None:
        for dtype in native.PEAKS if not self.reason else ():
            rates.setdefault(dtype, []).append(native.peak(self.isa, dtype, threads=threads))

    def bandwidth(self, threads: int) -> float | None:
        if not self.reason and threads not in self.bandwidths:
            self.bandwidths[threads] = native.bandwidth(threads)
        return self.bandwidths.get(threads)


def run_heat(
    setting: Setting,
    shape: Shape,
    contestants: list[Contestant],
    *,
    left_out: dict[str, str],
    rounds: int,
    seconds: float,
    meter: PeakMeter,
    step: Callable[[str, float], None],
) -> Heat:
    """Builds, checks and times ``contestants`` on one model, shape and number of threads.

    ``left_out``: reasons by key of those that are named but not run. ``step(what, share)`` is told what happens next
    and what share of this heat is done, never while something is timed.
    """
    config = setting.stock.config
    results: list[Result] = []
    entrants: list[_Entrant] = []
    references: dict[str, Tensor] = {}
    torch.set_num_threads(setting.threads)

    for i, contestant in enumerate(contestants):
        step(f"checking {contestant.label}", 0.5 * i / len(contestants))
        flops = (encoder_flops if contestant.scope == "encoder" else model_flops)(config, shape.lengths)
        result = Result(
            setting.name, contestant.scope, shape.name, setting.threads,
            contestant.key, contestant.label, contestant.dtype,
            flops=flops, bytes=encoder_bytes(config, shape, contestant.dtype),
        )  # fmt: skip
        results.append(result)
        entrant = _enter(setting, contestant, result, left_out.get(contestant.key), references)
        if entrant is not None:
            entrants.append(entrant)

    rates: dict[str, list[float]] = {}
    order = random.Random(0)
    for number in rounds_within(rounds if entrants else 0, seconds):
        step("timing", 0.5 + 0.5 * number / rounds)
        meter.measure(setting.threads, rates)
        # The order is drawn anew: no contestant is first, or behind the same neighbour, in every round.
        for entrant in order.sample(entrants, len(entrants)):
            _take_turn(entrant)
    peaks = {dtype: statistics.median(values) for dtype, values in rates.items()}
    for result in results:
        result.summarise()
    add_ratios(results, peaks)
    return Heat(results, peaks)


def _enter(
    setting: Setting, contestant: Contestant, result: Result, left_out: str | None, references: dict[str, Tensor]
) -> _Entrant | None:
    """Builds and checks; None, with the reason in ``result``, for one that is not timed."""
    if contestant.missing():
        result.status, result.reason = "not installed", f"no {', '.join(contestant.missing())}: {EXTRA}"
        return None
    if left_out is not None:
        result.status, result.reason = "left out", left_out
        return None
    try:
        other = contestant.reference
        stock = setting.once(other, lambda: load_stock(str(other)))[0] if other else setting.stock
        if str(other) not in references:
            references[str(other)] = stock(
                input_ids=setting.inputs.ids, attention_mask=setting.inputs.mask
            ).last_hidden_state
        if other:
            result.flops = model_flops(stock.config, [int(n) for n in setting.inputs.mask.sum(1)])
        call = contestant.build(setting)
        start = time.perf_counter()
        output = hidden_of(call())
        took = time.perf_counter() - start
        result.error = relative_error(output, references[str(other)], setting.inputs.mask)
        result.tolerance = tolerance(contestant.dtype, stock.config)
    except NotApplicable as reason:
        result.status, result.reason = "not applicable", str(reason)
        return None
    except Exception as error:  # a peer may fail in any way; the others go on
        result.status = "failed"
        result.reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]
        return None
    if result.error > result.tolerance:
        result.status, result.reason = "failed", f"wrong output: error {result.error:.1e} > {result.tolerance:.1e}"
        return None
    return _Entrant(result, call, took > SLOW)


def _take_turn(entrant: _Entrant) -> None:
    """One call that is not timed, to wake its threads and bring its data back into the caches, then those that are."""
    times = entrant.result.seconds
    if entrant.slow and len(times) >= SLOW_RUNS:
        return
    time.sleep(SETTLE)
    if not entrant.slow:
        entrant.call()
    begin = time.perf_counter()
    for _ in range(1 if entrant.slow else TURN_CALLS):
        times.append(seconds_of(entrant.call))
        if time.perf_counter() - begin > TURN_SECONDS:
            break


def add_ratios(results: list[Result], peaks: dict[str, float]) -> None:
    """Ratios to ours of the same dtype and scope (fp16: to our fp32), and shares of the floor: FLOPs over the peak."""
    names = {"model": "ours-{}", "encoder": "ours-{}-encoder"}
    ours = {(r.scope, r.dtype): r.median_ms for r in results if r.contestant == names[r.scope].format(r.dtype)}
    for result in results:
        if result.median_ms is None:
            continue
        same = ours.get((result.scope, "fp32" if result.dtype == "fp16" else result.dtype))
        if same:
            result.ratio_to_ours = result.median_ms / same
        peak = peaks.get(result.dtype)
        if peak:
            result.floor_ms = 1e3 * result.flops / peak
            result.percent_of_floor = 100 * result.floor_ms / result.median_ms
