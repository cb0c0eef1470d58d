# make demo   the main job on real text          make test   the tests, Python and C++
# The first run creates .venv, installs and builds; later runs take seconds. `make help` lists the rest.

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
DEMO_ARGS ?=
BENCH_ARGS ?=
MATRIX_ARGS ?=
PYTEST_ARGS ?=
CTEST_ARGS ?=
export VENV PYTHON TORCH CTEST_ARGS

BIN := $(VENV)/bin
STAMPS := $(VENV)/.squeezebert-kernels
EXTENSION := squeezebert_kernels/_C.abi3.so
CXX_SOURCES := CMakeLists.txt $(shell find csrc cmake -type f 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: FORCE help demo test test-all build-tests matrix arm asan tsan bench guard build runtime doctor lint format wheel runtime-wheel runtime-wheel-arm clean distclean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON, VENV, CXX, TORCH (default $(TORCH)), TORCH_INDEX_URL, DEMO_ARGS, BENCH_ARGS, MATRIX_ARGS, PYTEST_ARGS, CTEST_ARGS"

demo: build  ## run the main job: semantic search on MiniLM, SqueezeBERT side by side with stock transformers
	@$(BIN)/squeezebert-kernels demo $(DEMO_ARGS)

# A run of everything that ends well leaves a stamp with the time of its start.
test: build-tests  ## run the tests: pytest, ctest, and ctest for AArch64 under qemu-user
	@touch $(STAMPS)/tested.new; status=0; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not wide" $(PYTEST_ARGS) || status=1; \
	scripts/env.sh ctest build/cmake -LE wide || status=1; \
	scripts/env.sh arm-ctest -LE wide || status=1; \
	$(if $(PYTEST_ARGS)$(CTEST_ARGS),:,[ $$status != 0 ] || mv $(STAMPS)/tested.new $(STAMPS)/tested); \
	exit $$status

test-all: $(STAMPS)/tested  ## every test: those of `make test`, unless they have just passed, then long and wide ones
	@scripts/test-all.sh

build-tests: build runtime $(STAMPS)/test $(STAMPS)/arm  ## build what `make test` runs and looks into
	@scripts/env.sh cpp-tests
	@scripts/env.sh arm-build-tests
	@scripts/env.sh ahead

matrix:  ## build and test with other compilers, Pythons, torch (hours; MATRIX_ARGS: rows of scripts/matrix.toml)
	@$(PYTHON) scripts/matrix.py $(MATRIX_ARGS)

arm: $(STAMPS)/arm  ## cross-compile the library for AArch64 Linux (static, by zig) into dist/arm-linux-aarch64
	@scripts/env.sh arm

bench: build $(STAMPS)/bench  ## time the models beside PyTorch, ONNX Runtime and OpenVINO (BENCH_ARGS=--quick: a minute)
	@$(BIN)/squeezebert-kernels bench $(BENCH_ARGS)

guard: build  ## count the kernels' instructions against bench/instructions.json: works on a busy machine
	@$(BIN)/python bench/guard.py

asan: $(STAMPS)/base  ## run the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer (minutes to build)
	@scripts/test-all.sh asan

tsan: $(STAMPS)/base  ## run the C++ tests under ThreadSanitizer (minutes to build)
	@scripts/test-all.sh tsan

build: $(EXTENSION)  ## create .venv, install and build
	@:

runtime: $(STAMPS)/runtime  ## build squeezebert_runtime, for Python without torch, in python/
	@:

doctor: build  ## check this machine and this build
	@$(BIN)/squeezebert-kernels doctor

lint: $(STAMPS)/dev  ## ruff, mypy, clang-format and the import rule, changing nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python scripts/check_imports.py
	@find csrc bench tests examples python -name '*.h' -o -name '*.cc' -o -name '*.cpp' -o -name '*.c' | xargs $(BIN)/clang-format --dry-run -Werror

format: $(STAMPS)/dev  ## let ruff and clang-format rewrite the sources
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	@find csrc bench tests examples python -name '*.h' -o -name '*.cc' -o -name '*.cpp' -o -name '*.c' | xargs $(BIN)/clang-format -i

wheel: $(STAMPS)/base  ## build dist/*.whl for every Python >= 3.10
	@rm -rf build/lib* build/bdist*  # setuptools would put modules that are gone into the wheel
	@$(BIN)/python -m pip wheel --no-deps --no-build-isolation -w dist .

runtime-wheel: $(STAMPS)/runtime  ## build dist/squeezebert_runtime-*.whl for this Python
	@$(BIN)/python -m pip wheel --no-deps --no-build-isolation -w dist ./python

runtime-wheel-arm: $(STAMPS)/runtime $(STAMPS)/arm  ## the same for AArch64 Linux, with zig: python/README.md
	@SBK_RUNTIME_TARGET=aarch64-linux-gnu $(BIN)/python -m pip wheel --no-deps --no-build-isolation -w dist ./python

clean:  ## remove what was built, keep .venv
	@rm -rf build build-* dist *.egg-info $(EXTENSION) $(STAMPS)/package $(STAMPS)/runtime python/*.egg-info \
	  python/squeezebert_runtime/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

distclean: clean  ## remove .venv too
	@rm -rf $(VENV)

$(STAMPS)/base: pyproject.toml scripts/env.sh
	@scripts/env.sh base
	@mkdir -p $(@D) && touch $@

$(STAMPS)/test: $(STAMPS)/base
	@scripts/env.sh test
	@touch $@

$(STAMPS)/arm: pyproject.toml scripts/env.sh
	@scripts/env.sh arm-tools
	@mkdir -p $(@D) && touch $@

$(STAMPS)/bench: $(STAMPS)/base
	@scripts/env.sh bench
	@touch $@

$(STAMPS)/dev: $(STAMPS)/base
	@scripts/env.sh dev
	@touch $@

# Of every file of the checkout; where git does not tell which they are, the tests have always yet to run.
$(STAMPS)/tested: $(or $(wildcard $(shell git ls-files --cached --others --exclude-standard 2>/dev/null)),FORCE)
	@$(MAKE) --no-print-directory test

# Shares the C++ objects of the package's own extension.
$(STAMPS)/runtime: $(CXX_SOURCES) $(wildcard python/*.*) $(EXTENSION)
	@scripts/env.sh runtime
	@touch $@

$(EXTENSION): $(CXX_SOURCES) pyproject.toml setup.py $(STAMPS)/base
	@scripts/env.sh build $(STAMPS)/package
