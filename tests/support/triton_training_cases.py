"""What test_triton_training.py runs in Triton's interpreter: ``TRITON_INTERPRET=1 python triton_training_cases.py``.

As triton_cases.py: tiny shapes and blocks, inputs amid NaNs, outputs born as NaNs; here against float64 autograd
through the reference, into which the factors of dropout are multiplied. Names of cases may follow.
"""

import itertools
import json
import sys
import warnings
from unittest import mock

import torch
from support.triton_case_tools import ACTIVATIONS, FP32, ONE, SMALL, UNIT, bar_of, guarded, same_bits, whole
from support.triton_cases import behind_attention, mask_of, projections, run

from squeezebert_kernels.ops import reference
from squeezebert_kernels.ops.dtypes import FLOATING

TILE = {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16, **ONE}
WEIGHT = {"BLOCK_N": 16, "BLOCK_K": 16, "BLOCK_T": 16, **ONE}
FLASH = {"BLOCK_M": 16, "BLOCK_N": 16, **ONE}
# Blocks of queries and of keys differ between forward and backward: dropout must not.
BLOCKS = {
    "conv": TILE, "wide_conv": TILE, "activation_conv": TILE, "weight": WEIGHT,
    "flash": FLASH, "query": {**FLASH, "BLOCK_N": 32}, "key_value": {**FLASH, "BLOCK_M": 32},
}  # fmt: skip
# How many values are rounded one after the other, those of forward included: its errors come back in the gradients.
CONV_GRADS, POST_GRADS, ATTENTION_GRADS = 2, 8, 16


def call(name, *args):
    """A training op, twice: results contiguous, of the right dtype and the same bits; arguments not written to."""
    from squeezebert_kernels import triton_kernels
    from squeezebert_kernels.triton_kernels import configs, training

    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    before = [whole(t).clone() for t in tensors]
    with (
        mock.patch.dict(training.BLOCKS, {"half": BLOCKS, "float32": BLOCKS}),
        configs.override(**SMALL),
    ):
        out = getattr(triton_kernels, name)(*args)
        if args[0].numel() < 300:
            again = getattr(triton_kernels, name)(*args)
            assert all(map(same_bits, out, again)), "a second call gives other values"
    for i, (t, old) in enumerate(zip(tensors, before)):
        assert same_bits(whole(t), old), f"tensor {i} of the arguments was written to"
    for i, t in enumerate(out):
        assert t.is_contiguous(), f"strides {t.stride()} of shape {tuple(t.shape)} of result {i}"
    storages = [t.untyped_storage()._cdata for t in (*out, *tensors)]
    assert len(set(storages[: len(out)])) == len(out), "results share memory"
    assert not set(storages[: len(out)]) & set(storages[len(out) :]), "a result is an argument's memory"
    return out


def factors(seed, site, rows, columns, p):
    from squeezebert_kernels import triton_kernels

    if seed is None or p == 0:
        return 1.0
    return triton_kernels.dropout_factors(seed, site, rows, columns, p).double()


def doubles(tensors):
    """Leaves of autograd in float64."""
    return [None if t is None else t.detach().double().requires_grad_() for t in tensors]


def grads_of(y, grad, leaves):
    """The gradients of ``leaves``; zeros for what ``y`` does not depend on."""
    wanted = [t for t in leaves if t is not None]
    found = iter(torch.autograd.grad(y, wanted, grad.double(), allow_unused=True, retain_graph=True))
    return [None if t is None else torch.zeros_like(t) if (g := next(found)) is None else g for t in leaves]


def compare_grads(case, found, expected, roundings, terms, scales=None):
    """Each gradient as :meth:`Case.compare`; of those that cancel out, the errors are parts of ``scales``."""
    for i, (g, e) in enumerate(zip(found, expected)):
        if e is None:
            continue
        assert g.dtype == case.dtype, f"gradient {i} is {g.dtype}"
        if scales and i in scales:
            assert g.shape == e.shape
            error, bar = float((g.double() - e).norm()), bar_of(case.dtype, roundings, terms)
            assert error <= bar * max(float(e.norm()), scales[i]), f"gradient {i}: {error:.3g} off"
        elif not e.any():
            assert not g.any(), f"gradient {i} is not zero"
        else:
            try:
                case.compare(g, e, roundings, terms)
            except AssertionError as error:
                raise AssertionError(f"gradient {i}: {error}") from None


