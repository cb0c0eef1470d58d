"""What the pages name is there: links, files, make targets, subcommands, Python names; and prose wraps."""

import ast
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import check_imports  # noqa: E402

PACKAGE = "squeezebert_kernels"
WIDTH = 100

PAGES = sorted(
    {
        page
        for pattern in ("*.md", "docs/*.md", ".github/**/*.md", "*/README.md", "*/*/README.md")
        for page in ROOT.glob(pattern)
        if not re.match(r"\.(?!github)|build|dist", str(page.relative_to(ROOT)))
    }
)

SUFFIXES = (".py", ".pyi", ".h", ".c", ".cpp", ".inc", ".cmake", ".toml", ".json", ".md", ".txt", ".sh", ".so", ".svg")

NOT_OF_THIS_REPOSITORY = {
    # written by a build, a run or a program
    "_C.abi3.so", "libsqueezebert_kernels.so", "build/arm-counts.json", "report.json", "results.json", "_manifest.json",
    "DIR/results.json",
    # files of a checkpoint, and of examples in which the reader writes them
    "config.json", "tokenizer.json", "vocab.txt", ".json", "modules.json", "1_Pooling/config.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "article.txt", "train.py", "PROGRAM.py",
}  # fmt: skip
"""Names that look like files of this repository and are not: exactly these."""


@cache
def folders() -> frozenset[str]:
    """Folders that a path may begin with: those of the repository, and the rooms."""
    hidden = {".ci", ".github"}
    return frozenset(
        entry.name
        for base in (ROOT, ROOT / PACKAGE, ROOT / "csrc")
        for entry in base.iterdir()
        if entry.is_dir() and (not entry.name.startswith((".", "_", "build", "dist")) or entry.name in hidden)
    )


@cache
def file_names() -> frozenset[str]:
    """The name of every file of the repository, without its folder."""
    found = {entry.name for entry in ROOT.iterdir() if entry.is_file()}
    for folder in ROOT.iterdir():
        if folder.name in folders():
            for _, _, names in os.walk(folder):
                found.update(names)
    return frozenset(found)


