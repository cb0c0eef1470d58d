"""The wheel: its name, what is in it, and that the library needs no particular Python."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import squeezebert_kernels
from squeezebert_kernels import _native

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built the way README says, in the build folder that is there already."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("not a source tree")
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_tag_fits_every_python(wheel):
    assert wheel.name.startswith("squeezebert_kernels-")
    assert "-cp310-abi3-" in wheel.name


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
        entry_points = archive.read(next(n for n in names if n.endswith(".dist-info/entry_points.txt"))).decode()
    for wanted in ("_C.abi3.so", "py.typed", "data/passages.json", "cli.py", "triton_kernels/configs/sm_90.json"):
        assert f"squeezebert_kernels/{wanted}" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    foreign = [n for n in names if not n.startswith(("squeezebert_kernels/", "squeezebert_kernels-"))]
    assert foreign == []
    assert [n for n in names if n.endswith((".h", ".cpp", ".o"))] == []
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert "squeezebert-kernels = squeezebert_kernels.cli:main" in entry_points


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_library_uses_no_python_and_no_unstable_torch():
    result = subprocess.run(
        ["nm", "-D", "--undefined-only", str(_native.LIBRARY)], capture_output=True, text=True, check=True
    )
    symbols = [line.split()[-1].split("@")[0] for line in result.stdout.splitlines()]
    assert [s for s in symbols if s.startswith(("Py", "_Py"))] == []
    # C++ names of torch (at::, c10::, torch::) change between versions; the stable ABI is C.
    assert [s for s in symbols if s.startswith(("_ZN2at", "_ZN3c10", "_ZN5torch", "_ZNK2at", "_ZNK3c10"))] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_library_holds_no_source_path():
    content = _native.LIBRARY.read_bytes()
    assert str(ROOT).encode() not in content


def test_version_is_the_same_everywhere():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    try:
        assert importlib.metadata.version("squeezebert-kernels") == project["version"]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from a source tree without installing")
    if hasattr(squeezebert_kernels, "__version__"):
        assert squeezebert_kernels.__version__ == project["version"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()
