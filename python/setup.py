"""Builds the wheel of squeezebert_runtime. CMake is the only build truth: this file lists no sources or flags.

Run it from a checkout of the whole repository: the library's sources are beside this folder. Environment:

    SBK_RUNTIME_BUILD_DIR   CMake's build folder (default: build/runtime of the repository, build/runtime-TARGET)
    SBK_RUNTIME_TARGET      aarch64-linux-gnu or aarch64-linux-musl: cross-build with zig (pip install ziglang) for the
                            same version of CPython
    CMAKE_ARGS              more arguments for the configure step
    CXX                     the C++ compiler
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent.parent
TARGET = os.environ.get("SBK_RUNTIME_TARGET", "")
BUILD_DIR = Path(
    os.environ.get("SBK_RUNTIME_BUILD_DIR", ROOT / "build" / "-".join(filter(None, ["runtime", TARGET])))
).resolve()
# The wheel's platform: the oldest C library that it runs with. glibc 2.28 is what zig is told to link with.
PLATFORMS = {"aarch64-linux-gnu": "manylinux_2_28_aarch64", "aarch64-linux-musl": "musllinux_1_2_aarch64"}


def find_tool(name: str) -> str:
    """``name`` from this interpreter's environment (the PyPI wheel) or from PATH."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    tool = shutil.which(name, path=search)
    if tool is None:
        raise SetupError(f"{name} not found; install it with: {sys.executable} -m pip install {name}")
    return tool


def suffix() -> str:
    """The extension suffix of this CPython on the target: .cpython-311-aarch64-linux-gnu.so."""
    if not TARGET:
        return sysconfig.get_config_var("EXT_SUFFIX")
    return f".cpython-{sys.version_info.major}{sys.version_info.minor}-{TARGET}.so"


class CMakeBuild(build_ext):
    """Configures and builds with CMake, then copies the one library to where setuptools wants the extension."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + suffix()

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        # Headers of this CPython: on 64-bit Linux they are the same for every CPU.
        arguments = [
            "-S", str(ROOT), "-B", str(BUILD_DIR), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
            "-DCMAKE_BUILD_TYPE=Release", "-DSBK_BUILD_CAPI=ON", "-DSBK_BUILD_PYTHON=ON",
            f"-DSBK_PYTHON_INCLUDE_DIR={sysconfig.get_path('include')}",
            f"-DSBK_PYBIND11_INCLUDE_DIR={pybind11.get_include()}", f"-DSBK_PYTHON_SUFFIX={suffix()}",
        ]  # fmt: skip
        if TARGET:
            toolchain = ROOT / "cmake" / "toolchains" / f"linux-{TARGET.replace('-linux', '')}.cmake"
            if TARGET == "aarch64-linux-gnu":
                toolchain = toolchain.with_name("linux-aarch64-glibc-zig.cmake")
            arguments.append(f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")
        self.run_cmake(cmake, *arguments, *shlex.split(os.environ.get("CMAKE_ARGS", "")))
        self.run_cmake(cmake, "--build", str(BUILD_DIR), "--target", "squeezebert_runtime")
        destination = Path(self.get_ext_fullpath(ext.name))
        destination.parent.mkdir(parents=True, exist_ok=True)
        # Replace, never overwrite in place: a running process may have the old library mapped.
        destination.unlink(missing_ok=True)
        shutil.copy(BUILD_DIR / "python" / f"_native{suffix()}", destination)

    def run_cmake(self, *command: str) -> None:
        self.announce(shlex.join(command), level=2)
        try:
            subprocess.run(command, check=True, env={**os.environ, "PYTHON": sys.executable})
        except subprocess.CalledProcessError as error:
            raise SetupError(f"cmake failed with exit status {error.returncode}; its output is above") from None


if TARGET and TARGET not in PLATFORMS:
    raise SetupError(f"SBK_RUNTIME_TARGET must be one of {', '.join(PLATFORMS)}, got {TARGET!r}")

setup(
    ext_modules=[Extension("squeezebert_runtime._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    options={
        # Not one folder for several targets: a wheel takes everything that lies in it.
        "build": {"build_base": str(BUILD_DIR / "setuptools")},
        **({"bdist_wheel": {"plat_name": PLATFORMS[TARGET]}} if TARGET else {}),
    },
)
