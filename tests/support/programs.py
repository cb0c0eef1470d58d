"""sbk-run and sbk-bench for tests: found through SBK_PROGRAMS, a folder, or else built.

SBK_EMULATOR is what to run those of another machine with, e.g. "qemu-aarch64 -cpu cortex-a76".
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from squeezebert_kernels.benchmark import build_tools

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "SBK_PROGRAMS"


def _build(*targets: str) -> Path:
    """The build folder with `targets` in it; skips the test where there is no CMake."""
    if build_tools.find_tool("cmake") is None:
        pytest.skip(f"cmake is needed to build the programs, or {VARIABLE} must name their folder")
    folder = ROOT / "build" / "cmake"  # that of the extension, where most of the library is compiled already
    if not (folder / "CMakeCache.txt").exists():
        folder = ROOT / "build" / "programs"
        if not (folder / "CMakeCache.txt").exists():
            build_tools.configure(folder, source=ROOT)
    build_tools.build(folder, *targets)
    return folder


@functools.cache
def command(name: str) -> list[str]:
    """The program as the beginning of a command."""
    given = os.environ.get(VARIABLE)
    path = Path(given) / name if given else _build(name) / "bin" / name
    return [*shlex.split(os.environ.get("SBK_EMULATOR", "")), str(path)]


@functools.cache
def shared_library() -> Path:
    """The folder that libsqueezebert_kernels is in."""
    return _build("squeezebert_kernels")


def run(name: str, *arguments: str | Path, text: str | bytes = "", **environment: str) -> subprocess.CompletedProcess:
    """One call; its output as text, which must be UTF-8."""
    given = text.encode() if isinstance(text, str) else text
    done = subprocess.run(
        [*command(name), *map(str, arguments)],
        input=given,
        capture_output=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode in (0, 1, 2), f"exit status {done.returncode}: {err}"
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def answer(model: Path, *texts: str, options: Sequence[str] = (), text: str | bytes = "") -> Any:
    """What sbk-run --json says."""
    done = run("sbk-run", *options, "--json", model, "--", *texts, text=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    return json.loads(done.stdout)
