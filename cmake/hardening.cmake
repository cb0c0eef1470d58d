# What makes a fault in this library hard to exploit, in everything that is built here. Kernels have none of it
# (cmake/tiers.cmake): they work in registers, and the sizes that they are called with were checked before.
#
# Sanitizers find more, and do not go with it. Debug builds do not optimize, which _FORTIFY_SOURCE needs.
if(SBK_SANITIZE OR NOT CMAKE_SYSTEM_NAME MATCHES "^(Linux|Android)$")
  return()
endif()

add_compile_options(
  -fstack-protector-strong
  "$<$<CONFIG:Release,RelWithDebInfo,MinSizeRel>:-U_FORTIFY_SOURCE>"
  "$<$<CONFIG:Release,RelWithDebInfo,MinSizeRel>:-D_FORTIFY_SOURCE=2>")
# Tables of addresses are read-only once a program has begun, and no stack can be executed.
add_link_options(LINKER:-z,relro LINKER:-z,now LINKER:-z,noexecstack)

# Programs are loaded at random addresses (PIE), as libraries always are.
include(CheckPIESupported)
check_pie_supported(LANGUAGES CXX)
