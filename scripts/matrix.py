#!/usr/bin/env python3
"""``make matrix``: the rows of scripts/matrix.toml, each in an environment of its own; the result is docs/matrix.md.

A row is a copy of the working tree in build/matrix/NAME with its own .venv and build folder. It runs these steps:

    build    `make build` with the row's compiler, Python, torch and transformers
    doctor   `squeezebert-kernels doctor`
    suite    the short suite of the table
    cpp      C++ tests of the kernels, in rows with cpp = true
    binary   doctor with the library that the development row built: one binary for every Python and torch

A row that passed leaves only its logs, in build/matrix/logs/NAME. One that failed keeps its folder too.
A row whose compiler, Python or wheel is not to be had is written down as not run, with the reason.
The exit status is 1 if a row failed.

Rows run one after the other. A build of torch for CUDA takes several GB of disk and of downloads. TORCH_INDEX_URL is
honoured: a package index, e.g. one with CPU builds only.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "scripts" / "matrix.toml"
REPORT = ROOT / "docs" / "matrix.md"
WORK = ROOT / "build" / "matrix"
DEVELOPMENT = "development"
LIBRARY = Path("squeezebert_kernels") / "_C.abi3.so"
PASSED, FAILED, NOT_RUN, PENDING = "passed", "FAILED", "not run", "pending"
# Set by the Makefile for its own environment; a row has its own.
OUTER_VARIABLES = (
    "VENV",
    "PYTHON",
    "TORCH",
    "CXX",
    "CTEST_ARGS",
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One combination. ``torch`` and ``transformers`` are pip requirements, ``cxx`` is the name of a command."""

    name: str
    cxx: str
    python: str
    torch: str
    transformers: str
    cpp: bool


@dataclasses.dataclass(frozen=True)
class Table:
    """The parsed table: rows in its order, and the short suite."""

    rows: tuple[Row, ...]
    requires: tuple[str, ...]
    tests: tuple[str, ...]
    select: str
    cpp: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a row. ``versions`` holds what was really used: compiler, Python, torch, transformers."""

    row: str
    outcome: str
    versions: tuple[str, str, str, str]
    details: str


class MissingError(Exception):
    """Something that a row needs is not to be had here."""


def load_toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        from pip._vendor import tomli as tomllib  # type: ignore[no-redef]
    return tomllib.loads(path.read_text(encoding="utf-8"))


def read_table(content: dict[str, Any]) -> Table:
    """ValueError if a row or the suite has a key that means nothing, or the wrong type."""
    fields = {field.name for field in dataclasses.fields(Row)} - {"name"}
    default, suite = content["default"], content["suite"]
    if set(default) != fields:
        raise ValueError(f"[default] must set {sorted(fields)}, it sets {sorted(default)}")
    rows = []
    for name, own in content["rows"].items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
            raise ValueError(f"row {name!r}: a name is made of a-z, 0-9, '-' and '.'")
        for key, value in own.items():
            if key not in fields or type(value) is not type(default[key]):
                raise ValueError(
                    f"row {name!r}: {key} = {value!r} is not one of the keys of [default], or not of its type"
                )
        rows.append(Row(name=name, **{**default, **own}))
    if set(suite) != {"requires", "tests", "select", "cpp"}:
        raise ValueError(f"[suite] must set requires, tests, select and cpp, it sets {sorted(suite)}")
    return Table(tuple(rows), tuple(suite["requires"]), tuple(suite["tests"]), suite["select"], tuple(suite["cpp"]))


def select(table: Table, names: Iterable[str]) -> list[Row]:
    """The named rows in the order of the table, all for no name. ValueError for a name that it does not have."""
    wanted = set(names)
    unknown = wanted - {row.name for row in table.rows}
    if unknown:
        raise ValueError(
            f"no such row: {', '.join(sorted(unknown))}; rows: {', '.join(row.name for row in table.rows)}"
        )
    return [row for row in table.rows if not wanted or row.name in wanted]


def expand(patterns: Iterable[str], root: Path) -> list[str]:
    """Files that match the globs, relative to root. ValueError if a glob matches none: tests never vanish silently."""
    files = []
    for pattern in patterns:
        found = sorted(str(path.relative_to(root)) for path in root.glob(pattern))
        if not found:
            raise ValueError(f"{pattern} matches no file")
        files += found
    return files


def python_version(command: str) -> str:
    """Version such as "3.12.1", or "" if the command does not run."""
    try:
        ask = [command, "-c", "import platform, venv, ensurepip; print(platform.python_version())"]
        return subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def find_python(version: str) -> str:
    """An interpreter of this version, e.g. "3.12": the running one, on PATH, or among those of pyenv. MissingError."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable, f"python{version}"]
    candidates += sorted((str(path) for path in pyenv.glob(f"{version}.*/bin/python")), reverse=True)
    for candidate in candidates:
        if python_version(candidate).startswith(f"{version}."):
            return candidate
    raise MissingError(f"no Python {version} (with venv) found")


