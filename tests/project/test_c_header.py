"""The numbers and structs of the C header are those that Python passes to the library."""

import ast
import ctypes
import re
from pathlib import Path
from typing import Any

from squeezebert_kernels.export import c_library

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "csrc" / "include" / "squeezebert_kernels.h"
C_TYPES = {
    "size_t": ctypes.c_size_t, "const char*": ctypes.c_char_p, "int32_t": ctypes.c_int32,
    "sbk_dtype": ctypes.c_int, "sbk_head": ctypes.c_int,
}  # fmt: skip


def declaration(kind: str, name: str) -> str:
    """What stands between the braces of `typedef kind name {...} name;`."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.search(rf"typedef {kind} {name} {{([^}}]*)}} {name};", text)
    assert found, f"the header has no {kind} {name}"
    return found[1]


def numbers(name: str, prefix: str) -> dict[str, int]:
    """The enumerators of an enum as Python names them: without the prefix, in lower case."""
    found = re.findall(r"(\w+) = (\d+)", declaration("enum", name))
    return {key.removeprefix(prefix).lower(): int(number) for key, number in found}


def constants(path: Path, *names: str) -> list[Any]:
    """Constants of a Python file, which may need more than is installed to be imported."""
    assigned = {
        node.targets[0].id: node.value
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return [ast.literal_eval(assigned[name]) for name in names]


DTYPES = numbers("sbk_dtype", "SBK_")
HEADS = numbers("sbk_head", "SBK_HEAD_")


def test_the_exporter_has_the_numbers_of_the_header():
    assert {"dtype_default": 0, **c_library.DTYPE_NUMBERS} == DTYPES
    assert c_library.HEADS == HEADS
    assert numbers("sbk_status", "SBK_")["ok"] == 0


def test_squeezebert_runtime_has_the_numbers_of_the_header():
    dtypes, heads = constants(ROOT / "python" / "squeezebert_runtime" / "model.py", "DTYPES", "HEADS")
    assert {"dtype_default": 0, **dtypes} == DTYPES
    assert {"default": 0, **heads} == HEADS


def test_load_options_have_the_fields_of_the_header():
    fields = re.findall(r"^\s*(.+?)\s*\b(\w+);$", declaration("struct", "sbk_load_options"), re.MULTILINE)
    assert c_library.LoadOptions._fields_ == [(name, C_TYPES[kind]) for kind, name in fields]
