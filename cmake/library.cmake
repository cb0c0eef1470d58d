# The library for C: squeezebert_kernels (shared) and squeezebert_kernels_static, of core, model and the C interface;
# its programs; and what `cmake --install` gives. A new source is a line in one of these lists.
set(sbk_model_sources
  csrc/model/config.cpp
  csrc/model/container.cpp
  csrc/model/file.cpp
  csrc/model/forward.cpp
  csrc/model/json.cpp
  csrc/model/model.cpp
  csrc/model/safetensors.cpp
  csrc/model/token_finder.cpp
  csrc/model/tokenizer.cpp
  csrc/model/weights.cpp
)
set(sbk_capi_sources
  csrc/capi/contexts.cpp
  csrc/capi/library.cpp
  csrc/capi/models.cpp
  csrc/capi/ops.cpp
  csrc/capi/text.cpp
)

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(sbk_model STATIC ${sbk_model_sources})
target_link_libraries(sbk_model PUBLIC sbk_core)

add_library(sbk_capi OBJECT ${sbk_capi_sources})
target_link_libraries(sbk_capi PUBLIC sbk_model)
target_compile_definitions(sbk_capi PRIVATE "SBK_VERSION=\"${PROJECT_VERSION}\"")

add_library(squeezebert_kernels SHARED $<TARGET_OBJECTS:sbk_capi>)
target_link_libraries(squeezebert_kernels PRIVATE sbk_model)
# Before 1.0 a minor version may change the interface: programs that were linked with another must not load it.
set(sbk_soversion ${PROJECT_VERSION_MAJOR})
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(sbk_soversion 0.${PROJECT_VERSION_MINOR})
endif()
set_target_properties(squeezebert_kernels PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${sbk_soversion} LINKER_LANGUAGE CXX)

# One archive of everything, for programs that link it and nothing else of ours.
add_library(squeezebert_kernels_static STATIC
            $<TARGET_OBJECTS:sbk_capi> $<TARGET_OBJECTS:sbk_model> $<TARGET_OBJECTS:sbk_core>)
set_target_properties(squeezebert_kernels_static PROPERTIES
  OUTPUT_NAME squeezebert_kernels EXPORT_NAME static LINKER_LANGUAGE CXX)

# Pages of 16 KB are what newer Android devices have; nothing is lost elsewhere. Debug information, where a build has
# any, stays out of what is installed.
if(CMAKE_SYSTEM_NAME MATCHES "^(Linux|Android)$")
  set(sbk_page_size LINKER:-z,max-page-size=16384)
  target_link_options(squeezebert_kernels PRIVATE
    ${sbk_page_size} "LINKER:--version-script=${PROJECT_SOURCE_DIR}/csrc/capi/exports.map"
    $<$<CONFIG:Release,MinSizeRel>:LINKER:-s>)
  if(NOT SBK_SANITIZE)
    target_link_options(squeezebert_kernels PRIVATE LINKER:-z,defs)
  endif()
  set_property(TARGET squeezebert_kernels PROPERTY LINK_DEPENDS "${PROJECT_SOURCE_DIR}/csrc/capi/exports.map")
elseif(APPLE)
  target_link_options(squeezebert_kernels PRIVATE "LINKER:-exported_symbol,_sbk_*")
endif()

# A C program that links the archive needs the C++ runtime by name: its linker is a C compiler.
set(sbk_cxx_runtime)
foreach(library IN LISTS CMAKE_CXX_IMPLICIT_LINK_LIBRARIES)
  if(library MATCHES "^(stdc\\+\\+|c\\+\\+|c\\+\\+_static|c\\+\\+abi|m)$")
    list(APPEND sbk_cxx_runtime ${library})
  endif()
endforeach()
if(SBK_ZIG OR NOT sbk_cxx_runtime)
  set(sbk_cxx_runtime c++)
endif()
list(REMOVE_DUPLICATES sbk_cxx_runtime)

foreach(library IN ITEMS squeezebert_kernels squeezebert_kernels_static)
  target_include_directories(${library} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/csrc/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endforeach()
target_link_libraries(squeezebert_kernels_static INTERFACE
  Threads::Threads "$<INSTALL_INTERFACE:${sbk_cxx_runtime}>")
add_library(squeezebert_kernels::squeezebert_kernels ALIAS squeezebert_kernels)
add_library(squeezebert_kernels::static ALIAS squeezebert_kernels_static)

# sbk_add_program(name sources...): a program over the archive, installed into bin/.
function(sbk_add_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE squeezebert_kernels_static sbk_core)
  if(CMAKE_SYSTEM_NAME MATCHES "^(Linux|Android)$")
    target_link_options(${name} PRIVATE ${sbk_page_size} $<$<CONFIG:Release,MinSizeRel>:LINKER:-s>)
  endif()
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# --- install -------------------------------------------------------------------------------------------------------------
set(sbk_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/squeezebert_kernels)
install(TARGETS squeezebert_kernels squeezebert_kernels_static EXPORT squeezebert_kernelsTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES csrc/include/squeezebert_kernels.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT squeezebert_kernelsTargets NAMESPACE squeezebert_kernels:: DESTINATION ${sbk_package_dir})
configure_package_config_file(cmake/squeezebert_kernelsConfig.cmake.in squeezebert_kernelsConfig.cmake
                              INSTALL_DESTINATION ${sbk_package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(squeezebert_kernelsConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/squeezebert_kernelsConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/squeezebert_kernelsConfigVersion.cmake" DESTINATION ${sbk_package_dir})

# The prefix is where the file lies, so that a moved folder still works.
file(RELATIVE_PATH SBK_PC_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" SBK_PC_PREFIX "${SBK_PC_PREFIX}")
list(TRANSFORM sbk_cxx_runtime PREPEND "-l" OUTPUT_VARIABLE SBK_PC_PRIVATE)
list(JOIN SBK_PC_PRIVATE " " SBK_PC_PRIVATE)
configure_file(cmake/squeezebert_kernels.pc.in squeezebert_kernels.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/squeezebert_kernels.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
