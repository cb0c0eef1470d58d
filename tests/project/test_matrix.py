"""``make matrix``: how its table is read, what is skipped, the page it writes, and that our promises are rows of it.

Nothing is installed or built here: a row's steps are replaced.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_script():
    spec = importlib.util.spec_from_file_location("matrix_script", ROOT / "scripts" / "matrix.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


matrix = load_script()

DEFAULT = {"cxx": "g++", "python": "3.11", "torch": "torch", "transformers": "transformers", "cpp": False}
SUITE = {"requires": ["pytest"], "tests": ["tests/**/test_matrix.py"], "select": "", "cpp": ["conv"]}


def table_of(**rows):
    return matrix.read_table({"default": DEFAULT, "suite": SUITE, "rows": rows})


@pytest.fixture(scope="module")
def committed():
    return matrix.read_table(matrix.load_toml(matrix.TABLE))


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script with a table of three rows, working in a folder of its own; returns the outcomes to give them."""
    outcomes = {}
    table = tmp_path / "matrix.toml"
    table.write_text(
        "[suite]\nrequires = []\ntests = []\nselect = ''\ncpp = []\n"
        "[default]\ncxx = 'sh'\npython = '3.11'\ntorch = 'torch'\ntransformers = 'transformers'\ncpp = false\n"
        "[rows.development]\n[rows.two]\n[rows.three]\ncxx = 'no-such-compiler'\n"
    )
    monkeypatch.setattr(matrix, "TABLE", table)
    monkeypatch.setattr(matrix, "REPORT", tmp_path / "matrix.md")
    monkeypatch.setattr(matrix, "WORK", tmp_path / "work")
    monkeypatch.setattr(
        matrix.RowRun, "run", lambda run: run.result(outcomes.get(run.row.name, matrix.PASSED), f"ran {run.row.name}")
    )
    return outcomes


def test_rows_take_the_default_and_vary_it():
    table = table_of(development={}, oldest={"cxx": "g++-11", "cpp": True})
    assert table.rows[0] == matrix.Row(name="development", **DEFAULT)
    assert table.rows[1] == matrix.Row(name="oldest", **{**DEFAULT, "cxx": "g++-11", "cpp": True})


@pytest.mark.parametrize("row", [{"pyhton": "3.12"}, {"python": 3.12}, {"cpp": "yes"}, {"name": "other"}])
def test_a_key_without_meaning_is_an_error(row):
    with pytest.raises(ValueError, match="row 'x'"):
        table_of(x=row)


def test_a_name_that_is_no_folder_is_an_error():
    with pytest.raises(ValueError, match="a name is made of"):
        table_of(**{"../x": {}})


def test_select_keeps_the_order_of_the_table_and_names_what_is_unknown():
    table = table_of(a={}, b={}, c={})
    assert [row.name for row in matrix.select(table, [])] == ["a", "b", "c"]
    assert [row.name for row in matrix.select(table, ["c", "a"])] == ["a", "c"]
    with pytest.raises(ValueError, match=r"no such row: d; rows: a, b, c"):
        matrix.select(table, ["a", "d"])


def test_a_glob_of_the_suite_that_matches_nothing_is_an_error(tmp_path):
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "test_ops.py").touch()
    assert matrix.expand(["**/test_ops.py"], tmp_path) == ["ops/test_ops.py"]
    with pytest.raises(ValueError, match="test_gone"):
        matrix.expand(["**/test_gone.py"], tmp_path)


@pytest.mark.parametrize(
    "log, expected",
    [
        ("...\n123 passed, 1 skipped, 8 warnings in 101.26s (0:01:41)\n", "123 passed, 1 skipped"),
        ("=== 2 failed, 5 passed in 3.00s ===\n", "2 failed, 5 passed"),
        ("98% tests passed, 1 tests failed out of 64\n\nTotal Test time (real) = 9 sec\n", "63 of 64 passed"),
        ("100% tests passed, 0 tests failed out of 64\n", "64 of 64 passed"),
        ("100% tests passed out of 64\n", "64 of 64 passed"),
        ("healthy\n", ""),
    ],
)
def test_summary(log, expected):
    assert matrix.summary(log) == expected


