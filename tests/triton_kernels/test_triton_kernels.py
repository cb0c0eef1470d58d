"""The Triton kernels against the float64 reference, without a GPU: the cases of triton_cases.py.

They run in Triton's interpreter, which has to be chosen before Triton is imported: in one process of their own, so that
torch.compile in this one goes on compiling.
"""

import importlib.util

import pytest
from support import triton_cases
from support.triton_process import parametrized, results_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

NAMES = parametrized(triton_cases.cases())


@pytest.fixture(scope="module")
def results(request):
    return results_of(request, triton_cases.__file__, limit_s=600)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_interpreter(name, results):
    """As the reference within the bar of its dtype, and all that triton_cases.call checks."""
    result = results[name]
    if result["failure"] is not None:
        pytest.fail(result["failure"], pytrace=False)
    assert 0.0 <= result["error"] <= result["bar"]