def split(text: str) -> tuple[list[tuple[int, str]], str]:
    """(lines outside of code blocks with their numbers, all code: blocks and spans)."""
    prose, code, inside = [], [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside:
            code.append(line)
        else:
            prose.append((number, line))
    # Spans may go on in the next line of their paragraph.
    for paragraph in re.split(r"\n\s*\n|\n(?=\||- )", "\n".join(line for _, line in prose)):
        code += [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", paragraph)]
    return prose, "\n".join(code)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    prose, _ = split(page.read_text(encoding="utf-8"))
    headings = [line.lstrip("#").strip().lower() for _, line in prose if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def wrong_links(page: Path, text: str) -> Iterator[str]:
    prose = "\n".join(line for _, line in split(text)[0])
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"link to {target}"
        elif anchor and file.suffix == ".md" and file.exists() and anchor not in anchors(file):
            yield f"link to {target}: no such heading"


def wrong_paths(page: Path, text: str) -> Iterator[str]:
    """A token is a path if it begins with a folder that is here, or ends as a source file does."""
    for token in re.findall(r"[\w.*<>${}~@=:/+-]+", split(text)[1]):
        path = token.rstrip(".:").removeprefix("./")
        if path in NOT_OF_THIS_REPOSITORY or re.search(r"[<>${}~@=:+]|^[./]", path.removeprefix(".")):
            continue
        is_file = path.endswith(SUFFIXES)
        if "/" not in path:
            if is_file and "*" not in path and path not in file_names():
                yield f"file {path}"
            continue
        first = path.split("/")[0]
        if first not in folders() or (not is_file and not (ROOT / first).is_dir() and not path.endswith("/")):
            continue
        bases = (ROOT, page.parent, ROOT / PACKAGE, ROOT / "csrc")
        if not any(any(base.glob(path)) if "*" in path else (base / path).exists() for base in bases):
            yield f"path {path}"


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


@cache
def subcommands() -> frozenset[str]:
    """The keys of COMMANDS in cli.py."""
    for node in ast.parse((ROOT / PACKAGE / "cli.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["COMMANDS"]:
            assert isinstance(node.value, ast.Dict)
            return frozenset(key.value for key in node.value.keys if isinstance(key, ast.Constant))
    raise AssertionError("cli.py has no COMMANDS")


def wrong_commands(page: Path, text: str) -> Iterator[str]:
    code = split(text)[1]
    for target in re.findall(r"(?:^|[\s;&(])make ([a-z][a-z-]*)", code, re.M):
        if target not in make_targets():
            yield f"make {target}"
    for command in re.findall(r"squeezebert-kernels ([a-z]+)", code):
        if command not in subcommands():
            yield f"squeezebert-kernels {command}"


@cache
def names_in(module: Path) -> frozenset[str]:
    """What a module or a room defines, imports or has as modules."""
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    found = {entry.stem for entry in module.iterdir()} if module.is_dir() else set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return frozenset(found)


def resolves(dotted: str) -> bool:
    """Whether ``package.room.module.name`` is there, as far as it can be seen without importing."""
    module = ROOT
    for part in dotted.split("."):
        if (module / part).is_dir() or (module / part).with_suffix(".py").exists():
            module = module / part
        else:
            return part in names_in(module)
    return True


def wrong_python_names(page: Path, text: str) -> Iterator[str]:
    code = split(text)[1]
    dotted = {f"{PACKAGE}.{name}" for name in re.findall(r"\bsbk\.([A-Za-z]\w*)(?![\w./-])", code)}
    for module, names in re.findall(rf"^from ({PACKAGE}[\w.]*) import ([\w, ]+)", code, re.M):
        dotted.update(f"{module}.{name.strip()}" for name in names.split(","))
    for name in re.findall(rf"(?<![\w./-]){PACKAGE}((?:\.\w+)+)(?![\w/])", code):
        dotted.add(PACKAGE + name)
    for name in sorted(dotted):
        if not name.endswith(SUFFIXES) and not resolves(name):
            yield f"Python name {name}"


def wide_lines(page: Path, text: str) -> Iterator[str]:
    """Lines of prose; tables, headings and images may be wide, and so may the targets of links."""
    for number, line in split(text)[0]:
        if line.startswith(("|", "#", "![", "<!--")):
            continue
        if len(re.sub(r"\]\([^)]*\)|https?://\S+", "", line)) > WIDTH:
            yield f"line {number} has {len(line)} columns"


CHECKS = (wrong_links, wrong_paths, wrong_commands, wrong_python_names, wide_lines)


def problems(page: Path, text: str) -> list[str]:
    return [problem for check in CHECKS for problem in check(page, text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    assert problems(page, page.read_text(encoding="utf-8")) == []


def test_every_page_is_in_the_index():
    """docs/README.md names each page of docs/."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and page.name not in index
    ] == []


def test_the_table_of_rooms_is_the_rule():
    """docs/architecture.md shows the rooms in the rows of scripts/check_imports.py, and names files that are there."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Which rooms does the C++")[0]
    rows: dict[int, set[str]] = {}
    for row, rooms, files in re.findall(r"^\| (\d+) \| ([^|]*)\|[^|]*\|([^|]*)\|$", text, re.M):
        names = [re.sub(r"/|\.py$", "", room) for room in re.findall(r"`([^`]+)`", rooms)]
        rows.setdefault(int(row), set()).update(names)
        for file in re.findall(r"`(\w+)`", files):
            assert (ROOT / PACKAGE / names[0] / f"{file}.py").exists(), f"{names[0]}/{file}.py"
    assert rows == {number: set(row) for number, row in enumerate(check_imports.ROOMS, 1)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[page](docs/nowhere.md)", "link to docs/nowhere.md"),
        ("[page](docs/README.md#no-such-heading)", "link to docs/README.md#no-such-heading: no such heading"),
        ("In `csrc/kernels/nothing.h` it stands.", "path csrc/kernels/nothing.h"),
        ("In `csrc/nowhere/` they are.", "path csrc/nowhere/"),
        ("In `ops/nothing.py` it stands.", "path ops/nothing.py"),
        ("`squeezebert_kernels/ops/*.nothing` match.", "path squeezebert_kernels/ops/*.nothing"),
        ("See `nothing_at_all.py`.", "file nothing_at_all.py"),
        ("```\n.venv/bin/python -m pytest tests/test_nothing.py -k x\n```", "path tests/test_nothing.py"),
        ("`CXX=clang++ make nothing`", "make nothing"),
        ("```\nsqueezebert-kernels nothing --help\n```", "squeezebert-kernels nothing"),
        ("A span that\ngoes `squeezebert-kernels\nnothing` on.", "squeezebert-kernels nothing"),
        (f"```python\nfrom {PACKAGE}.ops import nothing\n```", f"Python name {PACKAGE}.ops.nothing"),
        (f"`{PACKAGE}.nowhere.nothing`", f"Python name {PACKAGE}.nowhere.nothing"),
        ("`sbk.nothing(model)`", f"Python name {PACKAGE}.nothing"),
        ("word " * 30, "line 1 has 150 columns"),
    ],
)
def test_a_wrong_name_is_found(text, problem):
    assert problem in problems(ROOT / "README.md", text)


@pytest.mark.parametrize(
    "text",
    [
        "[page](docs/README.md) and `csrc/kernels/table.h` and `make test` and `squeezebert-kernels doctor --help`",
        "`docs/*.svg`, `csrc/`, `setup.py`, `config.json`, `OWNER/NAME`, `https://example.org/x.py`",
        f"```python\nfrom {PACKAGE}.ops import pack\n\nsbk.optimize(model)\n```",
        "| " + "wide " * 30 + "|\n# " + "wide " * 30,
    ],
)
def test_right_names_are_no_problem(text):
    assert problems(ROOT / "README.md", text) == []


def test_the_version_is_the_same_in_every_place():
    """The places that RELEASE.md lists."""
    places = {
        "pyproject.toml": r'^version = "(.*)"',
        f"{PACKAGE}/__init__.py": r'^__version__ = "(.*)"',
        "python/pyproject.toml": r'^version = "(.*)"',
        "CMakeLists.txt": r"^project\(\w+ VERSION ([\d.]+)",
        "CHANGELOG.md": r"^## \[(\d.*?)\]",
    }
    found = {
        place: re.search(where, (ROOT / place).read_text(encoding="utf-8"), re.M) for place, where in places.items()
    }
    assert {place: match and match[1] for place, match in found.items()} == dict.fromkeys(
        places, found["pyproject.toml"][1]
    )
