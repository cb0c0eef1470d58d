# Tests of the library for C: its interface, and what it does with damaged files.

foreach(topic IN ITEMS capi capi_environment capi_run format load_errors out_of_memory)
  sbk_add_test_program(${topic}_test squeezebert_kernels_static capi/${topic}_test.cpp)
  list(APPEND topics ${topic})
endforeach()

target_compile_definitions(format_test PRIVATE "SBK_GOLDEN=\"${CMAKE_CURRENT_SOURCE_DIR}/capi/golden\"")
target_compile_definitions(capi_test PRIVATE "SBK_VERSION=\"${PROJECT_VERSION}\"")

# The same for every tier: sizes.
sbk_add_test_program(limits_test squeezebert_kernels_static capi/limits_test.cpp)
add_test(NAME limits COMMAND limits_test)

enable_language(C)
sbk_add_test_program(capi_header squeezebert_kernels_static capi/capi_header.c)
set_target_properties(capi_header PROPERTIES C_STANDARD 99 C_EXTENSIONS OFF LINKER_LANGUAGE CXX)
target_compile_options(capi_header PRIVATE -Wall -Wextra -Werror -pedantic)
add_test(NAME capi_header COMMAND capi_header)

# The corpus and some thousand changes of it, always the same. How to run it with libFuzzer stands in the file.
sbk_add_test_program(fuzz_model_load squeezebert_kernels_static capi/fuzz_model_load.cpp)
add_test(NAME fuzz.model_load COMMAND fuzz_model_load "${CMAKE_CURRENT_SOURCE_DIR}/capi/corpus" 5000)
if(NOT CMAKE_CROSSCOMPILING)
  add_test(NAME fuzz.model_load_long COMMAND fuzz_model_load "${CMAKE_CURRENT_SOURCE_DIR}/capi/corpus" 300000)
  set_tests_properties(fuzz.model_load_long PROPERTIES LABELS wide)
endif()

# For pytest: runs models on CPUs that Python does not run on.
sbk_add_test_program(sbk_evaluate squeezebert_kernels_static capi/evaluate_main.cpp)
