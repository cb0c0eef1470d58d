"""Times whole models: builds and checks the contestants of a shape, then lets them take turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from contestants import BARS, BUILD_ORDER, Contestant, Feed, Models
from results import Run, reason_of
from timing import Timing, interleaved, synchronize
from torch import Tensor

from squeezebert_kernels.benchmark.checking import relative_error
from squeezebert_kernels.benchmark.contestants import quietly
from squeezebert_kernels.benchmark.workload import Shape, encoder_flops

WARM_UP = 5  # torch.compile with graphs compiles in the first call, runs plainly in the second, records in the third
EXPECTED_SECONDS = {
    "max-autotune": 120.0, "max-autotune-no-cudagraphs": 120.0, "default": 40.0, "reduce-overhead": 40.0,
}  # fmt: skip
"""Of compiling for the first time; afterwards as long as it took last is expected."""
TIMING_SECONDS = 10.0  # that must be left when a contestant is built


def configure() -> None:
    """Settings of torch that hold for every timing."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # Every shape and mode compiles the same code object anew: past the limit, torch would quietly run it eagerly.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.accumulated_recompile_limit = 4096
    if torch.cuda.is_available():
        from torch._inductor import select_algorithm

        select_algorithm.PRINT_AUTOTUNE = False


class ModelBench:
    """Measures shapes, and remembers how long compiling took."""

    def __init__(self, run: Run, models: Models) -> None:
        self.run, self.models = run, models
        self.expected_seconds = dict(EXPECTED_SECONDS)

    def measure(self, shape: Shape, dtype: str, *, compiled: bool) -> None:
        """Times every contestant that is selected, without torch.compile or also with it."""
        chosen = [c for c in BUILD_ORDER if self.run.wants(key_of(dtype, shape, c))]
        if not compiled:
            chosen = [c for c in chosen if c.compiled is None]
        if not chosen:
            return
        if self.run.budget.left() <= 0:
            for contestant in chosen:
                self._leave_out(self._row(contestant, shape, dtype), "no time left")
            return
        if self.run.on_gpu:
            torch._dynamo.reset()  # frees what was compiled for other shapes, and its graphs
            torch.cuda.empty_cache()
        feed = Feed.make(shape, self.models.config.vocab_size, self.run.device)
        expected = self.models.expected(feed)
        calls: dict[str, Callable[[], Any]] = {}
        rows: dict[str, dict[str, Any]] = {}
        for stage in (False, True):
            added = 0
            for contestant in chosen:
                if (contestant.compiled is not None) != stage:
                    continue
                row = self._row(contestant, shape, dtype)
                call = self._prepare(contestant, shape, dtype, feed, expected, row)
                if call is not None:
                    calls[contestant.name], rows[contestant.name] = call, row
                    added += 1
            # Those that need no compiling are timed before the rest is compiled: a run may end while that goes on.
            known = all((self.run.results.get("models", r["key"]) or {}).get("throughput_ms") for r in rows.values())
            if added and (stage or not compiled or not known):
                self._time(calls, rows, shape, dtype)

    def _row(self, contestant: Contestant, shape: Shape, dtype: str) -> dict[str, Any]:
        return {
            "key": key_of(dtype, shape, contestant), "contestant": contestant.name, "label": contestant.label,
            "family": contestant.family, "shape": shape.name, "batch": shape.batch, "length": shape.length,
            "tokens": shape.tokens, "dtype": dtype,
            "mode": contestant.mode(shape, autotune=self.run.autotune),
            "options": contestant.options(shape) if contestant.family == "ours" else {},
            "status": "ok", "reason": None, "error": None, "bar": None, "graphs": None, "build_s": None,
            "throughput_ms": None, "latency_ms": None,
        }  # fmt: skip

    def _leave_out(self, row: dict[str, Any], reason: str) -> None:
        known = self.run.results.get("models", row["key"])
        if known is None or known["status"] == "left out":
            self.run.results.put("models", row | {"status": "left out", "reason": reason})
        if known is None:
            self.run.say(f"{row['key']}: left out, {reason}")

    def _prepare(
        self, contestant: Contestant, shape: Shape, dtype: str, feed: Feed, expected: Tensor, row: dict[str, Any]
    ) -> Callable[[], Any] | None:
        """A warm and checked call, or None; the reason is in the results then."""
        if contestant.needs_cuda and not self.run.on_gpu:
            self._leave_out(row, "needs CUDA")
            return None
        mode, self.run.current = row["mode"], row["key"]
        seconds = self.expected_seconds.get(f"{contestant.family} {mode}", EXPECTED_SECONDS.get(mode, 0.0))
        if self.run.budget.left() < seconds + TIMING_SECONDS * self.run.on_gpu:
            self._leave_out(row, f"{self.run.budget.left():.0f} s left, building it takes about {seconds:.0f} s")
            return None
        start, skips = time.monotonic(), graph_skips()
        try:
            with quietly():
                model = contestant.model(self.models, dtype, shape, mode)
                decoy, call = feed.decoy().call(model), feed.call(model)
                for _ in range(WARM_UP):
                    decoy()
                output = call()
            synchronize(self.run.device)
        except Exception as error:
            row |= {"status": "failed", "reason": reason_of(error, self.run.device)}
            self.run.results.put("models", row)
            if contestant.name == "ours":
                self.run.fail(row["key"], row["reason"])
            else:
                self.run.say(f"{row['key']}: failed, {row['reason']}")
            return None
        row["build_s"] = round(time.monotonic() - start, 2)
        if mode is not None:
            self.expected_seconds[f"{contestant.family} {mode}"] = row["build_s"]
        if contestant.compiled == "graphs":
            skipped = graph_skips() - skips
            row["graphs"] = skipped == 0
            if skipped:
                row["reason"] = f"torch.compile skipped CUDA graphs {skipped} times"
        if contestant.family != "bert":
            row["error"], row["bar"] = relative_error(feed.hidden(output), expected), BARS[dtype]
            if row["error"] > row["bar"]:
                row |= {"status": "wrong", "reason": f"relative error {row['error']:.1e}, bar {row['bar']:.1e}"}
                if contestant.family == "ours":
                    self.run.fail(row["key"], row["reason"])
        return call

    def _time(
        self, calls: dict[str, Callable[[], Any]], rows: dict[str, dict[str, Any]], shape: Shape, dtype: str
    ) -> None:
        self.run.current = f"models/{dtype}/{shape.name}"
        timings = interleaved(calls, self.run.device, latency=shape.batch == 1)
        for name, timing in timings.items():
            row = rows[name]
            if isinstance(timing, Exception):
                row |= {"status": "failed", "reason": reason_of(timing, self.run.device)}
            else:
                row |= self._numbers(row["family"], timing, shape, dtype)
            self.run.results.put("models", row)
        self.run.say(f"models/{dtype}/{shape.name}: " + ", ".join(summary(rows[name]) for name in timings))

    def _numbers(self, family: str, timing: Timing, shape: Shape, dtype: str) -> dict[str, Any]:
        config = self.models.bert_config if family == "bert" else self.models.config
        flops = encoder_flops(config, shape.lengths)
        tflops = flops / timing.throughput_ms / 1e9
        return {
            "throughput_ms": timing.throughput_ms, "throughput_calls": timing.calls,
            "latency_ms": timing.latency_ms, "latency_calls": timing.latency_calls,
            "flops": flops, "sequences_per_s": 1e3 * shape.batch / timing.throughput_ms, "tflops": tflops,
            "percent_of_peak": self.run.percent_of_peak(dtype, tflops),
        }  # fmt: skip


def key_of(dtype: str, shape: Shape, contestant: Contestant) -> str:
    """What --only selects by."""
    return f"models/{dtype}/{shape.name}/{contestant.name}"


def graph_skips() -> int:
    """How often torch.compile has decided against CUDA graphs."""
    from torch._dynamo.utils import counters

    return counters["inductor"]["cudagraph_skips"]


def time_of(row: dict[str, Any]) -> float | None:
    """Milliseconds that count: of one call that is waited for at batch 1, of back-to-back calls otherwise."""
    return row["latency_ms"] if row["batch"] == 1 else row["throughput_ms"]


def summary(row: dict[str, Any]) -> str:
    """A contestant in a few words."""
    if row["throughput_ms"] is None:
        return f"{row['contestant']} {row['status']}"
    mark = "" if row["status"] == "ok" else f" {row['status'].upper()}"
    latency = "" if row["latency_ms"] is None else f" (latency {row['latency_ms']:.3f})"
    return f"{row['contestant']} {row['throughput_ms']:.3f} ms{latency}{mark}"
