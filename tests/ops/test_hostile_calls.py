"""Whatever Python passes to an op, it raises or computes: no crash, no hang, no memory that nobody has written to."""

import itertools
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.hostile_calls import POST, QKV, _blocks, good_calls, schemas
from support.op_cases import randn

from squeezebert_kernels import ops
from squeezebert_kernels.benchmark.checking import exact
from squeezebert_kernels.ops.dispatch import is_refusal

_ops = torch.ops.squeezebert_kernels
DTYPES = ("float32", "bfloat16", "int8")


@pytest.mark.parametrize(("share", "pairs"), [(4, 200), pytest.param(1, 30000, marks=pytest.mark.wide)])
def test_hostile_arguments_raise_or_compute(share, pairs):
    """In a process of its own. Its last line is the call that it did not return from."""
    tests = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(tests.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "support.hostile_calls", str(share), str(pairs)],
        cwd=tests, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    lines = run.stdout.splitlines()
    assert run.returncode == 0, "\n".join([f"exit status {run.returncode}", *lines[-30:], run.stderr[-3000:]])
    assert len(lines) > 4000


def test_every_op_has_hostile_calls():
    calls = good_calls()
    for name, schema in schemas().items():
        assert list(calls[name]) == [a.name for a in schema.arguments]


def _sections(arguments, prefixes, dtypes, num_heads=0):
    return torch.cat([
        _ops.pack([arguments[f"{p}weight"]], [arguments[f"{p}groups"]], num_heads, dtype)
        for p, dtype in zip(prefixes, dtypes)
    ])  # fmt: skip


@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, repeat=3)), ids="-".join)
def test_sections_of_several_dtypes(dtypes):
    """Attention encodes its input once, so it refuses them. The convolutions behind it encode one by one."""
    attention, post = _blocks()
    qkv = _sections(attention, QKV, dtypes, num_heads=4)
    packed = _sections(post, POST, dtypes)
    del attention["attention_mask"]
    layer = {**attention, **{k: v for k, v in post.items() if k not in ("context", "residual")}}
    layer |= {"attention_mask": None, "attention_packed": qkv, "post_packed": packed}
    raw = (
        lambda: _ops.attention_block(**attention, attention_mask=None, packed=qkv),
        lambda: _ops.encoder_layer(**layer),
    )
    public = (lambda: ops.attention_block(**attention, packed=qkv), lambda: ops.encoder_layer(**layer))
    if len(set(dtypes)) > 1:
        for call in public:
            with pytest.raises(ValueError, match=f"packed holds different dtypes, {dtypes[0]} and"):
                call()
        for call in raw:
            with pytest.raises(RuntimeError, match="packed holds different dtypes") as found:
                call()
            assert is_refusal(found.value)
    else:
        for call in (*raw, *public):
            assert call().isfinite().all()
    y = ops.post_attention_block(**post, packed=packed)
    expected = exact("post_attention_block", **post)
    # Each of three convolutions rounds weights and inputs by at most 2^-8 of the greatest of a row.
    assert float((y - expected).norm() / expected.norm()) < 6 * 2**-8


def test_a_section_whose_size_leaves_64_bits():
    """A header that is right in every word, for a weight of one value that was expanded."""
    header = bytearray(_ops.pack([randn(16, 16)], [1], 16, "float32")[:64].tolist())
    (lanes,) = struct.unpack_from("<H", header, 6)
    n = 2**40
    k = 2**62 // (n * lanes)
    struct.pack_into("<qqqqQq", header, 16, n, k, 1, 1, 0, 64)
    packed = torch.frombuffer(header * 3, dtype=torch.uint8).clone()
    w, x = torch.zeros(1).expand(n, k), torch.zeros(1, 1, k)
    with pytest.raises(ValueError, match=rf"\[{n}, {k}\] with groups=1 is not the shape of a conv weight of at most"):
        ops.attention_block(x, w, None, w, None, w, None, num_heads=n, packed=packed)


def test_packed_bytes_of_any_numbers():
    assert _ops.packed_bytes([2**40], [1], [1]) == 64 + 4 * 2**40
    assert _ops.packed_bytes([], [], []) == 0
    for n, k, groups in ((2**49, 1, 1), (2**25, 2**24, 1), (2**62, 2**62, 2**62), (-4, 4, 1), (4, 4, -1), (4, 0, 1)):
        with pytest.raises(RuntimeError, match=rf"\[{n}, {k}\] with groups={groups} is not the shape"):
            _ops.packed_bytes([n], [k], [groups])
    many = [2**48] * 2**13
    with pytest.raises(RuntimeError, match="would take more than 2\\^63 bytes"):
        _ops.packed_bytes(many, [1] * len(many), [1] * len(many))
    with pytest.raises(RuntimeError, match="dtype must be"):
        _ops.packed_bytes([], [], [], 0, "int4")


def test_batches_of_nothing():
    """However many there are: no loop goes over them."""
    attention, _ = _blocks()
    del attention["attention_mask"]
    for shape in ((2**40, 0, 24), (0, 2**40, 24)):
        attention["x"] = torch.empty(shape)
        assert ops.attention_block(**attention).shape == shape
        attention["x"].requires_grad_()
        assert ops.attention_block(**attention).shape == shape
    seed = torch.tensor([1])
    assert _ops.dropout_factors(seed, 0, 2**40, 0, 0.5).shape == (2**40, 0)


def test_devices_under_autocast():
    """Which casts arguments before a kernel sees them."""
    for name, good in good_calls().items():
        tensors = [k for k, v in good.items() if isinstance(v, torch.Tensor)]
        for argument in tensors if len(tensors) > 1 else []:
            with torch.autocast("cpu"), pytest.raises((RuntimeError, ValueError)):
                getattr(_ops, name)(**{**good, argument: good[argument].to("meta")})
            if argument == tensors[0]:
                with torch.autocast("cpu"), pytest.raises(RuntimeError):
                    getattr(_ops, name)(**{**good, argument: None})
