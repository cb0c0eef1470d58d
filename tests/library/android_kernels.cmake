# The kernels of every AArch64 tier as an Android library (android24, 16 KB pages) without any libc: they compile with
# declarations alone, and what they leave undefined are functions that any libc and libm have.
#
# zig is the compiler and linker. It has no headers of Android, so that the declarations are musl's.
cmake_minimum_required(VERSION 3.24)
include(${CMAKE_CURRENT_LIST_DIR}/elf.cmake)

if(NOT EXISTS "${ZIG}")
  message("SKIPPED: needs a build by zig (preset linux-aarch64-musl)")
  return()
endif()
need_readelf()
get_filename_component(zig_lib "${ZIG}" DIRECTORY)
string(APPEND zig_lib "/lib")
set(headers -nostdinc)
foreach(folder IN ITEMS libcxx/include include libc/include/aarch64-linux-musl libc/include/generic-musl
        libc/include/aarch64-linux-any libc/include/any-linux-any)
  list(APPEND headers -isystem ${zig_lib}/${folder})
endforeach()
# zig configures libc++ on the command line, but for a target without libc++.
list(APPEND headers -D_LIBCPP_HARDENING_MODE_DEFAULT=_LIBCPP_HARDENING_MODE_NONE
     -D_LIBCPP_ASSERTION_SEMANTIC_DEFAULT=_LIBCPP_ASSERTION_SEMANTIC_IGNORE)

file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
string(REPLACE "/" ";" kernels "${KERNELS}")
set(objects)
foreach(kernel IN LISTS kernels)
  string(REGEX MATCH "^([^:]+):(.*)$" kernel "${kernel}")
  set(tier ${CMAKE_MATCH_1})
  string(REPLACE "," ";" flags "${CMAKE_MATCH_2}")
  execute_process(
    COMMAND ${COMPILER} -std=c++20 -O1 -g0 -fPIC -fvisibility=hidden -ffp-contract=off -ffreestanding ${headers} ${flags}
            -I${SOURCE_DIR}/csrc -c ${SOURCE_DIR}/csrc/isa/${tier}.cpp -o ${WORK_DIR}/${tier}.o
    COMMAND_ERROR_IS_FATAL ANY)
  list(APPEND objects ${WORK_DIR}/${tier}.o)
endforeach()
execute_process(COMMAND ${ZIG} ld.lld -shared -nostdlib -z max-page-size=16384 -o ${WORK_DIR}/libkernels.so ${objects}
                COMMAND_ERROR_IS_FATAL ANY)

check_page_size(${WORK_DIR}/libkernels.so)
exported_symbols(${WORK_DIR}/libkernels.so exported undefined)
foreach(symbol IN LISTS undefined)
  if(NOT symbol MATCHES "^(mem(cpy|move|set|cmp)|(sqrt|fma|round|rint|nearbyint|ldexp|exp|floor)f?)$")
    message(SEND_ERROR "the kernels need ${symbol}")
  endif()
endforeach()
readelf(dynamic -dW ${WORK_DIR}/libkernels.so)
if(dynamic MATCHES "NEEDED")
  message(SEND_ERROR "the kernels need a library: ${dynamic}")
endif()
message(STATUS "undefined: ${undefined}")
