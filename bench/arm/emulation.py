"""An emulated ARM for everything in this folder: QEMU with the counting plugin, and cross compilers.

Instructions are counted exactly; the time that emulation takes means nothing and is never reported.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# The file itself: importing the package would import torch, which counting instructions does not need.
sys.path.append(str(Path(__file__).resolve().parents[2] / "squeezebert_kernels" / "benchmark"))
import build_tools
from build_tools import ROOT, Unavailable, find_tool, need_tool, run, run_or_raise

HERE = Path(__file__).resolve().parent
BUILD = ROOT / "build"
QEMU = "qemu-aarch64"

# Multiply-adds of values that one instruction of a class (instruction_mix.c) makes, in 128-bit registers.
PRODUCTS = {
    "fma_fp32": 4,
    "fma_fp64": 2,
    "fma_fp16": 8,
    "fma_widening": 4,
    "mla_int": 4,
    "dot_int8": 16,
    "dot_bf16": 8,
    "mmla_int8": 32,
    "mmla_bf16": 16,
}

TIERS = ROOT / "csrc" / "isa" / "tiers.inc"
# A QEMU CPU that has a tier's instructions and not the next one's.
CPUS = dict(re.findall(r'^SBK_TIER_EMULATED\((\w+), "(.+)"\)$', TIERS.read_text(encoding="utf-8"), re.MULTILINE))
DEFAULT_CPU = "max,sve=off,sme=off"


class Failed(Unavailable):
    """A counted program did not exit with 0."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# --- cross compilers ---


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler for aarch64 Linux: how to call it, and what makes a program that QEMU runs without a sysroot."""

    name: str
    command: tuple[str, ...]
    link_flags: tuple[str, ...]

    def version(self) -> str:
        first = run([*self.command, "--version"]).stdout.splitlines()
        return first[0].strip() if first else self.name


def has_module(name: str) -> bool:
    return run([sys.executable, "-c", f"import {name}"]).returncode == 0


def compilers() -> list[Compiler]:
    """Those that are installed, the one that the committed counts were made with first."""
    found = []
    gcc = find_tool("aarch64-linux-gnu-g++")
    if gcc:
        found.append(Compiler("gcc", (gcc,), ("-static",)))
    if has_module("ziglang"):
        zig = (sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl")
        found.append(Compiler("zig", zig, ("-static",)))
    clang = find_tool("clang++-19", "clang++-20", "clang++-21", "clang++")
    if clang and gcc:  # clang brings no C++ library for aarch64: it takes the cross GCC's
        found.append(Compiler("clang", (clang, "--target=aarch64-linux-gnu"), ("-static",)))
    return found


def compiler(name: str | None = None) -> Compiler:
    found = compilers()
    chosen = next((c for c in found if name in (None, c.name)), None)
    if chosen is None:
        raise Unavailable(
            f"no {name or 'aarch64'} cross compiler: apt install g++-aarch64-linux-gnu, or pip install ziglang"
        )
    return chosen


def configure(cross: Compiler) -> Path:
    """A build of the benchmark for aarch64 in build/arm-bench-<compiler>, configured."""
    folder = BUILD / f"arm-bench-{cross.name}"
    folder.mkdir(parents=True, exist_ok=True)
    # CMake wants one program without arguments for a compiler.
    wrapper = folder / "c++"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(cross.command)} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    build_tools.configure(
        folder, "-DSBK_BUILD_BENCH=ON", "-DSBK_BUILD_CAPI=OFF", "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={wrapper}",
        f"-DCMAKE_EXE_LINKER_FLAGS={' '.join(cross.link_flags)}",
    )  # fmt: skip
    return folder


def build_bench(name: str | None = None) -> Path:
    """bench/cpp's sbk_kernel_bench for aarch64, brought up to date."""
    folder = configure(compiler(name))
    build_tools.build(folder, "sbk_kernel_bench")
    return folder / "bench" / "cpp" / "sbk_kernel_bench"


# --- counting ---


@dataclass
class Counts:
    """Executed instructions, by class; of the hottest blocks the plugin's own records."""

    total: int
    classes: dict[str, int]
    hottest: list[dict]

    def __sub__(self, other: Counts) -> Counts:
        classes = {name: count - other.classes[name] for name, count in self.classes.items()}
        return Counts(self.total - other.total, classes, self.hottest)

    def __floordiv__(self, n: int) -> Counts:
        return Counts(self.total // n, {name: count // n for name, count in self.classes.items()}, self.hottest)

    @property
    def multiplies(self) -> int:
        """Vector instructions that multiply and add."""
        return sum(self.classes[name] for name in PRODUCTS)

    @property
    def products(self) -> int:
        """The multiply-adds of values that they can make."""
        return sum(self.classes[name] * products for name, products in PRODUCTS.items())


def plugin() -> Path:
    """instruction_mix.so, built if it is older than its source."""
    source, library = HERE / "instruction_mix.c", BUILD / "arm-plugin" / "instruction_mix.so"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        cc = find_tool("cc", "gcc", "clang")
        if cc is None:
            raise Unavailable("no C compiler for the counting plugin: install cc")
        library.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
        run_or_raise([cc, *flags, "-o", library, source], "building the counting plugin")
    return library


def count(command: Sequence[str | Path], *, cpu: str, hottest: int = 0, options: Sequence[str | Path] = ()) -> Counts:
    """What ``command`` executes from start to exit. ``options`` are QEMU's."""
    qemu = need_tool(QEMU, "apt install qemu-user")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "mix.json"
        loaded = f"{plugin()},out={out},hottest={hottest}"
        done = run([qemu, "-cpu", cpu, *options, "-plugin", loaded, *command])
        if done.returncode != 0 or not out.exists():
            lines = (done.stderr + done.stdout).strip().splitlines()
            message = lines[-1] if lines else "no output"
            raise Failed(done.returncode, f"on {cpu}, exit status {done.returncode}: {message}")
        mix = json.loads(out.read_text(encoding="utf-8"))
    return Counts(mix["total"], mix["classes"], mix["hottest"])


def count_one_call(
    command: Callable[[int], Sequence[str | Path]],
    *,
    cpu: str,
    calls: tuple[int, int] = (1, 3),
    hottest: int = 0,
    options: Sequence[str | Path] = (),
) -> Counts:
    """What one more call costs: the difference of two runs, so that starting and preparing count for nothing."""
    few, many = (count(command(n), cpu=cpu, hottest=hottest, options=options) for n in calls)
    return (many - few) // (calls[1] - calls[0])
