"""sbk-run and sbk-bench for tests: found through SBK_PROGRAMS, a folder, or else built.

SBK_EMULATOR is what to run those of another machine with, e.g. "qemu-aarch64 -cpu cortex-a76".
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "SBK_PROGRAMS"


def _build(*targets: str) -> Path:
    """The build folder with `targets` in it; skips the test where there is no CMake."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    cmake, ninja = (shutil.which(name, path=search) for name in ("cmake", "ninja"))
    if cmake is None:
        pytest.skip(f"cmake is needed to build the programs, or {VARIABLE} must name their folder")
    folder = ROOT / "build" / "cmake"  # that of the extension, where most of the library is compiled already
    if not (folder / "CMakeCache.txt").exists():
        folder = ROOT / "build" / "programs"
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja is not None else []
        if not (folder / "CMakeCache.txt").exists():
            configure = [cmake, "-S", str(ROOT), "-B", str(folder), *generator]
            subprocess.run(configure, check=True, capture_output=True)
    build = [cmake, "--build", str(folder), "--parallel", "2", "--target", *targets]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
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
