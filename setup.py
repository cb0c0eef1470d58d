"""Builds the wheel. CMake is the only build truth: this file runs it and lists no sources or flags.

Project metadata is in pyproject.toml. Environment:

    SBK_BUILD_DIR   CMake's build folder (default: build/cmake)
    CMAKE_ARGS      more arguments for the configure step
    CXX             the C++ compiler
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent
BUILD_DIR = Path(os.environ.get("SBK_BUILD_DIR", ROOT / "build" / "cmake")).resolve()
LIBRARY = BUILD_DIR / "torch" / "_C.abi3.so"
TARGET = "squeezebert_kernels_torch"
MIN_TORCH = (2, 10)


def find_tool(name: str) -> str:
    """``name`` from this interpreter's environment (the PyPI wheel) or from PATH."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    tool = shutil.which(name, path=search)
    if tool is None:
        raise SetupError(f"{name} not found; install it with: {sys.executable} -m pip install {name}")
    return tool


def find_torch() -> Path:
    """Folder of the installed torch package, found without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(
            f"torch >= {MIN_TORCH[0]}.{MIN_TORCH[1]} must be installed before building; install torch, then use "
            "pip install --no-build-isolation"
        )
    version = importlib.metadata.version("torch")
    match = re.match(r"(\d+)\.(\d+)", version)
    if match and (int(match[1]), int(match[2])) < MIN_TORCH:
        raise SetupError(f"torch >= {MIN_TORCH[0]}.{MIN_TORCH[1]} is needed for building, found {version}")
    return Path(next(iter(spec.submodule_search_locations)))


class CMakeBuild(build_ext):
    """Configures and builds with CMake, then copies the one library to where setuptools wants the extension."""

    def build_extension(self, ext: Extension) -> None:
        cmake, ninja, torch_dir = find_tool("cmake"), find_tool("ninja"), find_torch()
        self.run_cmake(
            cmake, "-S", str(ROOT), "-B", str(BUILD_DIR), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
            "-DCMAKE_BUILD_TYPE=Release", "-DSBK_BUILD_TORCH=ON",
            f"-DSBK_TORCH_INCLUDE_DIR={torch_dir / 'include'}", f"-DSBK_TORCH_LIB_DIR={torch_dir / 'lib'}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        )  # fmt: skip
        self.run_cmake(cmake, "--build", str(BUILD_DIR), "--target", TARGET)
        destination = Path(self.get_ext_fullpath(ext.name))
        destination.parent.mkdir(parents=True, exist_ok=True)
        # Replace, never overwrite in place: a running process may have the old library mapped.
        destination.unlink(missing_ok=True)
        shutil.copy(LIBRARY, destination)

    def run_cmake(self, *command: str) -> None:
        self.announce(shlex.join(command), level=2)
        try:
            subprocess.run(command, check=True)
        except subprocess.CalledProcessError as error:
            raise SetupError(f"cmake failed with exit status {error.returncode}; its output is above") from None


setup(
    ext_modules=[Extension("squeezebert_kernels._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
