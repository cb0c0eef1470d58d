"""The C++ tokenizer for Python tests: a program, sbk_tokenize (tests/cpp/model/tokenizer_main.cpp), to talk to.

The program is named by SBK_TOKENIZE, with an emulator in front of it for another machine's, or else built.
"""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from squeezebert_kernels.benchmark import build_tools

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "SBK_TOKENIZE"
TRUNCATIONS = (False, "longest_first", "only_first", "only_second")


def command() -> list[str]:
    """How to run the program; skips the test where it cannot be built."""
    given = os.environ.get(VARIABLE)
    if given:
        return shlex.split(given)
    if build_tools.find_tool("cmake") is None:
        pytest.skip(f"cmake is needed to build sbk_tokenize, or {VARIABLE} must name it")
    folder = ROOT / "build" / "cmake"  # that of `make test`, where it has the C++ tests
    cache = folder / "CMakeCache.txt"
    if not cache.exists() or "SBK_BUILD_TESTS:BOOL=ON" not in cache.read_text():
        folder = ROOT / "build" / "tests"
        build_tools.configure(folder, "-DSBK_BUILD_TESTS=ON", source=ROOT)
    build_tools.build(folder, "sbk_tokenize")
    return [str(folder / "tests" / "cpp" / "sbk_tokenize")]


class Refused(Exception):
    """The program's message for a request that it refuses."""


@dataclass
class Encoding:
    ids: list[int]
    type_ids: list[int]
    special: list[int]
    spans: list[tuple[int, int]]  # in bytes


class NativeTokenizer:
    """A running program; every request waits for its answer."""

    def __init__(self, run: list[str], data: Path) -> None:
        self._process = subprocess.Popen([*run, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def encode(
        self,
        text: str | bytes,
        pair: str | bytes | None = None,
        *,
        max_length: int = 0,
        truncation: bool | str = False,
    ) -> Encoding:
        which = TRUNCATIONS.index("longest_first" if truncation is True else truncation)
        request = struct.pack("<4i", 0, max_length, which, pair is not None) + _string(text)
        self._ask(request + (_string(pair) if pair is not None else b""))
        n = self._int()
        values = struct.unpack(f"<{5 * n}i", self._read(20 * n))
        columns = [list(values[i::5]) for i in range(5)]
        return Encoding(columns[0], columns[1], columns[2], list(zip(columns[3], columns[4], strict=True)))

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        self._ask(struct.pack(f"<{3 + len(ids)}i", 1, skip_special, len(ids), *ids))
        return self._string().decode()

    def token(self, number: int) -> str:
        self._ask(struct.pack("<2i", 2, number))
        return self._string().decode()

    def id(self, token: str) -> int:
        self._ask(struct.pack("<i", 3) + _string(token))
        return self._int()

    def close(self) -> None:
        self._in.close()
        assert self._process.wait(timeout=60) == 0
        self._out.close()

    def _ask(self, request: bytes) -> None:
        self._in.write(request)
        self._in.flush()
        if self._int() != 0:
            raise Refused(self._string().decode())

    def _read(self, n: int) -> bytes:
        data = self._out.read(n)
        if len(data) != n:
            raise RuntimeError(f"sbk_tokenize ended with status {self._process.wait(timeout=60)}")
        return data

    def _int(self) -> int:
        return struct.unpack("<i", self._read(4))[0]

    def _string(self) -> bytes:
        return self._read(self._int())


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<i", len(data)) + data
