"""docs/format.md lists every limit of csrc/model/limits.h with its value."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def limits():
    header = (ROOT / "csrc" / "include" / "squeezebert_kernels.h").read_text()
    most = re.search(r"#define SBK_MAX_TEXT_BYTES (\d+)", header)[1]
    source = (ROOT / "csrc" / "model" / "limits.h").read_text().replace("SBK_MAX_TEXT_BYTES", most)
    found = {}
    for name, value in re.findall(r"constexpr \w+ (k\w+) = ([^;]+);", source):
        terms = re.fullmatch(r"(?:u?int64_t\{(\d+)\}|([\d']+))(?: << (\d+))?", value)
        assert terms, f"{name} = {value} is written in a new way"
        number = int((terms[1] or terms[2]).replace("'", "")) << int(terms[3] or 0)
        found[name] = number
    return found


def ways_to_write(number):
    ways = {f"{number}"}
    if number % (1 << 20) == 0:
        ways |= {f"{number >> 20} MiB"}
    if number & (number - 1) == 0:
        ways |= {f"2^{number.bit_length() - 1}"}
    if number % 1_000_000 == 0:
        ways |= {f"{number // 1_000_000} MB"}
    return ways


def test_every_limit_is_documented():
    found = limits()
    assert len(found) > 20
    page = (ROOT / "docs" / "format.md").read_text()
    for name, number in found.items():
        written = [way for way in ways_to_write(number) if re.search(rf"(?<![\d^]){re.escape(way)}(?!\d)", page)]
        assert written, (name, number)


def test_every_size_of_a_configuration_is_limited():
    """No number is read from config.json without a limit of its own."""
    source = (ROOT / "csrc" / "model" / "config.cpp").read_text()
    calls = re.findall(r"(?:r|reader)\.integer\(([^;]*?)\)[;\s:]", source)
    assert len(calls) >= 9
    assert all("limits::k" in call for call in calls), calls