def compiler_version(command: str) -> str:
    """First line of its --version. MissingError if there is no such command."""
    if shutil.which(command) is None:
        package = command.replace("clang++", "clang")
        raise MissingError(f"no {command} found (Debian, Ubuntu: apt install {package})")
    lines = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()
    return lines[0].strip()


def missing_wheel(log: str) -> str:
    """What pip says it cannot find, "" if it found everything."""
    found = re.search(r"No matching distribution found for (.+)", log)
    return found[1].strip() if found else ""


def copy_sources(target: Path) -> None:
    """The working tree as git sees it: tracked files, and new ones that it does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():  # a deleted file is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def row_environment(row: Row, python: str, folder: Path) -> dict[str, str]:
    """The environment of a row's commands. pip's constraints pin torch and transformers in everything installed."""
    environment = {key: value for key, value in os.environ.items() if key not in OUTER_VARIABLES}
    return {
        **environment,
        "CXX": row.cxx,
        "PYTHON": python,
        "TORCH": row.torch,
        "PIP_CONSTRAINT": str(folder / "constraints.txt"),
        "PIP_NO_COMPILE": "1",  # most of what torch brings is never imported
        "CCACHE_BASEDIR": str(folder),  # rows share what they compile alike, where ccache is in use
    }


def summary(log: str) -> str:
    """The closing line of pytest or ctest in short, e.g. "123 passed, 1 skipped"; "" if there is none."""
    for line in reversed(log.splitlines()):
        pytest = re.search(r"(\d+ (?:passed|failed|error).*?)(?:, \d+ warnings?)? in [\d.]+s", line)
        ctest = re.search(r"tests passed(?:, (\d+) tests failed)? out of (\d+)", line)  # newer ones name no 0
        if pytest:
            return pytest[1]
        if ctest:
            return f"{int(ctest[2]) - int(ctest[1] or 0)} of {ctest[2]} passed"
    return ""


class RowRun:
    """Runs one row's steps in its folder, each with a log of its own."""

    def __init__(self, row: Row, table: Table, echo: Callable[[str], None]) -> None:
        self.row, self.table, self.echo = row, table, echo
        self.folder, self.logs = WORK / row.name, WORK / "logs" / row.name
        self.environment: dict[str, str] = {}
        self.versions = ["", row.python, row.torch, row.transformers]
        self.done: list[str] = []

    def step(self, name: str, *command: str) -> tuple[bool, str]:
        """Whether the command exited 0, and what it printed."""
        path, start = self.logs / f"{name}.log", time.monotonic()
        with path.open("ab") as log:
            status = subprocess.run(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode
        text = path.read_text(errors="replace")
        note = summary(text)
        self.echo(
            f"    {name}: {'ok' if status == 0 else 'FAILED'}{note and ', ' + note} ({time.monotonic() - start:.0f} s)"
        )
        return status == 0, text

    def result(self, outcome: str, details: str) -> Result:
        compiler, python, torch, transformers = self.versions
        return Result(self.row.name, outcome, (compiler or self.row.cxx, python, torch, transformers), details)

    def run(self) -> Result:
        try:
            self.prepare()
            failed = self.steps()
        except MissingError as reason:
            shutil.rmtree(self.folder, ignore_errors=True)
            return self.result(NOT_RUN, str(reason))
        if failed:
            return self.result(FAILED, "; ".join([*self.done, f"{failed} failed"]))
        if self.row.name == DEVELOPMENT:
            shutil.copy(self.folder / LIBRARY, WORK / LIBRARY.name)
        shutil.rmtree(self.folder)
        return self.result(PASSED, "; ".join(self.done))

    def prepare(self) -> None:
        for folder in (self.folder, self.logs):
            shutil.rmtree(folder, ignore_errors=True)
        self.versions[0] = compiler_version(self.row.cxx)
        python = find_python(self.row.python)
        for folder in (self.folder, self.logs):
            folder.mkdir(parents=True)
        copy_sources(self.folder)
        (self.folder / "constraints.txt").write_text(f"{self.row.torch}\n{self.row.transformers}\n")
        self.environment = row_environment(self.row, python, self.folder)

    def steps(self) -> str:
        """Name of the step that failed, "" if none did; the others are in self.done."""
        python = str(self.folder / ".venv" / "bin" / "python")
        command = str(self.folder / ".venv" / "bin" / "squeezebert-kernels")
        ok, text = self.step("build", "make", "build")
        if not ok:
            text += "".join(path.read_text(errors="replace") for path in (self.folder / "build" / "logs").glob("*.log"))
            if missing_wheel(text):
                raise MissingError(
                    f"no distribution of {missing_wheel(text)} for Python {self.row.python} in the index"
                )
            return "build"
        self.versions[1:] = self.installed(python)
        self.done.append("build")

        ok, _ = self.step("doctor", command, "doctor")
        if not ok:
            return "doctor"
        self.done.append("doctor")

        ok, _ = self.step("install-suite", python, "-m", "pip", "install", *self.table.requires)
        if not ok:
            return "install-suite"
        pytest = [python, "-m", "pytest", "-q", "--durations=10", "-k", self.table.select]
        ok, text = self.step("suite", *pytest, *expand(self.table.tests, self.folder))
        if not ok:
            return f"suite ({summary(text)})"
        self.done.append(f"suite: {summary(text)}")

        if self.row.cpp and not self.cpp_tests():
            return "cpp"
        return "" if self.other_binary(command) else "binary"

    def installed(self, python: str) -> list[str]:
        ask = (
            "import platform, importlib.metadata as m; "
            "print(platform.python_version(), m.version('torch'), m.version('transformers'))"
        )
        return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.split()

    def cpp_tests(self) -> bool:
        bin_folder = self.folder / ".venv" / "bin"
        cmake = str(bin_folder / "cmake")
        targets = [f"{topic}_test" for topic in self.table.cpp]
        pattern = f"^({'|'.join(self.table.cpp)})(\\.|$)"
        for arguments in (
            ["-S", ".", "-B", "build/cmake", "-DSBK_BUILD_TESTS=ON"],
            ["--build", "build/cmake", "--target", *targets],
        ):
            ok, _ = self.step("cpp-build", cmake, *arguments)
            if not ok:
                return False
        ctest = [
            str(bin_folder / "ctest"),
            "--test-dir",
            "build/cmake",
            "-j",
            "2",
            "--output-on-failure",
            "--no-tests=error",
        ]
        ok, text = self.step("cpp", *ctest, "-R", pattern)
        if ok:
            self.done.append(f"C++: {summary(text)}")
        return ok

    def other_binary(self, command: str) -> bool:
        """doctor with the library that the development row built, if that one has run in this call."""
        library = WORK / LIBRARY.name
        if self.row.name == DEVELOPMENT or not library.exists():
            return True
        (self.folder / LIBRARY).unlink()
        shutil.copy(library, self.folder / LIBRARY)
        ok, _ = self.step("binary", command, "doctor")
        if ok:
            self.done.append("development's binary")
        return ok


HEADER = """\
# What was run

`make matrix` writes this page. It runs every row of [scripts/matrix.toml](../scripts/matrix.toml) in
an environment of its own. Each row is built, runs `squeezebert-kernels doctor` and a short suite of
Python tests. Some rows run C++ tests of the kernels too. "Development's binary" is `doctor` once
more, with the library that the row `development` built.

- *passed*: every step succeeded. *FAILED*: a step did not; the line says which one.
- *not run*: something that the row needs was not to be had on the machine; the line says what.
- *pending*: the row has not been run to its end. It is expected to work, and is not promised.

Only the newest run of each row is kept. `make matrix MATRIX_ARGS="gcc-11 oldest"` runs two rows and
leaves the other lines as they are. `make test` runs every test on a machine like the one of the row
`development`.

| row | result | compiler | Python | torch | transformers | what | when, where |
|---|---|---|---|---|---|---|---|
"""


def report_line(result: Result, when: str) -> str:
    cells = [result.row, result.outcome, *result.versions, result.details, when]
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def read_report(text: str) -> dict[str, list[str]]:
    """Cells of every row's line, by the row's name."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells] for cells in lines if cells[0].strip() != "row"}


def merge_report(text: str, table: Table, results: dict[str, str]) -> str:
    """The page: the lines of ``results`` (by row), the old ones of other rows, "pending" where there is none."""
    old = read_report(text)
    lines = []
    for row in table.rows:
        if row.name in results:
            lines.append(results[row.name])
        elif row.name in old:
            lines.append("| " + " | ".join(old[row.name]) + " |")
        else:
            versions = (row.cxx, row.python, row.torch, row.transformers)
            lines.append(report_line(Result(row.name, PENDING, versions, ""), ""))
    return HEADER + "\n".join(lines) + "\n"


def exit_status(results: Iterable[Result]) -> int:
    return int(any(result.outcome == FAILED for result in results))


def print_results(results: Iterable[Result], echo: Callable[[str], None]) -> None:
    for result in results:
        compiler, *versions = result.versions
        echo(f"{result.row:18} {result.outcome:8} {' '.join([*versions, compiler])}")
        echo(f"{'':18} {'':8} {result.details}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="matrix.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to run (default: all of them)")
    parser.add_argument("--list", action="store_true", help="print the rows and run nothing")
    options = parser.parse_args(arguments)
    table = read_table(load_toml(TABLE))
    try:
        rows = select(table, options.rows)
    except ValueError as error:
        parser.error(str(error))

    def echo(line: str) -> None:
        print(line, flush=True)

    if not options.list:
        (WORK / LIBRARY.name).unlink(missing_ok=True)  # of other sources, perhaps
    results = []
    lines: dict[str, str] = {}
    for row in rows:
        echo(f"{row.name}: {row.cxx}, Python {row.python}, {row.torch}, {row.transformers}{', C++ tests' * row.cpp}")
        if options.list:
            continue
        result = RowRun(row, table, echo).run()
        results.append(result)
        echo(f"    {result.outcome}: {result.details}")
        lines[row.name] = report_line(result, f"{datetime.date.today()}, {platform.system()} {platform.machine()}")
        # After every row: what was run stays written down if a later row is interrupted.
        text = REPORT.read_text(encoding="utf-8") if REPORT.exists() else ""
        REPORT.write_text(merge_report(text, table, lines), encoding="utf-8")
    if results:
        echo("")
        print_results(results, echo)
    return exit_status(results)


if __name__ == "__main__":
    sys.exit(main())