def check_needs(name, args, found, needs_of):
    """What is not needed is empty, what is needed the same bits as when all is."""
    for needs in needs_of:
        some = call(name, *args, list(needs))
        for i, (part, full, need) in enumerate(zip(some, found, needs)):
            if need:
                assert same_bits(part, full), f"gradient {i} differs with needs {needs}"
            else:
                assert part.numel() == 0, f"gradient {i} is not empty with needs {needs}"


# --- grouped_pointwise_conv


def conv(case, rows=(2, 9), k=21, n=19, groups=1, x=None, grad=None, needs=()):
    x = case.draw(*rows, k * groups) if x is None else x(case)
    grad = case.draw(*x.shape[:-1], n * groups) if grad is None else grad(case)
    weight = case.weight(n * groups, k * groups, groups)
    found = call("grouped_pointwise_conv_backward", grad, x, weight, groups, [True] * 3, "float32")
    leaves = doubles([x, weight, torch.zeros(n * groups)])
    expected = grads_of(reference.grouped_pointwise_conv(*leaves, groups=groups), grad, leaves)
    compare_grads(case, found, expected, CONV_GRADS, max(n, x.numel() // x.shape[-1]))
    for some in needs:
        part = call("grouped_pointwise_conv_backward", grad, x, weight, groups, list(some), "float32")
        for p, full, need in zip(part, found, some):
            assert same_bits(p, full) if need else p.numel() == 0


def add_conv(add):
    for dtype, groups in itertools.product(FLOATING, (1, 2, 4)):
        add(f"conv-{groups}", conv, dtype, groups=groups)
    some = [(True, False, False), (False, True, False), (False, False, True), (False,) * 3]
    add("conv-needs", conv, "fp32", needs=some)
    add("conv-strided", conv, "fp32", x=lambda c: c.draw(2, 9, 60)[..., 11:32])
    add("conv-expanded_grad", conv, "fp32", grad=lambda c: c.draw(1).expand(2, 9, 19))
    add("conv-no_tokens", conv, "fp32", rows=(2, 0))
    add("conv-narrow", conv, "fp16", rows=(1,), k=1, n=1, groups=3)
    add("conv-even", conv, "fp16", rows=(16,), k=16, n=32)
    add("conv-many_tokens", conv, "fp32", rows=(1100,), k=3, n=5)  # in parts, and sums of their sums


# --- post_attention_block


def post(
    case, rows=(2, 9), channels=24, hidden=22, groups=(1, 2, 2), activation="gelu", p=(0.1, 0.1), biases=True,
    eps=(1e-12, 1e-5), needs=(), seed=1234,
):  # fmt: skip
    context, residual = case.draw(*rows, channels), case.draw(*rows, channels)
    others = behind_attention(case, channels, hidden, groups, biases)
    seed = torch.tensor([seed])
    tail = (*groups, activation or "none", *eps, *p, "float32")
    args = (context, residual, *others)
    y, post_sum, h, z, output_sum = call("post_attention_block_train", *args, seed, *tail)
    leaves = doubles(args)
    c, r, post_w, post_b, post_g, post_beta, inter_w, inter_b, out_w, out_b, out_g, out_beta = leaves
    tokens, shape = context.numel() // channels, context.shape
    dropped = [factors(seed, site, tokens, channels, p[site - 1]) for site in (1, 2)]
    dropped = [f if isinstance(f, float) else f.view(shape) for f in dropped]

    def layer_norm(t, gamma, beta, e):
        return torch.nn.functional.layer_norm(t, (channels,), gamma, beta, e)

    e_post_sum = reference.grouped_pointwise_conv(c, post_w, post_b, groups=groups[0]) * dropped[0] + r
    e_h = layer_norm(e_post_sum, post_g, post_beta, eps[0])
    e_z = reference.grouped_pointwise_conv(e_h, inter_w, inter_b, groups=groups[1])
    e_out = reference.grouped_pointwise_conv(
        reference.apply_activation(e_z, activation), out_w, out_b, groups=groups[2]
    )
    e_output_sum = e_out * dropped[1] + e_h
    e_y = layer_norm(e_output_sum, out_g, out_beta, eps[1])
    saved = [(y, e_y), (post_sum, e_post_sum), (h, e_h), (z, e_z), (output_sum, e_output_sum)]
    for name, (t, e) in zip(("y", "post_sum", "h", "z", "output_sum"), saved):
        assert t.dtype == case.dtype, name
        case.compare(t, e.detach(), 5, 3 * channels + hidden)

    grad = case.draw(*rows, channels)
    back = (grad, context, post_w, post_g, inter_w, out_w, out_g, seed, post_sum, h, z, output_sum)
    back = (grad, context, others[0], others[2], others[4], others[6], others[8], *back[7:], *tail)
    found = call("post_attention_block_backward", *back, [True] * 12)
    expected = grads_of(e_y, grad, leaves)
    compare_grads(case, found, expected, POST_GRADS, 3 * channels + hidden + tokens)
    check_needs("post_attention_block_backward", back, found, needs)


def add_post(add):
    for dtype, groups in itertools.product(FLOATING, (1, 2, 4)):
        add(f"post-{groups}", post, dtype, rows=(9,), channels=20 * groups, hidden=18 * groups, groups=(groups,) * 3)
    for activation in ACTIVATIONS:
        add(f"post-{activation}", post, "fp32", activation=activation, eps=(0.5, 1e-12))
    add("post-tanh-half", post, "fp16", rows=(9,), activation="gelu_tanh")
    add("post-no_dropout", post, "fp32", p=(0.0, 0.0))
    add("post-one_dropout", post, "fp32", p=(0.0, 0.5), rows=(9,))
    add("post-all_dropped", post, "fp32", p=(1.0, 1.0), rows=(9,))
    add("post-unequal_groups", post, "bf16", groups=(2, 1, 4), hidden=24, rows=(9,))
    add("post-groups_not_by_four", post, "fp32", groups=(2, 1, 2), channels=38, hidden=6, rows=(9,))
    add("post-no_biases", post, "fp32", biases=False, rows=(9,))
    add("post-no_tokens", post, "fp32", rows=(0, 3))
    add("post-many_tokens", post, "fp32", rows=(140,), channels=4, hidden=4, groups=(1, 1, 1))
    some = [[i == j for j in range(12)] for i in (0, 1, 3, 6, 7, 8, 9, 11)]
    add("post-needs", post, "fp32", rows=(5,), channels=16, hidden=16, groups=(1, 1, 1), needs=[[False] * 12, *some])


# --- attention_block


def hidden_rows(kind, least):
    """Masks that hide whole rows: one sequence with a finite number, which makes its attention uniform."""

    def make(case, batch, heads, length):
        mask = torch.zeros(batch, 1, 1, length)
        mask[0, ..., length // 2 :] = least
        mask[-1] = least
        mask = guarded(mask.to(case.dtype))
        return mask.expand(batch, 1, length, length).contiguous() if kind == "full" else mask

    return make


def attention(
    case, batch=2, length=19, heads=2, d=12, channels=20, groups=(2, 2, 2), mask="padding", p=0.1,
    biases=(True, True, True), needs=(), seed=-7,
):  # fmt: skip
    x = case.draw(batch, length, channels)
    params = projections(case, channels, heads * d, groups, biases)
    m = mask(case, batch, heads, length) if callable(mask) else mask_of(case, mask, batch, heads, length)
    seed = None if seed is None else torch.tensor([seed])
    tail = (heads, *groups, p, "float32")
    context, q, k, v, lse = call("attention_block_train", x, *params, m, seed, *tail)
    leaves = doubles([x, *params])
    e_q, e_k, e_v = (
        reference.grouped_pointwise_conv(leaves[0], leaves[1 + 2 * i], leaves[2 + 2 * i], groups=groups[i])
        for i in range(3)
    )
    hq, hk, hv = (reference.split_heads(t, heads) for t in (e_q, e_k, e_v))
    scores = hq @ hk.transpose(-1, -2) / d**0.5 + (0 if m is None else m.double())
    if callable(mask):  # what hides whole rows is so large that float32 rounds the scores away: an equal share for all
        scores = scores + (scores.float().double() - scores).detach()
    f = factors(seed, 0, batch * heads * length, length, p)
    f = f if isinstance(f, float) else f.view(batch, heads, length, length)
    e_context = (torch.softmax(scores, -1) * f @ hv).transpose(1, 2).flatten(-2)
    for t, e in ((q, e_q), (k, e_k), (v, e_v)):
        case.compare(t, e.detach(), 1, channels)
    if p == 1.0 and seed is not None:
        assert not context.any()
    else:
        case.compare(context, e_context.detach(), 5, 2 * channels + length + d)
    assert lse.dtype == FP32
    assert lse.shape == (batch, heads, length)
    e_lse = torch.logsumexp(scores, -1)
    torch.testing.assert_close(lse.double(), e_lse, rtol=4 * UNIT[case.dtype], atol=16 * UNIT[case.dtype])

    grad = case.draw(batch, length, heads * d)
    back = (grad, x, params[0], params[2], params[4], m, seed, context, q, k, v, lse, *tail)
    found = call("attention_block_backward", *back, [True] * 7)
    expected = grads_of(e_context, grad, leaves)
    # Gradients of biases are sums over tokens that cancel out, those of the keys to 0; their errors do not.
    norms = [float(g.norm()) for g in grads_of(e_context, grad, [e_q, e_k, e_v])]
    scales = {2 * i + 2: 2 * norm for i, norm in enumerate(norms)}
    if length == 1:  # the one probability is 1 whatever queries and keys are
        scales |= dict.fromkeys(range(1, 5), float(expected[5].norm()))
    compare_grads(case, found, expected, ATTENTION_GRADS, channels + d + batch * length, scales)
    check_needs("attention_block_backward", back, found, needs)


def add_attention(add):
    for dtype, groups in itertools.product(FLOATING, (1, 2, 4)):
        options = dict(heads=4 if groups == 4 else 2, batch=1 if groups == 4 else 2)
        add(f"attention-{groups}", attention, dtype, groups=(groups,) * 3, **options)
    for mask in (
        None,
        "full",
        "transposed",
        "queries_by_keys",
        "of_heads",
        "column",
        "expanded",
        "padding_inf",
        "causal",
    ):
        add(f"attention-{mask}", attention, "fp32", mask=mask, length=17)
    for p in (0.0, 0.5, 1.0):
        add(f"attention-dropout{p}", attention, "fp32", p=p, length=17)
    add("attention-no_seed", attention, "fp32", seed=None, batch=1)
    for kind, least in itertools.product(("rows", "full"), (torch.finfo(FP32).min, -1e9)):
        add(f"attention-hidden_{kind}{least:.0e}", attention, "fp32", mask=hidden_rows(kind, least), length=17)
    add("attention-hidden", attention, "bf16", mask=hidden_rows("rows", torch.finfo(torch.bfloat16).min), length=17)
    add("attention-unequal_groups", attention, "fp16", groups=(4, 2, 1), heads=4, batch=1)
    add("attention-wide_heads", attention, "fp32", d=40, heads=1, channels=12, groups=(1, 1, 1), batch=1)
    add("attention-even", attention, "fp32", d=16, length=32, channels=32, batch=1)
    add("attention-one_token", attention, "fp32", length=1, mask=None)
    add("attention-some_biases", attention, "fp32", biases=(True, False, False), batch=1)
    add("attention-no_sequences", attention, "fp32", batch=0, mask=None)
    add("attention-no_tokens", attention, "fp32", length=0, mask=None)
    some = [[i == j for j in range(7)] for i in range(0, 7, 3)]
    add("shipped_blocks", shipped, "fp16")
    add("shipped_blocks", shipped, "fp32")
    add("attention-needs", attention, "fp32", batch=1, length=9, needs=[[False] * 7, *some])


def shipped(case):
    """With the blocks that GPUs get."""
    from squeezebert_kernels.triton_kernels import training

    blocks = training.BLOCKS["float32" if case.dtype == FP32 else "half"]
    with mock.patch.dict(globals(), BLOCKS=blocks):
        post(case, rows=(70,), channels=128, hidden=136, groups=(1, 2, 2))
        attention(case, length=70, d=64, channels=128, batch=1)


# --- dropout


def philox(seed, c):
    """Philox 4x32-10 (Salmon et al., 2011) of counters ``c``."""
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = ((b >> 32) ^ c[1] ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k1, a & 0xFFFFFFFF)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def dropout(case, p):
    """The numbers that Philox gives, for every site, and rows beyond 2^32; as many are dropped as should be."""
    from squeezebert_kernels import triton_kernels

    rows, columns, seed = 37, 131, -(2**62) + 12345
    found = [triton_kernels.dropout_factors(torch.tensor([seed]), site, rows, columns, p) for site in range(3)]
    for site, f in enumerate(found):
        assert f.dtype == FP32
        for row, column in itertools.product((0, 15, 16, 36), (0, 1, 2, 3, 4, 63, 64, 66, 130)):
            drawn = philox(seed, (column // 4, row, 0, site))[column % 4]
            drawn -= (drawn >> 31) << 32  # as signed numbers
            kept = 0.0 if p == 1 or drawn < round(p * 2**32) - 2**31 else 1 / (1 - p)
            assert float(f[row, column]) == torch.tensor(kept).item(), (site, row, column)
        share, n = float((f == 0).double().mean()), f.numel()
        assert abs(share - p) <= 4 * (p * (1 - p) / n) ** 0.5, share
    if 0 < p < 1:
        different = 2 * p * (1 - p)
        other = triton_kernels.dropout_factors(torch.tensor([seed + 1]), 0, rows, columns, p)
        pairs = [(found[0], found[1]), (found[1], found[2]), (found[0], other), (found[0][1:], found[0][:-1])]
        for a, b in pairs:
            share = float((a != b).double().mean())
            assert abs(share - different) <= 5 * (different / a.numel()) ** 0.5, share
    case.error, case.bar = 0.0, 1.0


def dropout_places(case):
    """Factors depend on the place alone: tiles that begin anywhere, and rows beyond 2^32."""
    from support.triton_dropout_probe import kept_half

    seed = 77
    for first_row, first in ((0, 0), (0, 4), (2**32 - 3, 19), (2**40, 2)):
        found = kept_half(seed, first_row, first)
        for i, j in itertools.product(range(found.shape[0]), range(found.shape[1])):
            row, column = first_row + i, first + j
            drawn = philox(seed, (column // 4, row & 0xFFFFFFFF, row >> 32, 2))[column % 4]
            assert bool(found[i, j]) == (drawn - ((drawn >> 31) << 32) >= 0), (row, column)
    case.error, case.bar = 0.0, 1.0


def add_dropout(add):
    for p in (0.0, 0.1, 0.5, 1.0):
        add(f"dropout-{p}", dropout, "fp32", p=p)
    add("dropout-places", dropout_places, "fp32")


def cases():
    """Name -> what runs it."""
    found = {}

    def add(name, function, dtype, **options):
        name = f"{name}-{dtype}"
        assert name not in found, name
        found[name] = lambda: run(name, function, FLOATING[dtype], options)

    for group in (add_conv, add_post, add_attention, add_dropout):
        group(add)
    return found


def main(names):
    from support.triton_interpreter import remember_builtins

    remember_builtins()
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # numpy: exp of -inf, overflows of Philox and the like
    torch.use_deterministic_algorithms(True)  # fills what is left uninitialised with NaNs
    found = cases()
    for name in names or found:
        print(json.dumps(found[name]()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
