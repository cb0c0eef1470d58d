"""The blocks of a layer in training: values, dropout and gradients against float64."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.library import opcheck

from squeezebert_kernels import ops
from squeezebert_kernels._native import DropoutSite
from squeezebert_kernels.ops import reference

kernels = torch.ops.squeezebert_kernels

# batch, length, channels, heads, hidden channels, groups of q, k, v, post, intermediate, output
CASES = {
    "mixed groups": (2, 7, 24, 3, 48, (1, 2, 4, 2, 4, 1)),
    "several blocks of queries": (1, 130, 64, 2, 128, (4, 4, 4, 1, 4, 4)),
    "unequal groups": (3, 33, 40, 2, 60, (2, 2, 2, 5, 4, 5)),
    "one token": (2, 1, 16, 1, 16, (1, 1, 1, 1, 1, 1)),
    "more tokens than a chunk": (9, 120, 8, 2, 12, (2, 1, 2, 2, 4, 2)),
    "no tokens": (2, 0, 16, 2, 32, (1, 1, 1, 1, 1, 1)),
}
DROPOUT = [0.0, 0.3, 1.0]
# Of one rounding of an operand of a product, with some room for how errors of several of them add up.
TOLERANCE = {"float32": 3e-6, "bfloat16": 2e-2}


@pytest.fixture(params=list(CASES))
def sizes(request):
    return CASES[request.param]


def randn(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def attention_case(sizes):
    """Tensors of attention_block in float64, and its options."""
    batch, length, n, heads, _, groups = sizes
    tensors = [randn(batch, length, n)]
    for i, g in enumerate(groups[:3]):
        tensors += [randn(n, n // g, 1, seed=i + 1, scale=(n // g) ** -0.5), randn(n, seed=i + 4)]
    tensors.append(randn(batch, 1, 1, length, seed=8))
    options = {"num_heads": heads, **dict(zip(("q_groups", "k_groups", "v_groups"), groups))}
    return tensors, options


def post_case(sizes, activation="gelu"):
    batch, length, n, _, wide, groups = sizes
    tensors = [randn(batch, length, n), randn(batch, length, n, seed=1)]
    for i, (rows, columns, g) in enumerate(zip((n, wide, n), (n, n, wide), groups[3:])):
        tensors += [randn(rows, columns // g, seed=i + 2, scale=(columns // g) ** -0.5), randn(rows, seed=i + 5)]
        if i != 1:
            tensors += [randn(n, seed=i + 9), randn(n, seed=i + 12)]
    names = ("post_groups", "intermediate_groups", "output_groups")
    return tensors, {**dict(zip(names, groups[3:])), "activation": activation, "post_eps": 1e-5, "output_eps": 1e-5}


def drawn(seed):
    """What a block draws after torch.manual_seed(seed)."""
    torch.manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64)


def attention_factors(sizes, p, seed=1):
    batch, length, _, heads = sizes[:4]
    factors = kernels.dropout_factors(drawn(seed), 0, batch * heads * length, length, p)
    return factors.view(batch, heads, length, length).double()


def post_factors(sizes, ps, seed=1):
    batch, length, n = sizes[:3]
    draw = drawn(seed)
    return [
        kernels.dropout_factors(draw, site, batch * length, n, p).view(batch, length, n).double()
        for site, p in zip((1, 2), ps)
    ]


def check(op, oracle, tensors, dtype):
    """Values and gradients of ``op`` in float32 against ``oracle`` in float64."""
    exact = [t.clone().requires_grad_() for t in tensors]
    leaves = [t.float().requires_grad_() for t in tensors]
    torch.manual_seed(1)
    y, want = op(*leaves), oracle(*exact)
    grad = randn(*want.shape, seed=20)
    y.backward(grad.float())
    want.backward(grad)
    scale = max(float(want.detach().abs().max()) if want.numel() else 0.0, 1.0)
    torch.testing.assert_close(y.double(), want, rtol=0, atol=TOLERANCE[dtype] * scale)
    for leaf, good in zip(leaves, exact):
        # Gradients are sums of numbers of about 1. Over tokens they may cancel, the one of k_bias to 0.
        cancels = want.shape[:-1].numel() ** 0.5 if good.shape[:-1] != want.shape[:-1] else 1.0
        scale = max(float(good.grad.abs().max()) if good.numel() else 0.0, cancels, 1.0)
        torch.testing.assert_close(leaf.grad.double(), good.grad, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("p", DROPOUT)
def test_attention_block(sizes, p, dtype):
    tensors, options = attention_case(sizes)
    *tensors, mask = tensors
    factors = attention_factors(sizes, p)
    check(
        lambda *t: ops.attention_block(*t, mask.float(), **options, dropout_p=p, dtype=dtype),
        lambda *t: reference.attention_block(*t, mask, **options, dropout_factors=factors),
        tensors,
        dtype,
    )


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("p", DROPOUT)
def test_post_attention_block(sizes, p, dtype):
    tensors, options = post_case(sizes)
    ps = (p, p / 2)
    factors = post_factors(sizes, ps)
    check(
        lambda *t: ops.post_attention_block(*t, **options, post_dropout_p=p, output_dropout_p=p / 2, dtype=dtype),
        lambda *t: reference.post_attention_block(*t, **options, dropout_factors=factors),
        tensors,
        dtype,
    )


@pytest.mark.parametrize("activation", [None, "relu", "gelu_tanh"])
def test_activations(activation):
    tensors, options = post_case(CASES["mixed groups"], activation)
    check(
        lambda *t: ops.post_attention_block(*t, **options),
        lambda *t: reference.post_attention_block(*t, **options),
        tensors,
        "float32",
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 7), (2, 1, 1, 7), (1, 3, 7, 7), (2, 3, 7, 7), (7, 7)])
def test_every_shape_of_mask(shape):
    sizes = CASES["mixed groups"]
    (*tensors, _), options = attention_case(sizes)
    mask = randn(*shape, seed=3)
    check(
        lambda *t: ops.attention_block(*t, mask.float(), **options),
        lambda *t: reference.attention_block(*t, mask, **options),
        tensors,
        "float32",
    )
    mask[..., 0, :] = torch.finfo(torch.float32).min  # a query, or all of them, that may attend to nothing
    check(
        lambda *t: ops.attention_block(*t, mask.float(), **options),
        lambda *t: reference.attention_block(*t, mask, **options),
        tensors,
        "float32",
    )
    visible = mask > -0.5
    visible[..., 0] = True
    hidden = torch.zeros_like(mask).masked_fill(~visible, torch.finfo(torch.float32).min)
    check(
        lambda *t: ops.attention_block(*t, visible, **options),
        lambda *t: reference.attention_block(*t, hidden, **options),
        tensors,
        "float32",
    )


def test_gradients_of_the_mask_with_dropout():
    tensors, options = attention_case(CASES["mixed groups"])
    leaves = [t.float().requires_grad_() for t in tensors]
    torch.manual_seed(0)
    ops.attention_block(*leaves, **options, dropout_p=0.2).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)


def test_second_derivatives():
    sizes = CASES["mixed groups"]
    (*tensors, mask), options = attention_case(sizes)
    factors = attention_factors(sizes, 0.3)

    def penalty(op, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        torch.manual_seed(1)
        (g,) = torch.autograd.grad(op(*leaves).pow(2).sum(), leaves[0], create_graph=True)
        return torch.autograd.grad(g.pow(2).sum(), leaves[1])[0]

    found = penalty(lambda *t: ops.attention_block(*t, mask.float(), **options, dropout_p=0.3), torch.float32)
    want = penalty(lambda *t: reference.attention_block(*t, mask, **options, dropout_factors=factors), torch.float64)
    torch.testing.assert_close(found.double(), want, rtol=0, atol=1e-4 * float(want.abs().max()))


def test_gradcheck_of_the_reference_with_dropout():
    sizes = (1, 3, 4, 2, 8, (2, 1, 1, 1, 2, 2))
    (*tensors, mask), options = attention_case(sizes)
    factors = attention_factors(sizes, 0.3)
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(
        lambda *t: reference.attention_block(*t, mask, **options, dropout_factors=factors), leaves
    )
    tensors, options = post_case(sizes)
    factors = post_factors(sizes, (0.3, 0.5))
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(
        lambda *t: reference.post_attention_block(*t, **options, dropout_factors=factors), leaves
    )


@pytest.mark.parametrize("wanted", [(), (0,), (1, 3), (2, 6)])
def test_some_gradients_only(wanted):
    (*tensors, mask), options = attention_case(CASES["mixed groups"])
    leaves = [t.float().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
    full = [t.float().requires_grad_() for t in tensors]
    for values in (leaves, full):
        torch.manual_seed(1)
        y = ops.attention_block(*values, mask.float(), **options, dropout_p=0.1)
        if y.requires_grad:
            y.sum().backward()
    for i, (leaf, good) in enumerate(zip(leaves, full)):
        assert (leaf.grad is None) == (i not in wanted)
        if i in wanted:
            torch.testing.assert_close(leaf.grad, good.grad, rtol=0, atol=0)


def test_dropout_comes_from_the_generator_and_is_what_was_asked_for():
    seed = torch.tensor([12345])
    factors = kernels.dropout_factors(seed, 1, 300, 200, 0.25)
    assert set(factors.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(float((factors == 0).double().mean()) - 0.25) < 0.01
    assert not torch.equal(factors, kernels.dropout_factors(seed, 2, 300, 200, 0.25))
    assert not torch.equal(factors, kernels.dropout_factors(seed + 1, 1, 300, 200, 0.25))
    (*tensors, mask), options = attention_case(CASES["mixed groups"])
    tensors = [t.float() for t in tensors]

    def draw():
        return ops.attention_block(*tensors, mask.float(), **options, dropout_p=0.5)

    torch.manual_seed(4)
    first, second = draw(), draw()
    torch.manual_seed(4)
    assert torch.equal(first, draw())
    assert torch.equal(second, draw())
    assert not torch.equal(first, second)


def test_dropout_in_float64_is_that_of_torch():
    (*tensors, mask), options = attention_case(CASES["mixed groups"])
    torch.manual_seed(0)
    found = ops.attention_block(*tensors, mask, **options, dropout_p=0.5)
    torch.manual_seed(0)
    assert torch.equal(found, reference.attention_block(*tensors, mask, **options, dropout_p=0.5))


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), "0.1", None, True])
def test_a_probability_that_is_none(p):
    (*tensors, mask), options = attention_case(CASES["mixed groups"])
    tensors = [t.float() for t in tensors]
    with pytest.raises((TypeError, ValueError), match="dropout_p must be a probability between 0 and 1, got"):
        ops.attention_block(*tensors, mask.float(), **options, dropout_p=p)
    tensors, options = post_case(CASES["mixed groups"])
    tensors = [t.float() for t in tensors]
    with pytest.raises((TypeError, ValueError), match="output_dropout_p must be a probability"):
        ops.post_attention_block(*tensors, **options, output_dropout_p=p)


def test_dropout_sites_are_those_of_the_kernels():
    """The numbers are said once in Python and once in C++."""
    header = Path(__file__).resolve().parents[2] / "csrc" / "training" / "trained_blocks.h"
    listed = re.search(r"enum class DropoutSite : uint32_t \{(.*?)\};", header.read_text(), re.DOTALL)[1]
    sites = {name.upper(): int(number) for name, number in re.findall(r"(\w+) = (\d+)", listed)}
    assert sites == {site.name: int(site) for site in DropoutSite}
    seed = torch.tensor([1])
    for site in sites.values():
        assert kernels.dropout_factors(seed, site, 1, 1, 0.5).shape == (1, 1)
    for site in (-1, len(sites)):
        with pytest.raises(RuntimeError, match=f"there is no dropout site {site}"):
            kernels.dropout_factors(seed, site, 1, 1, 0.5)


def test_what_does_not_go_with_training():
    (*tensors, _), options = attention_case(CASES["mixed groups"])
    tensors = [t.float() for t in tensors]
    with pytest.raises(ValueError, match="dtype must be None, 'float32' or 'bfloat16', got 'int8'"):
        ops.attention_block(*tensors, **options, dropout_p=0.1, dtype="int8")
    tensors[0] = tensors[0].flatten(0, 1)
    with pytest.raises(ValueError, match="dropout_p must be 0 with offsets, got 0.1"):
        ops.attention_block(*tensors, **options, dropout_p=0.1, offsets=torch.tensor([0, 7, 14]))
    with pytest.raises(RuntimeError, match="seed must be an int64 CPU tensor"):
        kernels.dropout_factors(torch.tensor([0.5]), 0, 1, 1, 0.5)


def test_results_may_be_changed_in_place():
    (*tensors, mask), options = attention_case(CASES["mixed groups"])
    leaves = [t.float().requires_grad_() for t in tensors]
    ops.attention_block(*leaves, mask.float(), **options).mul_(2).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)


def test_what_float16_cannot_hold_is_kept_in_float32():
    tensors, options = post_case(CASES["mixed groups"])
    halves = [t.half() for t in tensors]
    halves[3].fill_(5e4)
    halves[1].fill_(4e4)
    halves[1][..., ::2] = 0
    leaves = [t.requires_grad_() for t in halves]
    y = ops.post_attention_block(*leaves, **options)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_relu_at_zero_where_denormals_are_flushed():
    tensors, options = post_case(CASES["mixed groups"], "relu")
    leaves = [t.float() for t in tensors]
    leaves[6].zero_()
    leaves[7].zero_().requires_grad_()
    torch.set_flush_denormal(True)
    try:
        ops.post_attention_block(*leaves, **options).sum().backward()
    finally:
        torch.set_flush_denormal(False)
    assert not leaves[7].grad.any()


def test_an_impossible_isa_is_named():
    code = (
        "import torch; from squeezebert_kernels import ops; w = torch.eye(4); x = torch.ones(1, 2, 4)\n"
        "ops.attention_block(x, w, None, w, None, w, None, num_heads=1, dropout_p=0.5)"
    )
    environment = {**os.environ, "SBK_ISA": "foo"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "ValueError: SBK_ISA='foo'" in run.stderr


def test_bfloat16_is_what_is_multiplied_where_there_are_instructions_for_it():
    (*tensors, mask), options = attention_case(CASES["mixed groups"])
    post, post_options = post_case(CASES["mixed groups"])
    blocks = [
        (ops.attention_block, [t.float() for t in (*tensors, mask)], options),
        (ops.post_attention_block, [t.float() for t in post], post_options),
    ]
    for op, values, options in blocks:
        results = []
        for dtype in ("float32", "bfloat16"):
            leaves = [t.clone().requires_grad_(i == 0) for i, t in enumerate(values)]
            y = op(*leaves, **options, dtype=dtype)
            y.sum().backward()
            results.append((y.detach(), leaves[0].grad))
        for full, low in zip(*results):
            assert torch.equal(full, low) == (kernels.isa() != "avx512bf16")


def test_opcheck():
    sizes = CASES["mixed groups"]
    (*tensors, mask), _ = attention_case(sizes)
    values = [t.float().requires_grad_() for t in tensors]
    seed, groups = torch.tensor([3]), list(sizes[5])
    options = [sizes[3], *groups[:3], 0.1, "float32"]
    opcheck(kernels.attention_block_train.default, (*values, mask.float(), seed, *options))
    state = [t.detach() for t in kernels.attention_block_train(*values, mask.float(), seed, *options)]
    plain = [t.detach() for t in values]
    grad = torch.randn_like(state[0])
    opcheck(
        kernels.attention_block_backward.default,
        (grad, *plain[:2], plain[3], plain[5], mask.float(), seed, *state, *options, [1, 1, 0, 1, 1, 0, 1]),
    )
    tensors, _ = post_case(sizes)
    values = [t.float().requires_grad_() for t in tensors]
    options = [*groups[3:], "gelu", 1e-5, 1e-5, 0.1, 0.2, "float32"]
    opcheck(kernels.post_attention_block_train.default, (*values, seed, *options))
    state = [t.detach() for t in kernels.post_attention_block_train(*values, seed, *options)]
    plain = [t.detach() for t in values]
    weights = [plain[i] for i in (0, 2, 4, 6, 8, 10)]
    opcheck(
        kernels.post_attention_block_backward.default,
        (grad, *weights, seed, *state[1:], *options, [1, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1]),
    )
    conv = (torch.randn(5, 6), torch.randn(5, 4), torch.randn(6, 2), 2, [1, 1, 1], "float32")
    opcheck(kernels.grouped_pointwise_conv_backward.default, conv)
    opcheck(kernels.dropout_factors.default, (seed, 0, 3, 4, 0.5))
