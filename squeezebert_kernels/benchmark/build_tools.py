"""Tools that build from a source checkout: the benchmark library, programs for tests, kernels for AArch64.

Only the standard library is imported, here and by bench/arm, which uses this file without the package and its torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Unavailable(Exception):
    """A tool that is needed is not installed, or it failed; the message says which, and what to do."""


def find_tool(*names: str) -> str | None:
    """The first of ``names`` that is installed, in this Python's environment or on the PATH."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return next((path for name in names if (path := shutil.which(name, path=search))), None)


def need_tool(name: str, hint: str) -> str:
    """As :func:`find_tool`; Unavailable, with ``hint`` on how to install it, where it is not there."""
    path = find_tool(name)
    if path is None:
        raise Unavailable(f"{name} is not installed: {hint}")
    return path


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """``command``, its output as text; ``options`` are subprocess.run's."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)


def run_or_raise(command: Sequence[str | Path], what: str, **options: Any) -> str:
    """Standard output of ``command``; Unavailable, with the line that names the error, where ``what`` failed."""
    done = run(command, **options)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        error = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise Unavailable(f"{what} failed with exit status {done.returncode}: {error.strip()}")
    return done.stdout


def configure(folder: Path, *options: str, source: Path = ROOT) -> None:
    """CMake's first step for the checkout ``source``, in ``folder``: with Ninja where that is installed and the folder
    is new."""
    cmake, ninja = need_tool("cmake", "pip install cmake ninja"), find_tool("ninja")
    command: list[str | Path] = [cmake, "-S", source, "-B", folder, *options]
    if ninja is not None and not (folder / "CMakeCache.txt").exists():
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    run_or_raise(command, f"configuring {folder}")


def build(folder: Path, *targets: str) -> None:
    """Brings ``targets``, or all, of a configured folder up to date with the sources."""
    command: list[str | Path] = [need_tool("cmake", "pip install cmake ninja"), "--build", folder, "--parallel", "2"]
    if targets:
        command += ["--target", *targets]
    run_or_raise(command, f"building {' '.join(targets) or folder}")
