"""The Triton kernels of training against float64 autograd, without a GPU: the cases of triton_training_cases.py.

In a process of their own, as those of test_triton_kernels.py.
"""

import importlib.util

import pytest
from support import ahead, triton_training_cases
from support.triton_process import parametrized, results_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

NAMES = parametrized(triton_training_cases.cases(), ("bf16-fp16", "fp32-bf16"))


@pytest.fixture(scope="module")
def results(request):
    return results_of(request, triton_training_cases.__file__, limit_s=900)


@pytest.mark.slow
@pytest.mark.skipif(not ahead.AHEAD.exists(), reason="not a source tree")
def test_nothing_spills():
    results, _ = ahead.compiled(*ahead.TRAINING)
    assert {result["kernel"] for result in results} == set(ahead.TRAINING_KERNELS)
    assert all(result["spilled"] == 0 and result["matrix"] for result in results), results


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_interpreter(name, results):
    """As autograd within the bar of its dtype, and all that triton_training_cases.call checks."""
    result = results[name]
    if result["failure"] is not None:
        pytest.fail(result["failure"], pytrace=False)
    assert 0.0 <= result["error"] <= result["bar"]
