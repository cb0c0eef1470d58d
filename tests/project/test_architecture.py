"""The rooms of the package: imports go one way, and no file outgrows its room."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import check_imports  # noqa: E402

SOURCES = {".c", ".cc", ".cpp", ".h", ".hpp", ".py"}
LONGEST = 500


@pytest.fixture
def tree(tmp_path):
    """The package's folders and files, all of them empty but for two that already import one another one way."""
    for path in (ROOT / "squeezebert_kernels").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    (tmp_path / "squeezebert_kernels/layers/fused_encoder.py").write_text("from .padding import unpad\n")
    (tmp_path / "squeezebert_kernels/layers/padding.py").write_text("from ..ops import functions\n")
    assert check_imports.violations(tmp_path) == []
    return tmp_path


def test_imports_go_one_way():
    assert check_imports.violations() == []


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("weights/packing.py", "from ..layers import conv", "weights must not import layers"),
        ("weights/packing.py", "def f():\n    from ..layers import conv", "weights must not import"),
        ("export/sbk_file.py", "from ..fusion import optimize", "export must not import fusion"),
        ("layers/conv.py", "from .. import models", "layers must not import models"),
        ("layers/conv.py", "import squeezebert_kernels.models", "layers must not import models"),
        ("fusion/report.py", "import squeezebert_kernels as sbk", "name the room, not the package"),
        ("fusion/report.py", "from .. import SqueezeBertModel", "name the room, not the package"),
        ("layers/conv.py", "from .. import triton_kernels", "inside functions only"),
        ("layers/padding.py", "from . import fused_encoder", "a circle"),
        ("attic/new.py", "import os\nfrom .. import ops", "'attic' has no row"),
    ],
)  # fmt: skip
def test_an_import_the_other_way_is_found(tree, file, line, message):
    path = tree / "squeezebert_kernels" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{line}\n")
    assert message in "\n".join(check_imports.violations(tree))


def test_no_file_outgrows_its_room():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: which files are sources is git's to say")
    sources = [ROOT / name for name in tracked.stdout.splitlines() if Path(name).suffix in SOURCES]
    long = {path.name: lines for path in sources if (lines := len(path.read_bytes().splitlines())) > LONGEST}
    assert not long, f"over {LONGEST} lines: is there a second room inside?"


def test_marks_on_modules_are_in_one_list():
    """Every key that the package puts into a module's ``__dict__`` is a constant of layers/marks.py that is used."""
    marks = ROOT / "squeezebert_kernels" / "layers" / "marks.py"
    listed = re.findall(r"^([A-Z_]+) = ", marks.read_text(), re.MULTILINE)
    others = {p: p.read_text() for p in (ROOT / "squeezebert_kernels").rglob("*.py") if p != marks}
    spelled = [str(p) for p, text in others.items() if re.search(r"""["']_sbk_""", text)]
    assert not spelled, "marks spelled out beside layers/marks.py"
    unused = [m for m in listed if m != "PACKED" and not any(re.search(rf"\b{m}\b", t) for t in others.values())]
    assert not unused
