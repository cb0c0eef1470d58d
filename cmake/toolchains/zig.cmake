# Makes zig the compiler for SBK_ZIG_TARGET. See linux-aarch64-musl.cmake.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SBK_ZIG SBK_ZIG_TOOLS)

if(NOT EXISTS "${SBK_ZIG}")
  set(pythons "$ENV{PYTHON}" "${CMAKE_CURRENT_LIST_DIR}/../../.venv/bin/python" python3)
  foreach(python IN LISTS pythons)
    execute_process(
      COMMAND ${python} -c "import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), 'zig'))"
      OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
    if(status EQUAL 0 AND EXISTS "${found}")
      set(SBK_ZIG "${found}" CACHE FILEPATH "The zig executable" FORCE)
      break()
    endif()
  endforeach()
  find_program(SBK_ZIG zig DOC "The zig executable")
  if(NOT SBK_ZIG)
    message(FATAL_ERROR "zig was not found: pip install ziglang, and set PYTHON to that Python or SBK_ZIG to zig")
  endif()
endif()

if(NOT SBK_ZIG_TOOLS)
  set(SBK_ZIG_TOOLS "${CMAKE_BINARY_DIR}/zig-tools")
endif()
foreach(SBK_ZIG_TOOL IN ITEMS cc c++ ar ranlib)
  set(SBK_ZIG_COMMAND ${SBK_ZIG_TOOL})
  if(SBK_ZIG_TOOL MATCHES "^c")
    string(APPEND SBK_ZIG_COMMAND " -target ${SBK_ZIG_TARGET}")
  endif()
  configure_file(${CMAKE_CURRENT_LIST_DIR}/zig-tool.in ${SBK_ZIG_TOOLS}/zig-${SBK_ZIG_TOOL} @ONLY
                 FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
endforeach()

set(CMAKE_C_COMPILER ${SBK_ZIG_TOOLS}/zig-cc)
set(CMAKE_CXX_COMPILER ${SBK_ZIG_TOOLS}/zig-c++)
set(CMAKE_AR ${SBK_ZIG_TOOLS}/zig-ar CACHE FILEPATH "" FORCE)
set(CMAKE_RANLIB ${SBK_ZIG_TOOLS}/zig-ranlib CACHE FILEPATH "" FORCE)
# zig has libraries and headers of its own; nothing of the host's.
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
# zig alone adds debug information unless told not to; a build type that wants it says so later on the line.
set(CMAKE_C_FLAGS_INIT "-g0")
set(CMAKE_CXX_FLAGS_INIT "-g0")
# zig builds its C++ library for every kind of build that it meets: one will do. What it can do is known.
set(CMAKE_CXX_LINK_PIE_SUPPORTED YES CACHE INTERNAL "")
set(CMAKE_CXX_LINK_NO_PIE_SUPPORTED YES CACHE INTERNAL "")
set(CMAKE_TRY_COMPILE_CONFIGURATION Release)
# Its linker front end knows no --dependency-file.
set(CMAKE_LINK_DEPENDS_USE_LINKER FALSE)
