"""What the tests have bench/gpu/ahead.py compile for GPUs that are not here.

Its outcomes are kept in build/ahead, under the hash of all that they depend on: kernels that have not changed are not
compiled again.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AHEAD = ROOT / "bench" / "gpu" / "ahead.py"
CACHE = ROOT / "build" / "ahead"
# (architectures, dtypes); float16 differs from bfloat16 in an operand of an instruction: once is enough.
RUNS = (("sm_80,sm_86", "bf16,fp32"), ("sm_90", "bf16,fp16,fp32"))
# The kernels of training with the most registers, for the GPU that leaves them the least.
TRAINING_KERNELS = ("query_grad", "key_value_grad")
TRAINING = ("--training", "--arch", "sm_80", "--dtypes", "bf16", "--kernels", ",".join(TRAINING_KERNELS))


def run(*command, **environment):
    """What a command with a Triton that compiles prints. It must end well."""
    with tempfile.TemporaryDirectory() as folder:
        inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            env={**inherited, "TRITON_CACHE_DIR": folder, **environment},
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compiled(*arguments):
    """(results, the table) of ahead.py with these arguments."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        printed = run(AHEAD, *arguments, "--markdown", "--json", file, "--cache", CACHE)
        return json.loads(file.read_text()), printed


def shipped():
    """(results, the tables) of every shipped configuration."""
    results, printed = [], ""
    for archs, dtypes in RUNS:
        found, table = compiled("--arch", archs, "--dtypes", dtypes)
        results += found
        printed += table
    return results, printed


JOB = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import ahead
config = dict(FUSED=1, BLOCK_M=128, BLOCK_H=128, CHUNK=128, num_warps=8, num_stages=2)
job = ahead.Job("sm_90", "bf16", "ffn", config, 8192)
"""


def run_with_job(code, folder):
    """What ``code`` prints, with ``job``, a kernel that spills, and the argument ``folder``."""
    return run("-c", JOB + code, AHEAD.parent, folder)


def faults_of_job():
    """What is said of a kernel that spills."""
    return run_with_job("print(ahead.faults(*ahead.compile_all([job], Path(sys.argv[2]))))", CACHE)
