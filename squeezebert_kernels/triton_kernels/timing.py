"""Times on a CUDA device, by its own clock: calls in a row, or in a CUDA graph, where launching them costs nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["captured", "device_ms", "microseconds"]

Call = Callable[[], Any]


def captured(call: Call, calls: int) -> Call:
    """``calls`` calls as one CUDA graph; what is returned replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is compiled or allocated once must not be captured
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph.replay


def device_ms(call: Call, calls: int = 1) -> float:
    """Milliseconds of device time of one of ``calls`` in a row."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / calls


def microseconds(call: Call, calls: int, replays: int) -> float:
    """Median, over ``replays`` of a CUDA graph of ``calls`` calls, of one call; one replay before is not counted."""
    replay = captured(call, calls)
    device_ms(replay)
    return statistics.median(device_ms(replay) for _ in range(replays)) * 1000 / calls
