# AArch64 Linux with glibc, by a cross GCC (Debian, Ubuntu: apt install g++-aarch64-linux-gnu), or by clang with that
# GCC's libraries: -DSBK_CROSS_CXX=clang++.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(SBK_CROSS_CXX aarch64-linux-gnu-g++ CACHE STRING "The C++ compiler: a cross GCC or any clang++")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SBK_CROSS_CXX)
set(CMAKE_CXX_COMPILER ${SBK_CROSS_CXX})
# C is for examples and the test of the installed library.
string(REPLACE "clang++" "clang" c_compiler "${SBK_CROSS_CXX}")
string(REPLACE "-g++" "-gcc" c_compiler "${c_compiler}")
set(CMAKE_C_COMPILER ${c_compiler})
if(SBK_CROSS_CXX MATCHES "clang")
  set(CMAKE_CXX_COMPILER_TARGET aarch64-linux-gnu)
  set(CMAKE_C_COMPILER_TARGET aarch64-linux-gnu)
endif()

set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)

set(SBK_QEMU_ARGS -L /usr/aarch64-linux-gnu)
include(${CMAKE_CURRENT_LIST_DIR}/qemu.cmake)
