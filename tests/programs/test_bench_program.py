"""sbk-bench: what it writes and what it refuses. Times themselves are not tested."""

from __future__ import annotations

import json

import pytest
from support.hf_models import stock
from support.programs import run
from transformers import SqueezeBertConfig

from squeezebert_kernels.benchmark import workload
from squeezebert_kernels.export.sbk_file import export

QUICK = ["--quick", "--runs", "2", "--seconds", "1"]
TINY = {
    "vocab_size": 99, "hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64, "q_groups": 2, "k_groups": 2, "v_groups": 2,
    "post_attention_groups": 1, "intermediate_groups": 4, "output_groups": 2,
}  # fmt: skip


def check(report, dtypes, threads):
    """What holds for every report."""
    assert report["format"] == "sbk-bench 1"
    assert report["tier"] in report["tiers"]
    assert {peak["tier"] for peak in report["peaks"]} <= set(report["tiers"])
    assert any(cpu["used"] for cpu in report["cpus"])
    assert len(report["kernels"]) == 4 * len(dtypes) * len(threads)
    for item in report["kernels"] + report["models"]:
        assert item["dtype"] in dtypes
        assert item["threads"] in threads
        assert 0 < item["min_ms"] <= item["p50_ms"] <= item["p90_ms"]
        assert item["gops"] == pytest.approx(item["flops"] / item["p50_ms"] * 1e-6, rel=1e-5)
        assert item["percent_of_peak"] > 0
        assert len(item["khz_before"]) == len(item["khz_after"]) >= 1
    for kernel in report["kernels"]:
        assert 0 < kernel["error"] <= 1
    assert all(model["finite"] for model in report["models"])


def test_the_synthetic_model(tmp_path):
    file, folder = tmp_path / "report.json", tmp_path / "scratch"
    folder.mkdir()
    done = run(
        "sbk-bench", *QUICK, "--dtypes", "float32,float16,int8", "--lengths", "8,128", "--threads", "1",
        "--json", file, TMPDIR=str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    report = json.loads(file.read_text(encoding="utf-8"))
    check(report, ["float32", "float16", "int8"], [1])
    assert [(m["length"], m["dtype"]) for m in report["models"]] == [
        (length, dtype) for length in (8, 128) for dtype in ("float32", "float16", "int8")
    ]
    for model in report["models"]:
        assert model["flops"] == pytest.approx(workload.encoder_flops(SqueezeBertConfig(), [model["length"]]))
        assert model["dtype"] == "float32" or model["cosine_to_float32"] > 0.99
    assert report["kernels"][0]["flops"] == 2 * 128 * 768 * 192


def test_a_model_of_the_users(tmp_path):
    export(stock("SqueezeBertForSequenceClassification", **TINY), tmp_path / "tiny.sbk", dtype="int8")
    done = run(
        "sbk-bench", tmp_path / "tiny.sbk", *QUICK, "--dtypes=float32", "--lengths=5,64", "--batch=3",
        "--json", tmp_path / "report.json", "--threads=1,2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["model"]["file"] == str(tmp_path / "tiny.sbk")
    assert {(m["dtype"], m["batch"], m["length"], m["threads"]) for m in report["models"]} == {
        ("int8", 3, length, threads) for length in (5, 64) for threads in (1, 2)
    }
    for model in report["models"]:
        wanted = workload.encoder_flops(SqueezeBertConfig(**TINY), [model["length"]] * 3)
        assert model["flops"] == pytest.approx(wanted)
    done = run("sbk-bench", tmp_path / "tiny.sbk", *QUICK, "--lengths", "65", "--dtypes=float32", "--threads=1")
    assert done.returncode == 2
    assert done.stderr.endswith("--lengths: the model takes at most 64 tokens\n")


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--fast"], 2, "unknown option '--fast'"),
        (["a.sbk", "b.sbk"], 2, "more than one model is given"),
        (["--cpus", "7-4"], 2, "--cpus must be a whole number from 7 to 4095, got '4'"),
        (["--cpus", "4095"], 2, "--cpus: CPU 4095 cannot be used; these can: "),
        (["--cpus", "0,,1"], 2, "--cpus must be a whole number from 0 to 4095, got ''"),
        (["--threads", "0"], 2, "--threads must be a whole number from 1 to 1024, got '0'"),
        (["--dtypes", "float64"], 2, "dtype 'float64' is none of float32, bfloat16, int8, float16"),
        (["--isa", "mmx"], 2, "SBK_ISA='mmx' is not possible"),
        (["--json", "/nowhere/report.json"], 1, "cannot write '/nowhere/report.json'"),
    ],
)
def test_bad_usage(arguments, status, message):
    done = run("sbk-bench", *arguments)
    assert done.returncode == status
    assert done.stderr.startswith("sbk-bench: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert run("sbk-bench", "--help").stdout.startswith("usage: sbk-bench ")
