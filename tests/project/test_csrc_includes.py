"""The rooms of csrc/: which folder may include which, and which files an instruction set tier consists of."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".h", ".cpp", ".inc"}
HEADER = "squeezebert_kernels.h"  # of include/: programs include it as users do, by its name alone

# What a room includes beside itself. From the ground up: a row names rows above it only.
ROOMS = {
    "include": set(),
    "kernels": set(),
    "simd": {"kernels"},
    "isa": {"kernels", "simd"},
    "peak": {"isa", "kernels"},
    "runtime": {"isa", "kernels"},
    "ops": {"kernels", "runtime"},
    "training": {"kernels", "ops"},
    "torch": {"ops", "runtime", "training"},
    "model": {"include", "isa", "kernels", "ops", "runtime"},
    "capi": {"include", "isa", "model", "ops", "runtime"},
    "tools": {"capi", "include", "peak", "runtime"},
}  # fmt: skip
OTHERS_HEADERS = {"torch": "torch", "sys": None}  # "folder/" of <...>: the room that includes it; None: all


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def sources(root: Path) -> dict[str, str]:
    """Every source of csrc/, by its path below it, without comments."""
    paths = sorted(path for path in (root / "csrc").rglob("*") if path.suffix in SUFFIXES)
    return {
        path.relative_to(root / "csrc").as_posix(): without_comments(path.read_text(encoding="utf-8")) for path in paths
    }


def includes(text: str, quotes: str) -> list[str]:
    return re.findall(rf"^\s*#\s*include\s*{quotes[0]}([^{quotes[1]}]+){quotes[1]}", text, re.MULTILINE)


def arrows(files: dict[str, str]) -> dict[str, set[str]]:
    """Which rooms each room includes beside itself."""
    found: dict[str, set[str]] = {name.split("/")[0]: set() for name in files}
    for name, text in files.items():
        rooms = {"include" if other == HEADER else other.split("/")[0] for other in includes(text, '""')}
        found[name.split("/")[0]] |= rooms - {name.split("/")[0]}
    return found


def violations(files: dict[str, str]) -> list[str]:
    found = []
    for name, text in files.items():
        room = name.split("/")[0]
        if room not in ROOMS:
            found.append(f"{name}: '{room}' has no row in ROOMS")
            continue
        for other in includes(text, '""'):
            target = "include" if other == HEADER else other.split("/")[0]
            if f"include/{HEADER}" != other and other != HEADER and other not in files:
                found.append(f"{name}: {other} is not a file of csrc/")
            elif target != room and target not in ROOMS[room]:
                found.append(f"{name}: {room} must not include {target} ({other})")
        for other in includes(text, "<>"):
            owner = OTHERS_HEADERS.get(other.split("/")[0], "nothing") if "/" in other else None
            if owner not in (None, room):
                found.append(f"{name}: <{other}> is for {owner} only")
    return found


def test_includes_go_one_way():
    assert violations(sources(ROOT)) == []


def test_rooms_are_listed_from_the_ground_up():
    below: set[str] = set()
    for room, allowed in ROOMS.items():
        assert allowed <= below, f"{room} names a row below its own"
        below.add(room)


def test_no_room_may_include_more_than_it_does():
    assert arrows(sources(ROOT)) == ROOMS


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("kernels/new.h", '#include "simd/avx2.h"', "kernels must not include simd"),
        ("runtime/new.h", '#include "ops/ops.h"', "runtime must not include ops"),
        ("model/new.h", '#  include "capi/capi.h"', "model must not include capi"),
        ("tools/new.cpp", '#include "bench/cpp/cases.h"', "bench/cpp/cases.h is not a file of csrc"),
        ("ops/new.cpp", '#include "../tests/cpp/support/check.h"', "is not a file of csrc"),
        ("capi/new.cpp", "#include <torch/headeronly/core/ScalarType.h>", "is for torch only"),
        ("core/new.cpp", "", "'core' has no row"),
        ("ops/new.cpp", '// #include "capi/capi.h"', None),
    ],
)  # fmt: skip
def test_an_include_the_other_way_is_found(file, line, message):
    found = violations({**sources(ROOT), file: without_comments(line)})
    assert [message in text for text in found] == [True] if message else found == []


# --- tiers ---

TIERS = ROOT / "csrc" / "isa" / "tiers.inc"


def tiers() -> list[str]:
    return re.findall(r"^SBK_TIER\((\w+), ", TIERS.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_tier_has_its_entries_and_two_files():
    names = tiers()
    assert len(names) >= 9
    for entry in ("FLAGS", "LAYOUT"):
        given = re.findall(rf"^SBK_TIER_{entry}\((\w+), ", TIERS.read_text(encoding="utf-8"), re.MULTILINE)
        assert given == names, entry
    files = sources(ROOT)
    assert sorted(Path(file).stem for file in files if re.fullmatch(r"isa/\w+\.cpp", file)) == sorted(names)
    assert sorted(Path(file).stem for file in files if re.fullmatch(r"peak/\w+\.cpp", file)) == sorted([*names, "peak"])


def test_a_tier_is_named_in_its_own_files_only():
    """docs/architecture.md says which files a new tier touches; no other code has a list of them."""
    named = {
        f"csrc/{file}": text
        for file, text in sources(ROOT).items()
        # Two files name features of CPUs, some of which are called as a tier is.
        if file.split("/")[0] not in ("isa", "simd", "peak")
        and file not in ("runtime/cpu.cpp", "tools/bench_machine.cpp")
    }
    for path in (
        ROOT / "CMakeLists.txt",
        *(ROOT / "cmake").rglob("*.cmake"),
        *(ROOT / "tests").rglob("CMakeLists.txt"),
    ):
        named[path.relative_to(ROOT).as_posix()] = re.sub(r"#[^\n]*", "", path.read_text(encoding="utf-8"))
    del named["cmake/tiers.cmake"]  # flags that GCC needs, for families of tiers
    others = [tier for tier in tiers() if tier != "scalar"]  # which every build has, and which is a word of its own
    found = [(file, tier) for tier in others for file, text in named.items() if re.search(rf"\b{tier}\b", text)]
    assert found == []
