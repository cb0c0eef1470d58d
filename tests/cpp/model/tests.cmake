# The tokenizer uses no kernels: one run, on whatever tier.
sbk_add_test_program(tokenizer_test sbk_model model/tokenizer_test.cpp)
add_test(NAME tokenizer COMMAND tokenizer_test)
sbk_add_test_program(token_finder_test sbk_model model/token_finder_test.cpp)
add_test(NAME token_finder COMMAND token_finder_test)

# For pytest, which builds it on its own (tests/support/native_tokenizer.py): not by way of sbk_model, so that no kernels are
# built.
add_executable(sbk_tokenize model/tokenizer_main.cpp ${PROJECT_SOURCE_DIR}/csrc/model/tokenizer.cpp
               ${PROJECT_SOURCE_DIR}/csrc/model/token_finder.cpp)
target_include_directories(sbk_tokenize PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
target_compile_options(sbk_tokenize PRIVATE -Wall -Wextra)
