"""Checks that the rooms of the Python package import one another one way only.

    python scripts/check_imports.py

A room is a folder of squeezebert_kernels, or a file beside its ``__init__``. A room may import rooms of earlier rows of
ROOMS, and its own files in no circle. Rooms of one row do not know each other.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "squeezebert_kernels"

ROOMS = (
    ("_native", "compat", "files", "layer_arguments"),
    ("triton_kernels",),
    ("ops", "console"),
    ("weights", "machine"),
    ("layers",),
    ("models",),
    ("fusion", "distributed", "export", "data"),
    ("corpus", "benchmark"),
    ("commands",),
    ("cli",),
    ("__init__", "__main__"),
)
LAZY = {"triton_kernels"}
"""Rooms that others import inside functions only: what they need may not be installed."""


class Import(NamedTuple):
    """One import by a file of the package; ``target`` is the path of a module in it, empty for the package itself."""

    file: Path
    line: int
    target: tuple[str, ...]
    in_function: bool


def imports(root: Path = ROOT) -> Iterator[Import]:
    """Every import of a module of the package, by files of the package."""
    for file in sorted((root / PACKAGE).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        in_functions = {
            id(inner)
            for outer in ast.walk(tree)
            if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for inner in ast.walk(outer)
        }
        for node in ast.walk(tree):
            for name in _names(node, file.relative_to(root)):
                if name[:1] == (PACKAGE,):
                    module = name if _is_module(root, name) else name[:-1]
                    yield Import(file.relative_to(root), node.lineno, module[1:], id(node) in in_functions)


def _names(node: ast.AST, file: Path) -> Iterator[tuple[str, ...]]:
    """What ``node`` imports into ``file``: names of modules, or of something in one."""
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        folders = file.parent.parts
        base = folders[: len(folders) + 1 - node.level] if node.level else ()
        module = (*base, *(node.module.split(".") if node.module else ()))
        yield from ((*module, alias.name) for alias in node.names)


def _is_module(root: Path, name: tuple[str, ...]) -> bool:
    path = root.joinpath(*name)
    return path.is_dir() or path.with_suffix(".py").exists()


def _circles(found: list[Import]) -> Iterator[str]:
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for file, _, target, _ in found:
        own = file.with_suffix("").parts[1:]
        graph[own[:-1] if own[-1] == "__init__" else own].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "a circle: " + " <- ".join(".".join(module) or PACKAGE for module in error.args[1])


def violations(root: Path = ROOT) -> list[str]:
    """A line for each import that breaks the rule; none where all is well."""
    rank = {room: number for number, row in enumerate(ROOMS) for room in row}
    every = list(imports(root))
    found = list(_circles(every))
    for file, line, target, in_function in every:
        room = file.parts[1].removesuffix(".py")
        at = f"{file}:{line}:"
        if room not in rank:
            found.append(f"{at} the room {room!r} has no row in ROOMS of scripts/check_imports.py")
        elif not target or target[0] not in rank:
            found.append(f"{at} {room} imports {'.'.join((PACKAGE, *target))}: name the room, not the package")
        elif target[0] != room and rank[target[0]] >= rank[room]:
            found.append(f"{at} {room} must not import {target[0]}, which stands above or beside it")
        elif target[0] in LAZY and target[0] != room and not in_function:
            found.append(f"{at} {room} must import {target[0]} inside functions only")
    return found


if __name__ == "__main__":
    problems = violations()
    print("\n".join(problems) or f"{PACKAGE}: every import goes one way")
    sys.exit(bool(problems))
