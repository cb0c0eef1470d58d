"""What the tests have bench/gpu/ahead.py compile for GPUs that are not here.

Its outcomes are kept in build/ahead, under the hash of all that they depend on: kernels that have not changed are not
compiled again. ``python tests/support/ahead.py`` compiles everything, so that the tests find it done.
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


if __name__ == "__main__":
    shipped()
    compiled(*TRAINING)
