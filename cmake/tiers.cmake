# The instruction set tiers of this build, from the one list of them, csrc/isa/tiers.inc:
#
#   sbk_tiers                   their names, slowest first
#   sbk_every_tier              the names of all tiers, whatever this build is for
#   sbk_tier_flags_<tier>       compiler flags
#   sbk_tier_emulated_<tier>    the CPU that QEMU plays for it in tests; not for all
#   sbk_tier_definitions        what sources that include isa/tiers.inc are compiled with
set(sbk_tier_file ${CMAKE_CURRENT_SOURCE_DIR}/csrc/isa/tiers.inc)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${sbk_tier_file})

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(sbk_architecture x86)
  set(sbk_tier_definitions SBK_HAVE_X86_TIERS)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(sbk_architecture arm)
  set(sbk_tier_definitions SBK_HAVE_ARM_TIERS)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=armv8.2-a+fp16 SBK_HAVE_MARCH)
else()
  set(sbk_architecture none)
  set(sbk_tier_definitions)
endif()

set(sbk_tiers)
set(sbk_every_tier)
file(STRINGS ${sbk_tier_file} sbk_tier_lines REGEX "^SBK_TIER")
foreach(line IN LISTS sbk_tier_lines)
  if(line MATCHES "^SBK_TIER\\(([a-z0-9]+), ([a-z0-9]+), ")
    list(APPEND sbk_every_tier ${CMAKE_MATCH_1})
    if(CMAKE_MATCH_2 STREQUAL "any" OR CMAKE_MATCH_2 STREQUAL sbk_architecture)
      list(APPEND sbk_tiers ${CMAKE_MATCH_1})
    endif()
  elseif(line MATCHES "^SBK_TIER_FLAGS\\(([a-z0-9]+), \"(.*)\"\\)$")
    set(sbk_tier_flags_${CMAKE_MATCH_1} "${CMAKE_MATCH_2}")
  elseif(line MATCHES "^SBK_TIER_EMULATED\\(([a-z0-9]+), \"(.*)\"\\)$")
    set(sbk_tier_emulated_${CMAKE_MATCH_1} "${CMAKE_MATCH_2}")
  endif()
endforeach()

foreach(tier IN LISTS sbk_tiers)
  if(sbk_architecture STREQUAL "arm" AND NOT SBK_HAVE_MARCH)
    # zig c++ has names of its own.
    string(REPLACE "-march=armv8.2-a+fp16" "-mcpu=generic+v8_2a+fullfp16" sbk_tier_flags_${tier}
           "${sbk_tier_flags_${tier}}")
  endif()
  separate_arguments(sbk_tier_flags_${tier} UNIX_COMMAND "${sbk_tier_flags_${tier}}")
  if(SBK_SANITIZE STREQUAL "address,undefined" AND NOT tier STREQUAL "scalar")
    # Checks of every load and store make GCC take six minutes for a tier. AddressSanitizer sees what two of them see,
    # aligned loads that are not aligned end the program anyway, and the scalar tier keeps all three.
    list(APPEND sbk_tier_flags_${tier} -fno-sanitize=null,alignment,object-size)
  endif()
  # See cmake/hardening.cmake. Kernels call next to nothing of the C library either (tests/library/android_kernels.cmake).
  list(APPEND sbk_tier_flags_${tier} -fno-stack-protector -U_FORTIFY_SOURCE)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    if(tier MATCHES "^avx512")
      # GCC 12 warns of its own _mm512_undefined_ps.
      list(APPEND sbk_tier_flags_${tier} -Wno-maybe-uninitialized -Wno-uninitialized)
    elseif(tier MATCHES "^neon")
      # GCC 12 has no register to spare in the tile: scheduled before registers are allocated, and with variables that
      # are one to it, it moves accumulators about.
      list(APPEND sbk_tier_flags_${tier} -fno-schedule-insns -fno-tree-coalesce-vars)
    endif()
  endif()
endforeach()

# sbk_add_tier_sources(target folder): <tier>.cpp of this folder for every tier, with its flags.
function(sbk_add_tier_sources target folder)
  foreach(tier IN LISTS sbk_tiers)
    set(source ${PROJECT_SOURCE_DIR}/${folder}/${tier}.cpp)
    target_sources(${target} PRIVATE ${source})
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${sbk_tier_flags_${tier}}")
  endforeach()
endfunction()