def test_a_missing_wheel_is_read_from_the_log_of_pip():
    log = "ERROR: Could not find a version\nERROR: No matching distribution found for torch==2.10.*\n"
    assert matrix.missing_wheel(log) == "torch==2.10.*"
    assert matrix.missing_wheel("ERROR: Failed building wheel for x\n") == ""


def test_a_missing_compiler_or_python_is_not_run_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "WORK", tmp_path)
    table = table_of(compiler={"cxx": "no-such-clang++-3"}, python={"cxx": "sh", "python": "3.0"})
    result = matrix.RowRun(table.rows[0], table, print).run()
    assert (result.outcome, result.versions[0]) == (matrix.NOT_RUN, "no-such-clang++-3")
    assert "no no-such-clang++-3 found" in result.details
    monkeypatch.setattr(matrix, "compiler_version", lambda command: "sh 1.0")
    result = matrix.RowRun(table.rows[1], table, print).run()
    assert (result.outcome, result.details) == (matrix.NOT_RUN, "no Python 3.0 (with venv) found")


def test_find_python_takes_the_running_interpreter():
    assert matrix.find_python(f"{sys.version_info[0]}.{sys.version_info[1]}") == sys.executable


def test_rows_do_not_inherit_what_make_exports(tmp_path, monkeypatch):
    monkeypatch.setenv("VENV", ".venv")
    monkeypatch.setenv("MAKEFLAGS", "n")
    monkeypatch.setenv("TORCH_INDEX_URL", "file:///nowhere")
    (row,) = table_of(x={"torch": "torch==2.10.*"}).rows
    environment = matrix.row_environment(row, "/usr/bin/python3", tmp_path)
    assert "VENV" not in environment
    assert "MAKEFLAGS" not in environment
    assert environment["TORCH"] == "torch==2.10.*"
    assert environment["TORCH_INDEX_URL"] == "file:///nowhere"


@pytest.mark.parametrize(
    "failing, expected",
    [(None, (matrix.PASSED, "build; doctor; suite: 7 passed; C++: 3 of 3 passed")),
     ("build", (matrix.FAILED, "build failed")),
     ("doctor", (matrix.FAILED, "build; doctor failed")),
     ("suite", (matrix.FAILED, "build; doctor; suite (7 passed) failed")),
     ("cpp", (matrix.FAILED, "build; doctor; suite: 7 passed; cpp failed")),
     ("wheel", (matrix.NOT_RUN, "no distribution of torch==9 for Python 3.11 in the index"))],
)  # fmt: skip
def test_steps_of_a_row(tmp_path, monkeypatch, failing, expected):
    texts = {"suite": "7 passed in 1.00s", "cpp": "100% tests passed, 0 tests failed out of 3"}
    if failing == "wheel":
        failing, texts["build"] = "build", "No matching distribution found for torch==9"
    monkeypatch.setattr(matrix, "WORK", tmp_path)
    monkeypatch.setattr(matrix.RowRun, "prepare", lambda run: run.folder.mkdir())
    monkeypatch.setattr(matrix.RowRun, "installed", lambda run, python: ["3.11.1", "2.9", "5.0"])
    monkeypatch.setattr(matrix.RowRun, "step", lambda run, name, *_: (name != failing, texts.get(name, "")))
    monkeypatch.setattr(matrix, "expand", lambda patterns, root: [])
    table = table_of(x={"cpp": True})
    result = matrix.RowRun(table.rows[0], table, print).run()
    assert (result.outcome, result.details) == expected
    assert (tmp_path / "x").exists() == (result.outcome == matrix.FAILED)  # what passed leaves no environment


