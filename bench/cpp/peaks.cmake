# sbk_peaks: the peak loop of every tier of sbk_core, each with that tier's own flags, and what runs them (peak.h).
include_guard(GLOBAL)

add_library(sbk_peaks OBJECT ${CMAKE_CURRENT_LIST_DIR}/peak.cpp ${CMAKE_CURRENT_LIST_DIR}/peak_scalar.cpp)
target_link_libraries(sbk_peaks PUBLIC sbk_core Threads::Threads)

get_target_property(core_definitions sbk_core COMPILE_DEFINITIONS)
get_target_property(core_sources sbk_core SOURCES)
foreach(source IN LISTS core_sources)
  if(source MATCHES "^csrc/isa/(.+)\\.cpp$" AND NOT CMAKE_MATCH_1 STREQUAL "scalar")
    set(loop ${CMAKE_CURRENT_LIST_DIR}/peak_${CMAKE_MATCH_1}.cpp)
    get_source_file_property(flags ${PROJECT_SOURCE_DIR}/${source} TARGET_DIRECTORY sbk_core COMPILE_OPTIONS)
    target_sources(sbk_peaks PRIVATE ${loop})
    if(flags)
      set_source_files_properties(${loop} PROPERTIES COMPILE_OPTIONS "${flags}")
    endif()
  endif()
endforeach()
target_compile_definitions(sbk_peaks PRIVATE ${core_definitions})
