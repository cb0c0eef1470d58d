# Tests of the library for C: its interface, what it does with damaged files, the tokenizer.

foreach(topic IN ITEMS capi capi_run load_errors)
  add_executable(${topic}_test ${topic}_test.cpp)
  target_link_libraries(${topic}_test PRIVATE squeezebert_kernels_static sbk_core Threads::Threads)
  list(APPEND topics ${topic})
endforeach()

target_compile_definitions(capi_test PRIVATE "SBK_VERSION=\"${PROJECT_VERSION}\"")

enable_language(C)
add_executable(capi_header capi_header.c)
set_target_properties(capi_header PROPERTIES C_STANDARD 99 C_EXTENSIONS OFF LINKER_LANGUAGE CXX)
target_compile_options(capi_header PRIVATE -Wall -Wextra -Werror -pedantic)
target_link_libraries(capi_header PRIVATE squeezebert_kernels_static sbk_core Threads::Threads)
add_test(NAME capi_header COMMAND capi_header)

# The corpus and some thousand changes of it, always the same. How to run it with libFuzzer stands in the file.
add_executable(fuzz_model_load fuzz_model_load.cpp)
target_link_libraries(fuzz_model_load PRIVATE squeezebert_kernels_static sbk_core Threads::Threads)
add_test(NAME fuzz.model_load COMMAND fuzz_model_load "${CMAKE_CURRENT_SOURCE_DIR}/corpus" 5000)

# The tokenizer uses no kernels: one run, on whatever tier.
add_executable(tokenizer_test tokenizer_test.cpp)
target_link_libraries(tokenizer_test PRIVATE sbk_model Threads::Threads)
add_test(NAME tokenizer COMMAND tokenizer_test)

# For pytest. sbk_tokenize is built on its own by tests/test_native_tokenizer.py: not by way of sbk_model, so that no
# kernels are built. sbk_evaluate runs models on CPUs that Python does not run on.
add_executable(sbk_tokenize tokenizer_main.cpp ${PROJECT_SOURCE_DIR}/csrc/model/tokenizer.cpp)
target_include_directories(sbk_tokenize PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
target_compile_options(sbk_tokenize PRIVATE -Wall -Wextra)
add_executable(sbk_evaluate evaluate_main.cpp)
target_link_libraries(sbk_evaluate PRIVATE squeezebert_kernels_static sbk_core Threads::Threads)
