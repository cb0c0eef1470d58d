"""Training in several processes: DDP, FSDP2 and tensor parallelism, two gloo processes on this machine.

They are launched once and run every case of distributed_worker.py; the tests here look at what came out.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]
PATH = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
EPS = torch.finfo(torch.float32).eps
BFLOAT16_EPS = torch.finfo(torch.bfloat16).eps


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("distributed") / "results.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
    command = [*launch, "-m", "support.distributed_worker", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture
def result(results, request):
    found = results[request.param]
    assert "error" not in found, found["error"]
    return found


FLOAT32 = [
    "ddp ours", "ddp stock", "fsdp ours model", "fsdp ours layers", "fsdp stock model", "fsdp stock encoder",
]  # fmt: skip


@pytest.mark.parametrize("result", FLOAT32, indirect=True)
def test_trains_like_one_process_on_the_whole_batch(result):
    assert result["expected"][-1] < result["expected"][0] - 0.02  # three steps that change something
    assert result["own_losses"][0] != pytest.approx(result["expected"][0], abs=1e-3)  # from half the batch
    assert result["losses"] == pytest.approx(result["expected"], rel=32 * EPS)
    assert result["parameters"] < 64 * EPS


@pytest.mark.parametrize("result", [*FLOAT32, "fsdp ours layers bfloat16"], indirect=True)
def test_layers_run_on_the_kernels_of_one_process(result):
    assert result["fallbacks"] == []
    assert result["expected_ops"]
    assert result["ops"] == result["expected_ops"]


@pytest.mark.parametrize("result", ["fsdp ours layers bfloat16"], indirect=True)
def test_mixed_precision(result):
    assert result["losses"] == pytest.approx(result["expected"], rel=2 * BFLOAT16_EPS)


@pytest.mark.parametrize("result", ["fsdp gathered again"], indirect=True)
def test_gathered_parameters_are_packed_anew(result):
    assert result["difference"] < 64 * EPS


@pytest.mark.parametrize("result", ["ddp dropout", "fsdp dropout"], indirect=True)
def test_dropout_differs_between_processes(result):
    assert result["different"] > 1e-3
    assert max(result["losses"]) < 1  # of two labels


TENSOR_PARALLEL = ["tp published", "tp tiny", "tp mixed"]


@pytest.mark.parametrize("result", TENSOR_PARALLEL, indirect=True)
def test_tensor_parallel_is_one_process(result):
    alone, parallel = result["losses"]
    assert parallel == pytest.approx(alone, rel=16 * EPS)
    assert result["gradients"] < 64 * EPS
    assert result["norms"][1] == pytest.approx(result["norms"][0], rel=64 * EPS)
    assert result["parameters"] < 64 * EPS  # after a step; as a state dict in one piece, which one process loads
    assert result["outputs"] < 64 * EPS
    assert result["logits"] < 64 * EPS


@pytest.mark.parametrize("result", TENSOR_PARALLEL, indirect=True)
def test_tensor_parallel_convolutions_run_on_the_kernels(result):
    assert sum(result["ops"].values()) == 2 * 2 * 6  # calls, layers, convolutions
    assert len(result["reasons"]) == 2
    assert all("ColumnParallelConv1d" in reason for reason in result["reasons"])


@pytest.mark.parametrize("result", ["tp dropout"], indirect=True)
def test_tensor_parallel_processes_drop_alike(result):
    assert result["losses"][0] == result["losses"][1]
    assert result["replicas_differ"] == 0.0


@pytest.mark.parametrize("result", ["tp refuses"], indirect=True)
@pytest.mark.parametrize(
    "what, said",
    [
        ("heads", "ValueError: layer 'transformer.encoder.layers.0' has 1 heads, which 2 processes"),
        (
            "row_groups",
            "ValueError: layer 'transformer.encoder.layers.0' has a convolution of 3 groups from 60",
        ),
        (
            "column_groups",
            "ValueError: layer 'transformer.encoder.layers.0' has a convolution of 3 groups to 30",
        ),
        ("stock", "ValueError: model must have layers of the drop-in classes"),
        ("twice", "ValueError: layer 'transformer.encoder.layers.0' has a ColumnParallelConv1d with a DTensor"),
        ("module", "TypeError: model must be a torch.nn.Module, got object"),
        ("mesh", "TypeError: mesh must be a torch.distributed DeviceMesh, got NoneType"),
        ("mesh_2d", "ValueError: mesh must have one dimension, got 2"),
        ("adapter", "TypeError: ColumnParallelConv1d is made by parallelize() only"),
    ],
)
def test_tensor_parallel_refuses_in_words(result, what, said):
    assert result[what].startswith(said)
    assert "BUT CHANGED" not in result[what]
