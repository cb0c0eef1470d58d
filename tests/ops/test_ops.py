"""The ops against the float64 reference: values, gradients, torch.library's own checks, tracing and bad input."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from support.op_cases import (
    ACTIVATIONS,
    CASES,
    assert_close,
    attention_case,
    check,
    conv_case,
    conv_norm_case,
    groups_of,
    post_case,
    randn,
    weight,
    weights_of,
)
from torch.library import opcheck

from squeezebert_kernels import _native, ops
from squeezebert_kernels.benchmark.checking import exact
from squeezebert_kernels.ops import reference

CONVS = [
    dict(rows=(1, 128), c_in=768, c_out=3072, groups=4), dict(rows=(1, 5), c_in=3072, c_out=768, groups=4),
    dict(rows=(7,), c_in=384, c_out=1536, groups=1), dict(rows=(), c_in=12, c_out=6, groups=3),
    dict(rows=(2, 3, 4), c_in=5, c_out=3, groups=1), dict(rows=(17,), c_in=34, c_out=66, groups=2),
    dict(rows=(300,), c_in=8, c_out=8, groups=8), dict(rows=(0, 4), c_in=8, c_out=16, groups=2),
]  # fmt: skip


@pytest.mark.parametrize("case", CONVS, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_conv(case, activation):
    args, options = conv_case(**case, activation=activation)
    check("grouped_pointwise_conv", args, options, case["c_in"])


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv_layer_norm(case):
    args, options = conv_norm_case(**case)
    # LayerNorm divides by the standard deviation: few channels can have nearly none, so compare against its inverse.
    check("grouped_pointwise_conv_layer_norm", args, options, 16 * case["c_in"])


@pytest.mark.parametrize(
    "case",
    [
        dict(batch=2, length=128, channels=768, heads=12, groups=(4, 4, 4)),
        dict(batch=1, length=600, channels=48, heads=3, groups=(1, 1, 1)),
        dict(batch=3, length=7, channels=32, heads=4, groups=(2, 2, 2)),
        dict(batch=2, length=1, channels=30, heads=5, groups=(1, 2, 3)),
        dict(batch=2, length=33, channels=24, heads=2, groups=(8, 4, 6)),
        dict(batch=0, length=5, channels=16, heads=2, groups=(1, 1, 1)),
        dict(batch=2, length=0, channels=16, heads=2, groups=(1, 1, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("mask", [None, "b11s", "b1ss", "bhss", "ss"])
def test_attention(case, mask):
    args, options = attention_case(**case, mask=mask)
    check("attention_block", args, options, 4 * case["channels"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "case",
    [
        dict(rows=(1, 128), channels=768, hidden=3072, groups=(1, 4, 4)),
        dict(rows=(2, 7), channels=32, hidden=64, groups=(2, 4, 1)),
        dict(rows=(65,), channels=36, hidden=72, groups=(3, 2, 4)),
        dict(rows=(0, 3), channels=8, hidden=16, groups=(1, 1, 1)),
    ],
    ids=str,
)
def test_post_attention(case, activation):
    args, options = post_case(**case, activation=activation)
    check("post_attention_block", args, options, 16 * case["hidden"])


@pytest.fixture(params=CASES, ids=str)
def case(request):
    args, options = CASES[request.param]()
    return request.param, args, options


def test_packed_changes_nothing(case):
    name, args, options = case
    packed = ops.pack(weights_of(name, args), groups_of(name, options), num_heads=options.get("num_heads", 0))
    op = getattr(ops, name)
    assert torch.equal(op(*args, **options), op(*args, **options, packed=packed))
    assert ops.packed_is_current(weights_of(name, args), packed)
    weights_of(name, args)[0].data.mul_(1.5)
    assert not ops.packed_is_current(weights_of(name, args), packed)


def test_packed_for_other_weights_is_refused(case):
    name, args, options = case
    op = getattr(ops, name)
    other = ops.pack([randn(8, 4)], [1])
    for packed in (other, other[:10], torch.zeros(4096, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="^packed"):
            op(*args, **options, packed=packed)
    for packed in (torch.zeros(3), other.to("meta")):
        with pytest.raises((TypeError, ValueError), match="packed"):
            op(*args, **options, packed=packed)


def test_same_bits_for_any_thread_count(case):
    name, _, _ = case
    sizes = {
        "grouped_pointwise_conv": dict(rows=(2, 77), c_in=96, c_out=144),
        "grouped_pointwise_conv_layer_norm": dict(rows=(2, 77), c_in=96, c_out=144),
        "attention_block": dict(batch=3, length=77), "post_attention_block": dict(rows=(2, 77)),
    }  # fmt: skip
    args, options = CASES[name](**sizes[name])
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3, 2, 1):
            torch.set_num_threads(n)
            results.append(getattr(ops, name)(*args, **options))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], r) for r in results[1:])


def test_any_strides(case):
    name, args, options = case

    def strided(t):
        if not isinstance(t, torch.Tensor):
            return t
        padded = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), float("nan"))
        view = padded[..., : 2 * t.shape[-1] : 2]
        view.copy_(t)
        return view

    op = getattr(ops, name)
    assert torch.equal(op(*args, **options), op(*map(strided, args), **options))
    transposed = [
        t.transpose(0, 1).contiguous().transpose(0, 1) if isinstance(t, torch.Tensor) and t.dim() > 1 else t
        for t in args
    ]
    assert torch.equal(op(*args, **options), op(*transposed, **options))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(case, dtype):
    name, args, options = case
    cast = [t.to(dtype) if isinstance(t, torch.Tensor) else t for t in args]
    if cast[-1] is not None and name == "attention_block":
        cast[-1] = torch.zeros_like(cast[-1]).masked_fill(args[-1] < 0, torch.finfo(dtype).min)
    actual = getattr(ops, name)(*cast, **options)
    expected = exact(name, *cast, **options)
    assert actual.dtype == dtype
    size = float(expected.abs().max())
    # float32 inside and one rounding at the end: half an ulp of the output dtype.
    tolerance = 1e-12 * size if dtype == torch.float64 else torch.finfo(dtype).eps * size
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


def test_gradients_of_every_input(case):
    name, args, options = case
    leaves = [t.clone().requires_grad_() if isinstance(t, torch.Tensor) else t for t in args]
    doubles = [t.detach().double().requires_grad_() if isinstance(t, torch.Tensor) else t for t in args]
    out = getattr(ops, name)(*leaves, **options)
    expected = getattr(reference, name)(*doubles, **options)
    grad = randn(*out.shape, seed=11)
    tensors = [(a, b) for a, b in zip(leaves, doubles) if isinstance(a, torch.Tensor)]
    actual = torch.autograd.grad(out, [a for a, _ in tensors], grad)
    wanted = torch.autograd.grad(expected, [b for _, b in tensors], grad.double())
    for a, w in zip(actual, wanted):
        # The gradient of k_bias is 0: a constant in every score of a row.
        torch.testing.assert_close(a.double(), w, rtol=0, atol=1e-4 * max(float(w.abs().max()), 0.1))
    # The gradient that sum() sends has stride 0.
    getattr(ops, name)(*leaves, **options).sum().backward()
    assert all(a.grad is not None for a, _ in tensors)


def test_gradients_of_some_inputs(case):
    name, args, options = case
    for i, t in enumerate(args):
        if isinstance(t, torch.Tensor):
            leaves = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
            leaves[i].requires_grad_()
            getattr(ops, name)(*leaves, **options).sum().backward()
            assert leaves[i].grad.shape == t.shape


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_with_trailing_arguments_left_out(compiled):
    x, w = randn(3, 8).requires_grad_(), randn(4, 8).requires_grad_()
    op = ops.grouped_pointwise_conv
    run = torch.compile(op, backend="aot_eager", fullgraph=True) if compiled else op
    grads = torch.autograd.grad(run(x, w).sum(), (x, w))
    expected = torch.autograd.grad((x.double() @ w.double().T).sum(), (x, w))
    for a, e in zip(grads, expected):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n", "k"), [(4, 4), (1, 2), (5, 5), (40, 8), (80, 80)])
def test_weight_gradients_over_many_tokens(n, k):
    """Where every token is added to one sum the error grows with their number, to 4e-5 here."""
    groups, tokens = 16, 8 * 475
    grad = randn(tokens, groups * n) * 0.1 + 0.3 * torch.linspace(-1, 1, tokens)[:, None]
    x, weight = randn(tokens, groups * k) + 0.5, randn(groups * n, k)
    op = torch.ops.squeezebert_kernels.grouped_pointwise_conv_backward
    found = op(grad, x, weight, groups, [0, 1, 0], "float32")[1]
    exact = torch.einsum("tgn,tgk->gnk", grad.double().view(-1, groups, n), x.double().view(-1, groups, k))
    assert (found - exact.flatten(0, 1)).abs().max() <= 4e-6 * exact.abs().max()


def test_second_derivatives(case):
    name, args, options = case

    def penalty(module, dtype):
        leaves = [t.to(dtype).requires_grad_() if isinstance(t, torch.Tensor) else t for t in args]
        out = getattr(module, name)(*leaves, **options)
        (g,) = torch.autograd.grad(out.pow(2).sum(), leaves[0], create_graph=True)
        return torch.autograd.grad(g.pow(2).sum(), leaves[1])[0]

    actual, expected = penalty(ops, torch.float32), penalty(reference, torch.float64)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def test_gradcheck_on_the_reference_path():
    args, options = post_case(rows=(3,), channels=4, hidden=8, groups=(1, 2, 2))
    doubles = [t.double().requires_grad_() for t in args]
    assert torch.autograd.gradcheck(lambda *a: ops.post_attention_block(*a, **options), doubles)
    args, options = attention_case(batch=1, length=3, channels=4, heads=2, groups=(2, 1, 1), mask=None)
    doubles = [t.double().requires_grad_() if t is not None else None for t in args]
    assert torch.autograd.gradcheck(lambda *a: ops.attention_block(*a, **options), doubles)


@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(case, grad):
    name, args, options = case
    op_options = {k: ("none" if k == "activation" and v is None else v) for k, v in options.items()}
    leaves = [t.clone().requires_grad_(grad) if isinstance(t, torch.Tensor) else t for t in args]
    opcheck(getattr(torch.ops.squeezebert_kernels, name).default, tuple(leaves), op_options)


def test_opcheck_pack():
    opcheck(torch.ops.squeezebert_kernels.pack.default, ([weight(24, 24, 2)], [2], 4), test_utils="test_schema")


def test_autocast(case):
    name, args, options = case
    op = getattr(ops, name)
    exact = op(*args, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for x in (args[0], args[0].bfloat16()):
            y = op(x, *args[1:], **options)
            assert y.dtype == (torch.float32 if name.endswith(("norm", "post_attention_block")) else torch.bfloat16)
            torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))
        leaf = args[1].clone().requires_grad_()
        op(args[0], leaf, *args[2:], **options).float().sum().backward()
    assert leaf.grad.dtype == torch.float32


def test_compile_and_export(case):
    name, args, options = case
    op = getattr(ops, name)

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return op(*tensors, **options) * 1

    expected = op(*args, **options)
    compiled = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), expected)
    exported = torch.export.export(Module(), args)
    assert torch.equal(exported.module()(*args), expected)


def test_nan_and_infinity_stay_in_their_row():
    for name, bad in itertools.product(CASES, (float("nan"), float("inf"))):
        args, options = CASES[name]()
        clean = getattr(ops, name)(*args, **options)
        x = args[0].clone()
        x[1, 2, 3] = bad
        dirty = getattr(ops, name)(x, *args[1:], **options)
        expected = getattr(reference, name)(x, *args[1:], **options)
        if bad != bad:  # torch's own gelu(inf) is NaN on some CPUs, ours is inf
            assert torch.equal(dirty.isnan(), expected.isnan())
        assert not dirty[1, 2].isfinite().all()
        assert torch.equal(dirty[0], clean[0])


def test_masks():
    args, options = attention_case(mask=None)
    *rest, _ = args
    lowest = torch.full((2, 1, 1, 9), torch.finfo(torch.float32).min)
    # A fully masked row attends to everything alike, as softmax of equal scores does.
    expected = exact("attention_block", *rest, lowest, **options)
    assert_close(ops.attention_block(*rest, lowest, **options), expected, 96)
    boolean = torch.tensor([[[[True] * 5 + [False] * 4]]])
    additive = torch.zeros(1, 1, 1, 9).masked_fill(~boolean, torch.finfo(torch.float32).min)
    assert torch.equal(ops.attention_block(*rest, boolean, **options), ops.attention_block(*rest, additive, **options))
    infinite = torch.zeros(2, 1, 1, 9).masked_fill(~boolean, -float("inf"))
    torch.testing.assert_close(
        ops.attention_block(*rest, infinite, **options),
        ops.attention_block(*rest, additive, **options),
        rtol=0,
        atol=1e-6,
    )
    assert ops.attention_block(*rest, torch.full_like(lowest, -float("inf")), **options).isnan().all()
    per_query = torch.zeros(2, 1, 9, 1)  # broadcast along the keys: a constant that softmax ignores
    assert_close(ops.attention_block(*rest, per_query, **options), ops.attention_block(*rest, None, **options), 24)


# The best one is that of this process. Of the others `make test` runs the ones that share the least code with it.
LOWER_TIERS = [
    pytest.param(isa, marks=[pytest.mark.wide] if isa not in ("avx2", "neon") else [])
    for isa in _native.available_isas()[:-1]
]


@pytest.mark.parametrize("isa", LOWER_TIERS)
def test_values_on_every_isa(isa):
    """This file's value tests again, once per lower tier, in a process of its own: SBK_ISA is read once."""
    if os.environ.get("SBK_ISA"):
        return
    code = (
        "import sys, pytest; from squeezebert_kernels import _native; assert _native.isa() == sys.argv[2];"
        "sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', sys.argv[1], '-k',"
        "'test_conv or test_attention or test_post or test_nan or test_masks or threads']))"
    )
    env = {**os.environ, "SBK_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code, __file__, isa], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_impossible_isa_is_a_clear_error():
    code = (
        "import torch; from squeezebert_kernels import ops;"
        "ops.grouped_pointwise_conv(torch.ones(2, 4), torch.ones(4, 4))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "SBK_ISA": "mmx"}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "ValueError: SBK_ISA='mmx' is not possible on this machine; possible: scalar" in done.stderr
