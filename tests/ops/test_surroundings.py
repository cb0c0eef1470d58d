"""The ops and what surrounds them: the caller's floating-point modes, and fork()."""

import subprocess
import sys

CHECK = """
import ctypes, os, signal, sys
import torch
from squeezebert_kernels import ops

torch.manual_seed(0)
torch.set_num_threads(2)
c = 32
x, w, b, n = torch.randn(3, 17, c), torch.randn(c, c), torch.randn(c), torch.rand(c)
w2, w3 = torch.randn(4 * c, c), torch.randn(c, 4 * c)
x[0, 0, 0] = 1e-40  # flushed to 0, where that is done
x.requires_grad_(), w.requires_grad_()

def results():
    made = [ops.pack([w.detach()], [1], dtype="int8").clone()]
    made.append(ops.grouped_pointwise_conv(x, w, b, activation="gelu"))
    made.append(ops.grouped_pointwise_conv_layer_norm(x, w, b, x, n, b))
    made.append(ops.attention_block(x, w, b, w, b, w, b, num_heads=3 + 1))
    return made

def same(a, b):
    return all(torch.equal(one.view(torch.uint8), two.view(torch.uint8)) for one, two in zip(a, b, strict=True))
"""

MODES = """
libm = ctypes.CDLL("libm.so.6")
with torch.no_grad():
    want = [one.detach() for one in results()]
    for rounding in (0x400, 0x800, 0xC00) if os.uname().machine == "x86_64" else (0x400000, 0x800000, 0xC00000):
        for flush in (False, True):
            torch.set_flush_denormal(flush)
            assert libm.fesetround(rounding) == 0
            got = results()
            changed = libm.fegetround()
            libm.fesetround(0)
            torch.set_flush_denormal(False)
            assert changed == rounding
            assert same(got, want), (rounding, flush)
"""

FORK = """
with torch.no_grad():
    want = results()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # an op that hangs is a failure
        os._exit(7 if same(results(), want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", CHECK + code], capture_output=True, text=True, timeout=99, check=False)
    assert done.returncode == 0, done.stderr


def test_rounding_and_flushing_change_no_bit():
    run(MODES)


def test_a_forked_child_goes_on():
    """OpenMP, which torch uses, hangs in a child whose parent has used it."""
    run(FORK)
