"""scripts/test-all.sh: a part that fails is a failure, one that does not end in time is none, and both are named."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "test-all.sh"
# Stands for scripts/env.sh, Python and clang: FAILING and SLOW are what a part calls.
STUB = """#!/usr/bin/env bash
called="$(basename "$0") $1 ${2:-}"
[[ -z $FAILING || $called != *"$FAILING"* ]] || exit 1
[[ -z $SLOW || $called != *"$SLOW"* ]] || sleep 60
"""

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="not a source tree")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    for name in ("scripts/env.sh", "venv/bin/python", "bin/clang++"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(STUB)
        file.chmod(0o755)
    (tmp_path / "build" / "fuzzer").mkdir(parents=True)
    for program in ("fuzz", "fuzz_packed"):
        shutil.copy(tmp_path / "bin" / "clang++", tmp_path / "build" / "fuzzer" / program)

    def run(*arguments, failing="", slow="", seconds=None):
        environment = os.environ | {"VENV": "venv", "FAILING": failing, "SLOW": slow}
        environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{environment['PATH']}"
        if seconds is not None:
            environment["SBK_SECONDS"] = str(seconds)
        command = [tmp_path / "scripts" / SCRIPT.name, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.partition("\nPassed: ")[2].splitlines(), done.stderr

    return run


def test_every_part_passes(run):
    assert run() == (0, ["python native aarch64 asan fuzzer tsan"], "")


@pytest.mark.parametrize(
    ("failing", "part"),
    [("python -m pytest", "python"), ("ctest build/cmake", "native"), ("arm-ctest", "aarch64"), ("env.sh asan", "asan"),
     ("ctest build-asan", "asan"), ("fuzz", "fuzzer"),
     ("fuzz_packed", "fuzzer"), ("ctest build-tsan", "tsan")],
)  # fmt: skip
@pytest.mark.parametrize("seconds", [None, 600])
def test_a_failure_is_one_with_and_without_a_limit(run, failing, part, seconds):
    status, lines, _ = run(failing=failing, seconds=seconds)
    assert status == 1
    assert lines[-1] == f"FAILED: {part}"
    assert part not in lines[0]


def test_what_is_not_reached_is_named_and_no_failure(run):
    status, lines, _ = run(slow="env.sh asan", seconds=5)
    assert status == 0
    assert lines == ["python native aarch64", "NOT REACHED in 5 s, and so not tested: asan fuzzer tsan"]
    status, lines, _ = run(slow="env.sh asan", failing="arm-ctest", seconds=5)
    assert status == 1
    assert lines[-1] == "FAILED: aarch64"
    assert run(seconds=0)[:2] == (
        0,
        ["none", "NOT REACHED in 0 s, and so not tested: python native aarch64 asan fuzzer tsan"],
    )


def test_one_part_alone(run):
    assert run("native")[0] == 0
    assert run("native", failing="ctest build/cmake")[0] == 1
