"""Runs cases of Triton kernels in the interpreter, which has to be chosen before Triton is imported: in one process of
their own, so that torch.compile in this one goes on compiling."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def parametrized(cases, wide=("bf16-fp16",)):
    """The names of cases. "bf16-fp16" in ``wide``: of a case that has both dtypes, that of float16 is wide. The two
    differ in an operand of an instruction."""
    names = list(cases)
    pairs = [pair.split("-") for pair in wide]
    twins = {f"{n.removesuffix(first)}{other}" for n in names for first, other in pairs if n.endswith(f"-{first}")}
    return [pytest.param(name, marks=[pytest.mark.wide] if name in twins else []) for name in names]


def results_of(request, script, limit_s):
    """Name -> what ``script``, which prints a line of JSON for each case, said of the selected cases of this file; what
    has none is what the process died of."""
    here = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = [item.callspec.params["name"] for item in here]
    # One thread: the arrays are tiny, and threads would wait for each other.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("SBK_TRITON_CONFIGS", None)
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, script, *names]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
            ended = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            ended = f"was stopped after {limit_s} s"
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
    last = next((line["started"] for line in reversed(lines) if "started" in line), "not known")
    done = {line["name"]: line for line in lines if "name" in line}
    died = {"failure": f"no result: the process {ended}; the last case to start: {last}. Its stderr:\n{err[-4000:]}"}
    return {name: done.get(name, died) for name in names}
