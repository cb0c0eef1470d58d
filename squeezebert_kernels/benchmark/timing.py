"""Times by the host's clock. Calls take turns, so that a clock that changes, and other work, meet all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Call = Callable[[], Any]

MIN_ROUNDS = 3


def seconds_of(call: Call, calls: int = 1) -> float:
    """Seconds of one of ``calls`` in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def rounds_within(rounds: int, seconds: float) -> Iterator[int]:
    """The numbers of ``rounds``; those from MIN_ROUNDS on only as long as they begin within ``seconds``."""
    begin = time.perf_counter()
    for number in range(rounds):
        if number >= MIN_ROUNDS and time.perf_counter() - begin > seconds:
            break
        yield number


def in_turns(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    seconds: float = float("inf"),
    most: Mapping[str, int] | None = None,
    after_round: Callable[[], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of warm ``calls``: every round runs each once, those named in ``most`` that often in all, spread evenly.

    On a slow or busy machine it ends early, with whole rounds, after ``seconds``. ``after_round`` is not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in rounds_within(rounds, seconds):
        for name, call in calls.items():
            runs = min((most or {}).get(name, rounds), rounds)
            if number * runs // rounds != (number - 1) * runs // rounds:
                times[name].append(seconds_of(call))
        if after_round is not None:
            after_round()
    return times
