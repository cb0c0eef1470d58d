#!/usr/bin/env bash
# What `make test-all` runs besides `make test`, part by part; the first failure in a part ends it.
#
#   scripts/test-all.sh          every part
#   scripts/test-all.sh PART     one of them: python, native, aarch64, asan, fuzzer, tsan
#
# SBK_SECONDS: the time that there is. A part that does not end in it is no failure; it is named at the end.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
# The quick ones first.
PARTS=(python native aarch64 asan fuzzer tsan)

python() { "$VENV/bin/python" -m pytest -x -n 2 --dist loadfile -m wide; }
native() { scripts/env.sh ctest build/cmake -L wide --stop-on-failure; }
aarch64() { scripts/env.sh arm-ctest -L wide --stop-on-failure; }
asan() { scripts/env.sh asan && sanitized asan; }
tsan() { scripts/env.sh tsan && sanitized tsan; }

sanitized() { scripts/env.sh ctest "build-$1" -LE wide --stop-on-failure; }

fuzzer_flags=(-std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -DSBK_LIBFUZZER -DSBK_VERSION='""' "-I$PWD/csrc" "-I$PWD/tests/cpp" -pthread)

find_clang() {
  local candidate
  for candidate in clang++ clang++-{21,20,19,18,17,16,15,14}; do
    if "$candidate" "${fuzzer_flags[@]}" -o "$1" -x c++ - 2>/dev/null <<<'extern "C" int LLVMFuzzerTestOneInput() { return 0; }'; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# libFuzzer finds what random changes do not: it looks at which code an input reaches.
fuzzer() {
  local folder=build/fuzzer clang
  mkdir -p "$folder/core" "$folder/found" "$folder/found_packed"
  if ! clang=$(find_clang "$folder/fuzz"); then
    echo "NOT RUN: libFuzzer needs clang++ (Debian, Ubuntu: apt install clang)"
    [ "${SBK_SKIP_NOTHING:-0}" != 1 ]
    return
  fi
  # What both programs are made of is compiled once.
  local core=("$PWD"/csrc/{runtime,ops}/*.cpp "$PWD/csrc/isa/scalar.cpp")
  (cd "$folder/core" && "$clang" "${fuzzer_flags[@]}" -c "${core[@]}") &&
    "$clang" "${fuzzer_flags[@]}" -o "$folder/fuzz" tests/cpp/capi/fuzz_model_load.cpp csrc/{model,capi}/*.cpp "$folder"/core/*.o &&
    "$folder/fuzz" -max_total_time=60 -artifact_prefix="$folder/" "$folder/found" tests/cpp/capi/corpus &&
    "$clang" "${fuzzer_flags[@]}" -o "$folder/fuzz_packed" tests/cpp/ops/fuzz_packed.cpp "$folder"/core/*.o &&
    "$folder/fuzz_packed" -max_total_time=60 -len_control=0 -max_len=96 -artifact_prefix="$folder/" "$folder/found_packed"
}

if [ $# -gt 0 ]; then
  "$1"
  exit
fi

passed=() failed=() unreached=()
for part in "${PARTS[@]}"; do
  limit=()
  if [ -n "${SBK_SECONDS:-}" ]; then
    left=$((SBK_SECONDS - SECONDS))
    if [ "$left" -lt 1 ]; then
      unreached+=("$part")
      continue
    fi
    limit=(timeout -k 10 "$left")
  fi
  printf '\n=== %s ===\n' "$part"
  start=$SECONDS
  ${limit[@]+"${limit[@]}"} scripts/test-all.sh "$part"
  status=$?
  took=$((SECONDS - start))
  printf '=== %s: %d s ===\n' "$part" "$took"
  # 124 and 137 are timeout's. A part that is killed earlier, say for want of memory, has failed.
  if [ $status -eq 0 ]; then
    passed+=("$part")
  elif [ ${#limit[@]} -gt 0 ] && [ "$took" -ge "$left" ] && { [ $status -eq 124 ] || [ $status -eq 137 ]; }; then
    unreached+=("$part")
  else
    failed+=("$part")
  fi
done

printf '\nPassed: %s\n' "${passed[*]:-none}"
if [ ${#unreached[@]} -gt 0 ]; then printf 'NOT REACHED in %d s, and so not tested: %s\n' "$SBK_SECONDS" "${unreached[*]}"; fi
if [ ${#failed[@]} -gt 0 ]; then printf 'FAILED: %s\n' "${failed[*]}"; fi
[ ${#failed[@]} -eq 0 ]
