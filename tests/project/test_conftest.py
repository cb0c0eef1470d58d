"""What conftest.py does: skips that are failures, and the order of the files."""

import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

TESTS = Path(__file__).resolve().parents[1]
ALLOWED = ("transformers 5 has no head masks", "there is a GPU")
NOT_ALLOWED = ("cmake is not installed", "no C compiler")


@pytest.mark.parametrize(
    ("reasons", "skip_nothing", "status"), [(ALLOWED, "1", 0), (NOT_ALLOWED, "0", 0), (ALLOWED + NOT_ALLOWED, "1", 1)]
)
def test_skips_are_failures_where_every_tool_is_said_to_be_there(reasons, skip_nothing, status, tmp_path):
    """Of tests and of whole files, by way of a worker of pytest-xdist."""
    tests = [f"def test_{i}(): pytest.skip({reason!r})\n" for i, reason in enumerate(reasons[:-1])]
    (tmp_path / "test_some.py").write_text("import pytest\ndef test_passes(): pass\n" + "".join(tests))
    (tmp_path / "test_module.py").write_text(f"import pytest\npytest.skip({reasons[-1]!r}, allow_module_level=True)\n")
    environment = os.environ | {"PYTHONPATH": str(TESTS), "SBK_SKIP_NOTHING": skip_nothing}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "xdist", "-n", "1", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    named = [line for line in done.stdout.splitlines() if "tests were skipped" in line]
    assert len(named) == status
    assert all(f"Skipped: {reason}" in line for line in named for reason in NOT_ALLOWED)
    assert not any(reason in line for line in named for reason in ALLOWED)


def test_the_longest_files_are_there():
    assert set(conftest.LONGEST_FIRST) <= {file.stem for file in TESTS.rglob("test_*.py")}
