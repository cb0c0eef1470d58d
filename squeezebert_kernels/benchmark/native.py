"""Peaks of this machine, and the kernels one by one, from the compiled benchmark library (bench/cpp/api.h).

The library is no part of the installed package: it is found through SBK_BENCH_LIBRARY, or built from a source checkout.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ..ops.dtypes import DTYPES, PACKED
from . import build_tools
from .build_tools import ROOT, Unavailable

BUILD_DIR = ROOT / "build" / "bench"
LIBRARY_NAME = "libsbk_kernel_bench" + (".dylib" if sys.platform == "darwin" else ".so")
VARIABLE = "SBK_BENCH_LIBRARY"
PEAKS = tuple(short for short, name in DTYPES.items() if name in PACKED)
"""Dtypes whose peak can be measured."""


@dataclass(frozen=True)
class Case:
    """A kernel on a shape, by names: the ISA tier's, the dtype's ("float32", ...), the case's (bench/cpp/cases.h)."""

    isa: str
    dtype: str
    name: str


def build() -> Path:
    """Brings the library in build/bench up to date with the sources and returns its folder."""
    if not (ROOT / "bench" / "cpp" / "CMakeLists.txt").exists():
        raise Unavailable(f"the benchmark library is built from a source checkout; or set {VARIABLE}")
    build_tools.configure(BUILD_DIR, "-DSBK_BUILD_BENCH=ON")
    build_tools.build(BUILD_DIR)
    return BUILD_DIR / "bench" / "cpp"


@functools.cache
def load() -> ctypes.CDLL:
    """The library, built first where it comes from a checkout."""
    given = os.environ.get(VARIABLE)
    path = Path(given) if given else build() / LIBRARY_NAME
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} does not load: {error}") from None
    text, real, integer, handle = ctypes.c_char_p, ctypes.c_double, ctypes.c_int64, ctypes.c_void_p
    for name, result, arguments in (
        ("sbk_bench_cases", text, []),
        ("sbk_bench_peak", real, [text, text, integer, integer]),
        ("sbk_bench_bandwidth", real, [integer]),
        ("sbk_bench_open", handle, [text, text, text]),
        ("sbk_bench_error", real, [handle]),
        ("sbk_bench_flops", real, [handle]),
        ("sbk_bench_bytes", real, [handle]),
        ("sbk_bench_run", real, [handle, integer]),
        ("sbk_bench_close", None, [handle]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def cases() -> list[Case]:
    """Every kernel, dtype and shape on every ISA tier of this machine."""
    return [Case(*line.split("\t")) for line in load().sbk_bench_cases().decode().splitlines()]


def peak(isa: str, dtype: str, *, milliseconds: float = 3.0, threads: int = 1) -> float:
    """Operations per second of the tier's multiply-add instruction for ``dtype`` on registers alone, on ``threads``."""
    rate = load().sbk_bench_peak(isa.encode(), DTYPES[dtype].encode(), int(milliseconds * 1e3), threads)
    if rate <= 0:
        raise Unavailable(f"no peak loop for {dtype} on {isa}")
    return rate


def bandwidth(threads: int = 1) -> float:
    """Bytes per second of reading a block that no cache holds."""
    return load().sbk_bench_bandwidth(threads)


class Kernel:
    """A case with its buffers, ready to run."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._handle = load().sbk_bench_open(case.isa.encode(), case.dtype.encode(), case.name.encode())
        if not self._handle:
            raise Unavailable(f"no case {case}")
        self.flops: float = load().sbk_bench_flops(self._handle)
        self.bytes: float = load().sbk_bench_bytes(self._handle)

    def error(self) -> float:
        """The largest error against a float64 reference, as a share of what the dtype allows: right up to 1."""
        return load().sbk_bench_error(self._handle)

    def run(self, calls: int) -> float:
        """Seconds that ``calls`` calls took."""
        return load().sbk_bench_run(self._handle, calls)

    def close(self) -> None:
        if self._handle:
            load().sbk_bench_close(self._handle)
            self._handle = None

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
