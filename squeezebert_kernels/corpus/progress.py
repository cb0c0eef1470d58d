"""How far a run is, and what it came to."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .job import Done, Job

EVERY = 10.0  # seconds between lines where there is no terminal
SHOWN = 5  # bad rows on the terminal
IDLE = 0.9  # less of its CPUs than this is worth a word


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


class Meter:
    """Counts rows and tokens; a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, rows: int) -> None:
        self.console = console
        self.total = rows
        self.rows = self.tokens = self.bad = 0
        self.start = self.spoke = time.perf_counter()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows  {task.description}"))
        self.bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Meter:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.start

    def advance(self, rows: int, tokens: int) -> None:
        """Counts a batch of a unit that goes on."""
        self._show(self.rows + rows, self.tokens + tokens, self.bad)

    def finished(self, summary: Summary) -> None:
        """Takes the numbers of what is finished."""
        self._show(summary.rows + summary.bad, summary.tokens, summary.bad)

    def _show(self, rows: int, tokens: int, bad: int) -> None:
        self.rows, self.tokens, self.bad = rows, tokens, bad
        if self.bar is not None:
            self.bar.update(self.task, completed=self.rows, description=self.line())
        elif time.perf_counter() - self.spoke > EVERY:
            self.spoke = time.perf_counter()
            self.console.print(f"{self.rows} of {self.total} rows  {self.line()}", soft_wrap=True)

    def line(self) -> str:
        """Speed, and how long the rest takes at this speed."""
        seconds = max(self.seconds, 1e-9)
        left = duration((self.total - self.rows) * seconds / self.rows) if self.rows else "?"
        bad = f"  {self.bad} bad" if self.bad else ""
        return f"{self.rows / seconds:.1f} rows/s  {self.tokens / seconds:.0f} tokens/s  ETA {left}{bad}"


class Summary:
    """Adds up finished units."""

    def __init__(self) -> None:
        self.rows = self.tokens = self.longest = self.size = self.bad = 0
        self.cpu_seconds = 0.0
        self.seconds: dict[str, float] = {}
        self.isas: set[str] = set()
        self.first_bad: list[str] = []

    def add(self, done: Done) -> None:
        """Counts a unit."""
        self.rows += done.rows
        self.tokens += done.tokens
        self.longest += done.longest
        self.size += done.size
        self.bad += len(done.bad)
        self.isas.add(done.isa)
        self.cpu_seconds += done.cpu_seconds
        for name, seconds in done.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        for one in done.bad[: SHOWN - len(self.first_bad)]:
            self.first_bad.append(f"{one.file} row {one.row}: {one.reason}")

    def lines(self, job: Job, seconds: float, documents: float | None) -> list[str]:
        """What the run came to, and what ``documents`` rows like these would take."""
        if not self.rows:
            return [] if documents is None else ["nothing was computed in this run, so there is no plan"]
        busy, cpu = sum(self.seconds.values()), max(self.cpu_seconds, 1e-9)
        parts = ", ".join(f"{name} {100 * s / busy:.1f} %" for name, s in self.seconds.items())
        result = [
            f"{self.rows} rows, {self.tokens} tokens in {duration(seconds)}: {self.rows / seconds:.1f} rows/s, "
            f"{self.tokens / seconds:.0f} tokens/s; {self.size / self.rows:.0f} bytes of output per row",
            f"of the workers' time {parts}; {cpu:.1f} CPU seconds, {self.tokens / cpu:.0f} tokens per CPU second",
        ]
        if cpu < IDLE * busy * job.threads:
            result.append(
                f"the workers had {100 * cpu / busy / job.threads:.0f} % of their {job.threads} CPUs: "
                "they waited for storage, or other programs ran"
            )
        if self.longest:
            result.append(f"{self.longest} rows reach the limit of {job.max_length} tokens: what is longer was cut")
        if len(self.isas) > 1:
            result.append(
                f"workers used different instruction sets, last bits may differ: {', '.join(sorted(self.isas))}"
            )
        if documents:
            hours = documents / self.rows * cpu / 3600
            result.append(
                f"{documents:.3g} rows like these ({self.tokens / self.rows:.1f} tokens each): {hours:,.0f} CPU hours, "
                f"{hours / 24:,.0f} such CPUs for a day, {documents * self.size / self.rows / 1e9:,.0f} GB of output"
            )
        return result
