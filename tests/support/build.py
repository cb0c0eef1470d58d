"""Compiles what tests look into, so that they find it done: the GPU kernels, and the kernels for AArch64 as assembly.

    python tests/support/build.py

What is there already, and what there is no compiler for, is passed over.
"""

import contextlib
import importlib.util
import sys

import ahead

if importlib.util.find_spec("triton") is not None:
    ahead.shipped()
    ahead.compiled(*ahead.TRAINING)
    ahead.faults_of_job()

sys.path.insert(0, str(ahead.ROOT / "bench" / "arm"))
import emulation
import inner_loops

for name in ("gcc", "zig"):
    with contextlib.suppress(emulation.Unavailable):
        inner_loops.compile_tiers(emulation.compiler(name))
with contextlib.suppress(emulation.Unavailable):
    emulation.plugin()
