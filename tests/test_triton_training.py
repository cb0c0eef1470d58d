"""The Triton kernels of training against float64 autograd, without a GPU: the cases of triton_training_cases.py.

In a process of their own, as those of test_triton_kernels.py.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton_training_cases
from triton_process import results_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

NAMES = list(triton_training_cases.cases())
AHEAD = Path(__file__).resolve().parents[1] / "bench" / "gpu" / "ahead.py"


@pytest.fixture(scope="module")
def results(request):
    return results_of(request, triton_training_cases.__file__, limit_s=900)


@pytest.mark.slow
@pytest.mark.skipif(not AHEAD.exists(), reason="not a source tree")
def test_nothing_spills(tmp_path):
    """The kernels with the most registers, for the GPU that leaves them the least."""
    file, kernels = tmp_path / "results.json", "query_grad,key_value_grad"
    command = [sys.executable, AHEAD, "--training", "--arch", "sm_80", "--dtypes", "bf16", "--kernels", kernels]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([*command, "--json", file], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(file.read_text())
    assert {result["kernel"] for result in results} == set(kernels.split(","))
    assert all(result["spilled"] == 0 and result["matrix"] for result in results), results


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_interpreter(name, results):
    """As autograd within the bar of its dtype, and all that triton_training_cases.call checks."""
    result = results[name]
    if result["failure"] is not None:
        pytest.fail(result["failure"], pytrace=False)
    assert 0.0 <= result["error"] <= result["bar"]
