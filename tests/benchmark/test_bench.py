"""``squeezebert-kernels bench``: what it counts, what it refuses, what it writes. Times themselves are not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from squeezebert_kernels import cli, machine
from squeezebert_kernels.benchmark import checking, contestants, native, plots, results, runner, workload
from squeezebert_kernels.commands import bench

TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "embedding_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    from transformers import SqueezeBertConfig, SqueezeBertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    SqueezeBertModel(SqueezeBertConfig(**TINY)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_library(monkeypatch):
    """No compiled benchmark library: tests neither build it nor measure peaks."""

    def load():
        raise native.Unavailable("no library in this test")

    monkeypatch.setattr(native, "load", load)


# Work


def test_flops_of_the_published_sizes():
    from transformers import BertConfig, SqueezeBertConfig

    squeezebert, bert = SqueezeBertConfig(), BertConfig()
    assert workload.encoder_flops(squeezebert, [128]) == 12 * 128 * (
        2 * 768 * (3 * 192 + 768 + 4 * 192 + 768) + 2 * 2 * 768 * 128
    )
    assert workload.encoder_flops(squeezebert, [128]) / 1e9 == pytest.approx(7.40, abs=0.005)
    assert workload.encoder_flops(bert, [128]) / 1e9 == pytest.approx(22.35, abs=0.005)
    assert 12 * workload.weights_per_layer(squeezebert) == pytest.approx(26.5e6, rel=0.01)


def test_flops_match_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import BertConfig, BertModel

    fields = {name: size for name, size in TINY.items() if name != "embedding_size"}
    model = BertModel(BertConfig(**fields, attn_implementation="eager")).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.ones(3, 17, dtype=torch.long))
    assert workload.model_flops(model.config, [17] * 3) == counter.get_total_flops()


def test_flops_of_a_ragged_batch_are_those_of_its_sequences():
    from transformers import SqueezeBertConfig

    config = SqueezeBertConfig(**TINY)
    lengths = [3, 17, 5]
    assert workload.model_flops(config, lengths) == sum(workload.model_flops(config, [n]) for n in lengths)


def test_ragged_shape():
    shape = workload.parse_shape("ragged")
    assert (shape.batch, shape.length, min(shape.lengths)) == (32, 128, 16)
    assert len(set(shape.lengths)) == 32
    inputs = workload.make_inputs(shape, 99)
    assert inputs.mask.sum(1).tolist() == list(shape.lengths)
    assert (inputs.ids[inputs.mask == 0] == 0).all()


def test_inputs_out_of_a_text():
    text = torch.arange(1000, 1010)
    inputs = workload.make_inputs(workload.Shape("test", (4, 7)), 99, text)
    assert inputs.ids.tolist() == [[101, 1001, 1002, 102, 0, 0, 0], [101, 1005, 1006, 1007, 1008, 1009, 102]]
    assert inputs.mask.sum(1).tolist() == [4, 7]


def test_contestants_have_distinct_keys():
    keys = [c.key for c in contestants.CONTESTANTS]
    assert len(set(keys)) == len(keys)
    assert [c.key for c in contestants.select(["openvino", "ours-fp32"])] == [
        "ours-fp32", "ours-fp32-unpadded", "openvino-fp32", "openvino-bf16", "ours-fp32-one-copy", "ours-fp32-encoder",
    ]  # fmt: skip


@pytest.mark.parametrize(("batch", "bias"), [(1, True), (3, True)])
def test_bmm_conv_is_the_grouped_conv(batch, bias):
    conv = torch.nn.Conv1d(12, 20, 1, groups=4, bias=bias)
    x = torch.randn(batch, 12, 7)
    with torch.no_grad():
        torch.testing.assert_close(contestants.BatchedMatmulConv(conv)(x), conv(x))


def test_copies_share_their_parameters():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    copy = contestants.shared_copy(model)
    assert copy[0] is not model[0]
    assert copy[0].weight is model[0].weight


# Checking and statistics


def test_wrong_outputs_are_noticed():
    reference = torch.randn(2, 5, 8)
    mask = torch.ones(2, 5, dtype=torch.long)
    mask[1, 3:] = 0
    spoiled = reference.clone()
    spoiled[1, 4] = 1e9  # padding: nobody's business
    assert checking.relative_error(spoiled, reference, mask) == 0
    spoiled[0, 0, 0] = float("nan")
    assert checking.relative_error(spoiled, reference, mask) == float("inf")
    assert checking.relative_error(reference[:, :4], reference, mask) == float("inf")
    assert checking.relative_error(1.01 * reference, reference, mask) == pytest.approx(0.01, rel=1e-3)


def test_ratios_and_floors():
    def result(contestant, dtype, seconds, scope="model"):
        r = runner.Result("squeezebert", scope, "1x8", 1, contestant, contestant, dtype, flops=1000, seconds=seconds)
        r.summarise()
        return r

    heat = [
        result("ours-fp32", "fp32", [0.001, 0.002, 0.009]),
        result("ours-fp32-encoder", "fp32", [0.001], scope="encoder"),
        result("eager-fp16", "fp16", [0.1]),
        result("eager-bf16", "bf16", [0.1]),
        result("eager-fp32-encoder", "fp32", [0.003], scope="encoder"),
    ]
    runner.add_ratios(heat, {"fp32": 1e6})
    assert heat[0].median_ms == pytest.approx(2.0)
    assert heat[0].floor_ms == pytest.approx(1.0)
    assert heat[0].percent_of_floor == pytest.approx(50.0)
    assert heat[2].ratio_to_ours == pytest.approx(50.0)
    assert heat[2].percent_of_floor is None  # no peak of fp16 is measured
    assert heat[3].ratio_to_ours is None  # ours did not run in bf16
    assert heat[4].ratio_to_ours == pytest.approx(3.0)


# Arguments


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shapes", "0x5"], "'0x5'"),
        (["--shapes", "1x32,big"], "'big'"),
        (["--models", "gpt"], "'gpt'"),
        (["--threads", "0"], "at least 1, got 0"),
        (["--threads", "two"], "'two'"),
        (["--rounds", "-3"], "at least 1, got -3"),
        (["--only", "ours,tvm"], "'tvm'"),
        (["--bogus"], "--bogus"),
    ],
)
def test_bad_arguments_are_one_line(capsys, args, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *args])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--threads", "4096"], "4096"),
        (["--model", "no-such-folder"], "no config.json"),
        (["--json", "no-such-folder/x.json"], "does not exist"),
        (["--plot", "pyproject.toml"], "cannot be used"),
    ],
)
def test_impossible_arguments_are_one_line(capsys, args, message, monkeypatch):
    monkeypatch.chdir(native.ROOT)
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: object())
    assert cli.main(["bench", *args]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_plots_without_matplotlib_say_how_to_get_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["bench", "--plot", str(tmp_path)]) == 1
    assert "squeezebert-kernels[bench]" in capsys.readouterr().err


def test_too_long_a_shape_is_one_line(capsys, tiny_checkpoint, no_library):
    args = ["bench", "--quick", "--model", str(tiny_checkpoint), "--shapes", "1x49", "--only", "ours-fp32"]
    assert cli.main(args) == 1
    assert "48 positions" in capsys.readouterr().err


# A whole run


@pytest.fixture
def tiny_run(tiny_checkpoint, tmp_path, no_library):
    """run(*options) -> (exit status, JSON document)."""

    def run(*options):
        file = tmp_path / "results.json"
        args = ["--quick", "--model", str(tiny_checkpoint), "--shapes", "1x8,2x16", "--threads", "1", "--rounds", "2"]
        status = cli.main(["bench", *args, "--json", str(file), *options])
        return status, json.loads(file.read_text())

    return run


def test_a_whole_run(tiny_run, capsys):
    status, data = tiny_run("--only", "ours,eager-fp32,bmm")
    printed = capsys.readouterr().out
    assert status == 0
    assert "SqueezeBERT" in printed
    assert "Peaks are not measured: no library in this test" in printed
    assert set(data) == {"schema", "machine", "settings", "results", "peaks", "bandwidth", "memory"}
    assert data["schema"] == results.SCHEMA
    assert {"date", "cpu", "logical_cpus", "caches", "isa", "versions"} <= set(data["machine"])
    assert data["settings"]["shapes"] == {"1x8": [8], "2x16": [16, 16]}
    fields = set(runner.Result.__dataclass_fields__)
    for result in data["results"]:
        assert set(result) == fields
        assert result["status"] == "ok", result
        assert result["error"] <= result["tolerance"]
        assert 0 < result["min_ms"] <= result["q1_ms"] <= result["median_ms"] <= result["q3_ms"]
        assert result["runs"] == len(result["seconds"]) >= 2
        if result["contestant"].startswith("ours-"):
            assert result["ratio_to_ours"] == 1, result
    timed = {(r["shape"], r["contestant"]) for r in data["results"]}
    chosen = contestants.select(["ours", "eager-fp32", "bmm"])
    keys = {c.key for c in chosen if c.scope != "memory" and not c.for_padding}
    assert timed == {(shape, key) for shape in ("1x8", "2x16") for key in keys}


def test_padding_has_contestants_of_its_own(tiny_run, monkeypatch):
    monkeypatch.setattr(bench, "parse_shape", lambda text: workload.Shape("ragged", (3, 16, 9)))
    status, data = tiny_run("--only", "ours,eager-fp32", "--shapes", "ragged")
    assert status == 0
    found = {r["contestant"]: r for r in data["results"]}
    assert found["ours-fp32-unpadded"]["status"] == "ok"
    assert found["ours-fp32-unpadded"]["flops"] == found["eager-fp32"]["flops"]
    assert found["ours-fp32"]["ratio_to_ours"] == 1


def test_what_is_not_installed_is_named(tiny_run, capsys, monkeypatch):
    monkeypatch.setattr(contestants.importlib.util, "find_spec", lambda name: None)
    status, data = tiny_run("--only", "ours-fp32,openvino")
    assert status == 0
    assert {r["status"] for r in data["results"] if r["contestant"].startswith("openvino")} == {"not installed"}
    printed = capsys.readouterr().out
    assert "openvino-fp32" in printed
    assert contestants.EXTRA in printed


def test_a_wrong_contestant_is_not_timed(tiny_run, capsys, monkeypatch):
    right = contestants.hidden_of
    spoil = iter([False, True])  # eager is right, ours is not
    monkeypatch.setattr(runner, "hidden_of", lambda output: right(output) + (0.1 if next(spoil, True) else 0))
    status, data = tiny_run("--only", "eager-fp32,ours-fp32", "--shapes", "1x8")
    assert status == 1
    broken = [r for r in data["results"] if r["status"] == "failed"]
    assert broken
    assert all(r["runs"] == 0 and "wrong output" in r["reason"] for r in broken)
    assert "FAILED" in capsys.readouterr().out


def test_a_crashing_peer_does_not_end_the_run(tiny_run, monkeypatch):
    def crash(setting):
        raise RuntimeError("no such engine\nand a long story")

    broken = contestants.Contestant("broken-fp32", "broken", "fp32", crash)
    monkeypatch.setattr(contestants, "CONTESTANTS", (*contestants.CONTESTANTS, broken))
    status, data = tiny_run("--only", "ours-fp32,broken", "--shapes", "1x8")
    assert status == 0
    found = {r["contestant"]: r for r in data["results"]}
    assert found["broken-fp32"]["reason"] == "RuntimeError: no such engine"
    assert found["ours-fp32"]["status"] == "ok"


def test_charts(tiny_run, tmp_path):
    pytest.importorskip("matplotlib")
    _, data = tiny_run("--only", "ours,eager")
    data["peaks"] = [
        {"model": "squeezebert", "shape": "1x8", "threads": 1, "operations_per_second": {"fp32": 1e11, "int8": 4e11}}
    ]
    data["bandwidth"] = [{"threads": 1, "bytes_per_second": 1e10}]
    written = plots.draw(data, tmp_path / "charts")
    assert sorted(path.name for path in written) == [
        "bars-squeezebert-1t.png", "bars-squeezebert-1t.svg",
        "roofline-squeezebert-1t.png", "roofline-squeezebert-1t.svg",
    ]  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in written)


def test_peaks_and_bandwidth_are_part_of_a_run(monkeypatch, tiny_checkpoint, tmp_path):
    monkeypatch.setattr(native, "peak", lambda isa, dtype, **options: 1e9)
    monkeypatch.setattr(native, "bandwidth", lambda threads: 1e10)
    file = tmp_path / "results.json"
    args = ["--quick", "--model", str(tiny_checkpoint), "--shapes", "1x8", "--threads", "1", "--rounds", "2"]
    assert cli.main(["bench", *args, "--only", "ours-fp32", "--json", str(file)]) == 0
    data = json.loads(file.read_text())
    assert data["peaks"][0]["operations_per_second"] == {"fp32": 1e9, "bf16": 1e9, "int8": 1e9}
    assert data["bandwidth"] == [{"threads": 1, "bytes_per_second": 1e10}]
    model = data["results"][0]
    assert model["percent_of_floor"] == pytest.approx(100 * model["flops"] / 1e9 / (model["median_ms"] / 1e3))


def test_memory_of_a_contestant(tiny_checkpoint, tmp_path):
    from squeezebert_kernels.benchmark import memory

    row = memory.measure(contestants.select(["ours-int8"])[0], "squeezebert", str(tiny_checkpoint), 1, tmp_path)
    assert "error" not in row, row
    assert 0 < row["imports_mib"] <= row["resident_mib"] <= row["peak_mib"]


def test_other_work_is_mentioned(capsys, monkeypatch, tiny_run):
    monkeypatch.setattr(machine, "load_average", lambda: 3.25)
    tiny_run("--only", "ours-fp32", "--shapes", "1x8")
    assert "load average 3.25" in capsys.readouterr().out


def test_impossible_isa_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "squeezebert_kernels", "bench", "--quick"],
        env={**os.environ, "SBK_ISA": "sparc"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "sparc" in done.stderr


def test_presets_are_well_formed():
    for preset in (bench.QUICK, bench.FULL):
        assert bench.comma_list(bench.parse_model)(preset["models"])
        assert bench.comma_list(workload.parse_shape)(preset["shapes"])
