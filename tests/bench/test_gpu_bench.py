"""bench/gpu in its smoke mode on a CPU: what it runs, writes and draws. Times themselves are not tested."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SUITE = Path(__file__).resolve().parents[2] / "bench" / "gpu"
CONTESTANTS = {
    "ours", "ours+graphs", "ours+compile", "stock-eager", "stock-compile", "stock-compile+graphs", "bert-sdpa",
    "bert-compile+graphs",
}  # fmt: skip
ON_CPU = {"ours", "stock-eager", "bert-sdpa"}
OPS = {
    "model", "grouped_pointwise_conv", "grouped_pointwise_conv_layer_norm", "attention_block", "post_attention_block",
}  # fmt: skip

pytestmark = pytest.mark.skipif(not SUITE.is_dir(), reason="not a source tree")


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def smoke(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    done = python(SUITE / "run.py", "--device", "cpu", "--output", folder, *arguments)
    return done, json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run of everything."""
    folder = tmp_path_factory.mktemp("gpu-bench")
    done, data = smoke(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, data


def test_every_op_is_right(whole):
    _, _, data = whole
    assert data["schema"] == "squeezebert-gpu-bench 2"
    assert data["failures"] == []
    assert {(r["op"], r["dtype"]) for r in data["correctness"]} == {(op, d) for op in OPS for d in ("fp32", "bf16")}
    for row in data["correctness"]:
        assert row["status"] == "passed", row
        assert 0 <= row["error"] <= row["bar"]


def test_models(whole):
    _, _, data = whole
    assert {(r["shape"], r["dtype"], r["contestant"]) for r in data["models"]} == {
        (shape, dtype, name) for shape in ("1x8", "2x8", "ragged") for dtype in ("fp32", "bf16") for name in CONTESTANTS
    }
    for row in data["models"]:
        assert row["key"] == f"models/{row['dtype']}/{row['shape']}/{row['contestant']}"
        if row["contestant"] not in ON_CPU:
            assert (row["status"], row["reason"]) == ("left out", "needs CUDA")
            continue
        assert row["status"] == "ok", row
        assert (row["latency_ms"] is not None) == (row["batch"] == 1)
        assert row["sequences_per_s"] == pytest.approx(1e3 * row["batch"] / row["throughput_ms"])
        peak = data["peaks"]["matmul_tflops"][row["dtype"]]
        assert row["percent_of_peak"] == pytest.approx(100 * row["tflops"] / peak)
    ragged = next(r for r in data["models"] if r["shape"] == "ragged" and r["contestant"] == "ours")
    assert ragged["tokens"] < ragged["batch"] * ragged["length"]
    assert ragged["options"] == {"skip_padding": True}


def test_ops_alone_and_bars(whole):
    _, _, data = whole
    assert data["peaks"]["bandwidth_gbs"] > 0
    assert len({r["case"] for r in data["micro"]}) == 6
    assert len(data["micro"]) == 6 * 3 * 2
    for row in data["micro"]:
        assert (row["status"], row["timer"]) == ("ok", "wall"), row
        assert row["tflops"] == pytest.approx(row["flops"] / row["us"] / 1e6)
        assert row["gbs"] == pytest.approx(row["bytes"] / row["us"] / 1e3)
    assert [r["status"] for r in data["bars"][:4]] == ["not measured"] * 4
    assert set(data["bars"][4]["by_shape"]) == {"1x8", "2x8", "ragged"}


def test_tables_are_narrow_and_plain(whole):
    _, text, _ = whole
    assert "\x1b" not in text
    tables = text[text.index("Peak: ") :]
    assert max(map(len, tables.splitlines())) <= 120
    assert "Correctness: " in tables


def test_charts(whole, tmp_path):
    folder, _, _ = whole
    without_torch = (
        "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    done = python("-c", without_torch, SUITE / "plots.py", folder / "results.json", tmp_path)
    if importlib.util.find_spec("matplotlib") is None:
        assert done.returncode == 2
        assert "pip install" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    names = {"models-fp32", "models-bf16", "ops-bf16-1x8", "ops-bf16-2x8"}
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.{kind}" for n in names for kind in ("svg", "png")}


def test_a_part_of_it(tmp_path):
    done, data = smoke(tmp_path, "--only", "models/fp32/1x8/ours", "--shapes", "1x8", "--dtypes", "fp32")
    assert done.returncode == 0, done.stderr
    assert {r["contestant"] for r in data["models"]} == {"ours", "ours+graphs", "ours+compile"}
    assert data["correctness"] == data["micro"] == []


def test_no_time(tmp_path):
    done, data = smoke(tmp_path, "--minutes", "0")
    assert done.returncode == 0, done.stderr
    assert {r["status"] for r in data["correctness"] + data["models"]} == {"left out"}


def test_a_wrong_op_is_found(tmp_path):
    broken = f"""
import runpy, sys
from squeezebert_kernels import ops
right = ops.post_attention_block
ops.post_attention_block = lambda *a, **k: right(*a, **k) * 1.02
sys.argv = ["run.py", "--device", "cpu", "--only", "correctness/post", "--output", {str(tmp_path)!r}]
runpy.run_path({str(SUITE / "run.py")!r}, run_name="__main__")
"""
    done = python("-c", broken)
    assert done.returncode == 1, done.stderr
    data = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {r["status"] for r in data["correctness"]} == {"failed"}
    assert len(data["failures"]) == len(data["correctness"]) > 0


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What bad arguments lead to, (exit status, stderr) of each, in one process: it takes seconds to import torch."""
    run = ["run.py", "--device", "cpu", "--output", str(tmp_path_factory.mktemp("refused"))]
    commands = {"8by8": [*run, "--shapes", "8by8"], "int8": [*run, "--dtypes", "int8"], "no GPU": ["layers.py"]}
    if torch.cuda.is_available():
        del commands["no GPU"]  # it would run
    each = f"""
import contextlib, io, json, runpy, sys
found = []
for sys.argv in {list(commands.values())!r}:
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            runpy.run_path({str(SUITE)!r} + "/" + sys.argv[0], run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = stop.code
    found.append((status, err.getvalue()))
print(json.dumps(found))
"""
    done = python("-c", each)
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", ["8by8", "int8"])
def test_bad_arguments(refusals, name):
    status, said = refusals[name]
    assert status == 2
    assert name in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_layers_need_a_gpu(refusals):
    status, said = refusals["no GPU"]
    assert status == 2
    assert "there is no CUDA device" in said
