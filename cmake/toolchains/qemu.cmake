# Where an emulator is found, ctest runs cross-built programs through it; QEMU_CPU then says which CPU it plays.
if(NOT CMAKE_HOST_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  find_program(SBK_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
  mark_as_advanced(SBK_QEMU)
  if(SBK_QEMU)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${SBK_QEMU} ${SBK_QEMU_ARGS})
  endif()
endif()
