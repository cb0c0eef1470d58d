# AArch64 Linux with musl, by zig (pip install ziglang): needs no cross compiler of the system. Programs are static and
# so run on any AArch64 Linux kernel, Android's included.
#
# CMake wants a compiler to be one executable: wrappers in the build folder say `zig c++ -target ...`. zig is, in this
# order, SBK_ZIG, the package ziglang of the Python that the environment variable PYTHON names, of .venv, of python3,
# or zig in PATH.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(SBK_ZIG_TARGET aarch64-linux-musl)

include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/qemu.cmake)
