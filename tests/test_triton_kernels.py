"""The Triton kernels against the float64 reference, without a GPU: the cases of triton_cases.py.

They run in Triton's interpreter, which has to be chosen before Triton is imported: in one process of their own, so that
torch.compile in this one goes on compiling.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton_cases

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

NAMES = list(triton_cases.cases())


@pytest.fixture(scope="module")
def results(request):
    """Name -> what the process said of that case, for the cases selected; what has none is what it died of."""
    here = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = [item.callspec.params["name"] for item in here]
    # One thread: the arrays are tiny, and threads would wait for each other.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("SBK_TRITON_CONFIGS", None)
    command = [sys.executable, str(Path(triton_cases.__file__)), *names]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=600)
            ended = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            ended = "was stopped after 600 s"
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
    last = next((line["started"] for line in reversed(lines) if "started" in line), "none")
    done = {line["name"]: line for line in lines if "name" in line}
    died = {"failure": f"no result: the process {ended}; the last case to start: {last}. Its stderr:\n{err[-4000:]}"}
    return {name: done.get(name, died) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_interpreter(name, results):
    """As the reference within the bar of its dtype, and all that triton_cases.call checks."""
    result = results[name]
    if result["failure"] is not None:
        pytest.fail(result["failure"], pytrace=False)
    assert 0.0 <= result["error"] <= result["bar"]
