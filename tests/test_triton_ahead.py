"""The Triton kernels compiled for GPUs that are not here: every shipped configuration, by bench/gpu/ahead.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AHEAD = Path(__file__).resolve().parents[1] / "bench" / "gpu" / "ahead.py"
# float16 differs from bfloat16 in an operand of an instruction: once is enough.
RUNS = (("sm_80,sm_86", "bf16,fp32"), ("sm_90", "bf16,fp16,fp32"))
KERNELS = {"conv", "conv_residual", "qkv", "ffn", "attention", "flash"}
# Programs of at least 64 rows run on Hopper's own matrix instructions.
HOPPER = "HGMMA"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not AHEAD.exists(), reason="not a source tree")]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Everything that was compiled, and what was printed."""
    folder, results, printed = tmp_path_factory.mktemp("ahead"), [], ""
    environment = os.environ | {"TRITON_CACHE_DIR": str(folder / "cache")}
    for archs, dtypes in RUNS:
        file = folder / "results.json"
        command = [sys.executable, AHEAD, "--arch", archs, "--dtypes", dtypes, "--json", file, "--markdown"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        results += json.loads(file.read_text())
        printed += done.stdout
    return results, printed


def test_nothing_spills_and_all_fits(compiled):
    limits = {"sm_80": 163, "sm_86": 99, "sm_90": 227}
    for result in compiled[0]:
        assert result["spilled"] == 0, result
        assert result["registers"] <= 255, result
        assert result["shared"] <= limits[result["arch"]] * 1024, result


def test_matrix_instructions(compiled):
    for result in compiled[0]:
        assert result["matrix"], result
    hopper = [r for r in compiled[0] if r["arch"] == "sm_90" and r["dtype"] != "fp32" and "32768" in r["config"]]
    assert {r["kernel"] for r in hopper} == {"conv", "conv_residual", "qkv", "ffn"}
    assert all(HOPPER in r["matrix"] for r in hopper)


def test_every_kernel_of_every_file(compiled):
    found = {(r["arch"], r["dtype"], r["kernel"]) for r in compiled[0]}
    for archs, dtypes in RUNS:
        for arch in archs.split(","):
            for dtype in dtypes.split(","):
                assert {kernel for a, d, kernel in found if (a, d) == (arch, dtype)} == KERNELS


def test_the_table_is_that_of_the_results(compiled):
    results, printed = compiled
    rows = [line for line in printed.splitlines() if line.startswith("| sm_")]
    assert len(rows) == len(results)


def test_a_kernel_that_spills_is_a_fault():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import ahead\n"
        "config = dict(FUSED=1, BLOCK_M=128, BLOCK_H=128, CHUNK=128, num_warps=8, num_stages=2)\n"
        "print(ahead.faults(ahead.compile_one(ahead.Job('sm_90', 'bf16', 'ffn', config, 8192))))\n"
    )
    command = [sys.executable, "-c", code, str(AHEAD.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "spills" in done.stdout
    assert "shared memory" in done.stdout
