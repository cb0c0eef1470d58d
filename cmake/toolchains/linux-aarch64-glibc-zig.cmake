# AArch64 Linux with glibc 2.28 or newer, by zig (see linux-aarch64-musl.cmake): for the extension module of Python, whose
# wheel then runs on every such system. zig links its C++ library statically.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(SBK_ZIG_TARGET aarch64-linux-gnu.2.28)

include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)
