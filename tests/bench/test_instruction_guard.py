"""What guard.py and arm/count.py make of instruction counts that differ from the committed ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))
baseline = pytest.importorskip("baseline", reason="bench is in source checkouts only")

COMMITTED = {"gcc 1": {"avx2/float32/conv": 1000, "avx2/float32/norm": 500}, "gcc 2": {"avx2/float32/conv": 900}}


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "instructions.json"
    path.write_text(json.dumps(COMMITTED), encoding="utf-8")
    monkeypatch.setattr(baseline, "FILE", path)
    return path


@pytest.mark.parametrize(
    ("count", "status", "said"),
    [(1019, 0, "none is worse"), (1021, 1, "WORSE"), (981, 0, "none is worse"), (979, 0, "better")],
)
def test_a_kernel_that_changed(file, capsys, count, status, said):
    assert baseline.check({"avx2/float32/conv": count}, "gcc 1", tolerance=2.0) == status
    assert said in capsys.readouterr().out


def test_a_new_kernel_is_named_and_passes(file, capsys):
    assert baseline.check({"avx2/int8/conv": 7}, "gcc 1", tolerance=2.0) == 0
    assert "new       avx2/int8/conv" in capsys.readouterr().out


def test_a_compiler_without_counts_fails(file, capsys):
    assert baseline.check({"avx2/float32/conv": 1000}, "clang 9", tolerance=2.0) == 1
    assert "NOTHING WAS CHECKED" in capsys.readouterr().out


def test_an_update_keeps_the_others(file):
    baseline.update({"avx2/float32/conv": 800}, "gcc 1")
    baseline.update({"neon/int8/conv": 3}, "clang 9")
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "gcc 1": {"avx2/float32/conv": 800, "avx2/float32/norm": 500},
        "gcc 2": {"avx2/float32/conv": 900},
        "clang 9": {"neon/int8/conv": 3},
    }


def test_every_committed_count_has_a_tier_a_dtype_and_a_case():
    committed = json.loads(baseline.FILE.read_text(encoding="utf-8"))
    assert committed.keys() >= {"gcc 12", "clang 22"}
    for counts in committed.values():
        for key, count in counts.items():
            tier, dtype, case = key.split("/")
            assert tier
            assert dtype in ("float32", "float16", "bfloat16", "int8")
            assert case
            assert count > 0


@pytest.mark.parametrize("program", ["count.py", "inner_loops.py", "predict.py"])
def test_counting_for_arm_needs_no_torch(program):
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, BENCH / "arm" / program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