def test_exit_status_and_page(script, capsys):
    script.update(two=matrix.FAILED, three=matrix.NOT_RUN)
    assert matrix.main(["development", "three"]) == 0
    assert matrix.main(["two"]) == 1
    cells = matrix.read_report(matrix.REPORT.read_text())
    assert list(cells) == ["development", "two", "three"]
    assert [line[1] for line in cells.values()] == [matrix.PASSED, matrix.FAILED, matrix.NOT_RUN]
    assert "two" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        matrix.main(["four"])
    assert stopped.value.code == 2


def test_a_row_that_was_not_asked_for_is_never_absent(script):
    assert matrix.main(["two"]) == 0
    cells = matrix.read_report(matrix.REPORT.read_text())
    assert cells["three"][1:3] == [matrix.PENDING, "no-such-compiler"]
    before = cells["two"]
    assert matrix.main(["development"]) == 0
    assert matrix.read_report(matrix.REPORT.read_text())["two"] == before


def test_the_list_runs_nothing(script, capsys):
    assert matrix.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert not matrix.REPORT.exists()


# The committed table, the page, and what is promised elsewhere.


def test_the_short_suite_exists(committed):
    assert matrix.expand(committed.tests, ROOT)
    assert matrix.expand([f"tests/cpp/**/{topic}_test.cpp" for topic in committed.cpp], ROOT)


def test_the_page_holds_every_row_as_the_table_has_it(committed):
    cells = matrix.read_report(matrix.REPORT.read_text(encoding="utf-8"))
    assert list(cells) == [row.name for row in committed.rows]
    for row in committed.rows:
        _, outcome, _, python, torch, *_ = cells[row.name]
        assert outcome in (matrix.PASSED, matrix.NOT_RUN, matrix.PENDING), row.name
        assert python.startswith(row.python), row.name
        if outcome == matrix.PASSED and "==" in row.torch:
            assert torch.startswith(row.torch.partition("==")[2].rstrip("*")), row.name


def test_classifiers_name_the_pythons_that_passed(committed):
    """A row that passed for the first time needs its classifier. `make test` itself runs on development's Python."""
    cells = matrix.read_report(matrix.REPORT.read_text(encoding="utf-8"))
    passed = {row.python for row in committed.rows if cells[row.name][1] == matrix.PASSED}
    passed |= {row.python for row in committed.rows if row.name == matrix.DEVELOPMENT}
    project = matrix.load_toml(ROOT / "pyproject.toml")["project"]
    assert set(re.findall(r":: (3\.\d+)", "\n".join(project["classifiers"]))) == passed


def test_the_oldest_row_is_the_oldest_that_pyproject_admits(committed):
    oldest = next(row for row in committed.rows if row.name == "oldest")
    project = matrix.load_toml(ROOT / "pyproject.toml")["project"]
    assert project["requires-python"] == f">={oldest.python}"
    for requirement in (oldest.torch, oldest.transformers):
        least = requirement.replace("==", ">=").removesuffix(".*")
        assert [d for d in project["dependencies"] if d == least or d.startswith(f"{least},!=")]


@pytest.mark.parametrize(
    "pattern, key, found",
    [
        (r"GCC >= (\d+)", "cxx", r"g\+\+-(\d+)$"),
        (r"clang >= (\d+)", "cxx", r"clang\+\+-(\d+)$"),
        (r"Python >= (\d+\.\d+)", "python", r"(\d+\.\d+)$"),
        (r"torch >= (\d+\.\d+)", "torch", r"==(\d+\.\d+)"),
    ],
)
def test_the_readme_promises_no_older_version_than_the_table_has(committed, pattern, key, found):
    promised = set(re.findall(pattern, (ROOT / "README.md").read_text(encoding="utf-8")))
    versions = [match[1] for row in committed.rows if (match := re.search(found, getattr(row, key)))]
    assert promised == {min(versions, key=lambda version: tuple(map(int, version.split("."))))}
