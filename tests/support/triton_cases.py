"""What test_triton_kernels.py runs in Triton's interpreter: ``TRITON_INTERPRET=1 python triton_cases.py [NAME ...]``.

Prints a JSON object for each case when it starts and one when it is done. Shapes are tiny, and so are the blocks
(:data:`SMALL`), so that there are several programs and remainders all the same: the interpreter takes milliseconds for
every operation of every program. Importing this module does not import Triton.

Every input lies amid NaNs, and outputs are born as NaNs: what a kernel reads beyond an end, or does not write, shows.
"""

import itertools
import json
import random
import sys
import time
import traceback
import warnings

import torch
from support.triton_case_tools import (
    ACTIVATIONS,
    ATTENTION,
    CONV,
    CONV_NORM,
    FP16,
    INF,
    LAYER,
    ONE,
    POST,
    SMALL,
    TILE,
    UNIT,
    Case,
    call,
    guarded,
    worst,
)

from squeezebert_kernels.benchmark.checking import exact
from squeezebert_kernels.ops.dtypes import FLOATING


def conv(case, rows=(2, 9), k=21, n=19, groups=1, activation=None, bias=True, x=None, config=None, twice=False):
    """21 and 19 channels a group: two blocks with a remainder, in both directions; 18 tokens likewise."""
    x = case.draw(*rows, k * groups) if x is None else x(case)
    args = (x, case.weight(n * groups, k * groups, groups), case.draw(n * groups) if bias else None)
    options = {"groups": groups, "activation": activation}
    out = call("grouped_pointwise_conv", *args, config=config, twice=twice, **options)
    # Two roundings with GELU, since for halves it is a polynomial that is off by up to half a unit.
    case.compare(out, exact("grouped_pointwise_conv", *args, **options), CONV + (activation == "gelu"), k)


def conv_nan(case, activation):
    x = case.draw(3, 9, 20)
    x[0, 3, 1] = x[2, 8, 19] = float("nan")
    args = (x, case.weight(20, 20, 2), case.draw(20))
    out = call("grouped_pointwise_conv", *args, groups=2, activation=activation)
    expected = exact("grouped_pointwise_conv", *args, groups=2, activation=activation)
    assert torch.equal(out.isnan(), expected.isnan()), f"NaN at {out.isnan().nonzero().tolist()}"
    case.compare(out.nan_to_num(), expected.nan_to_num(), CONV + (activation == "gelu"), 10)


def conv_large(case, activation):
    """Of large values an activation is 0 or the value itself, without inf * 0 on the way."""
    largest = 6e4 if case.dtype == FP16 else 1e30
    x = torch.tensor([[s * largest / d for s in (1, -1) for d in (1, 3, 100, 5000)]]).to(case.dtype)
    args = (guarded(x), guarded(torch.eye(8, dtype=case.dtype)))
    out = call("grouped_pointwise_conv", *args, activation=activation)
    expected = exact("grouped_pointwise_conv", *args, activation=activation)
    torch.testing.assert_close(out.double(), expected, rtol=UNIT[case.dtype], atol=1e-6)


def add_conv(add):
    for dtype, groups, activation in itertools.product(FLOATING, (1, 2, 4), ACTIVATIONS):
        add(f"conv-{groups}-{activation}", conv, dtype, groups=groups, activation=activation, twice=groups == 2)
    views = {
        "sliced": lambda c: c.draw(2, 9, 60)[..., 11:32],
        "strided_rows": lambda c: c.draw(2, 18, 21)[:, ::2],
        "expanded": lambda c: c.draw(1, 9, 21).expand(2, 9, 21),
        "transposed": lambda c: c.draw(21, 18).t(),
        "vector": lambda c: c.draw(21),
    }
    for dtype in FLOATING:
        for view, x in views.items():
            add(f"conv-{view}", conv, dtype, x=x)
        for rows in [(1,), (1, 1), (0,), (3, 0), (2, 16), (2, 3, 4)]:
            add(f"conv-rows{rows}", conv, dtype, rows=rows, k=16, n=16)
        add("conv-no_bias", conv, dtype, bias=False, activation="gelu", groups=2)
        add("conv-shipped_config", conv, dtype, config="shipped", activation="gelu", groups=2)
        add("conv-narrow", conv, dtype, k=1, n=1, groups=3)
        for activation in ACTIVATIONS:
            add(f"conv-nan-{activation}", conv_nan, dtype, activation=activation)
            add(f"conv-large-{activation}", conv_large, dtype, activation=activation)


# --- grouped_pointwise_conv_layer_norm


def conv_norm(case, rows=(2, 9), k=21, n=19, groups=1, eps=1e-12, bias=True, view=False, config=None, twice=False):
    x, residual = case.draw(*rows, k * groups), case.draw(*rows, n * groups)
    if view:  # rows further apart than they are long
        x, residual = case.draw(*rows, k * groups + 5)[..., 2:-3], case.draw(*rows, n * groups + 9)[..., 4:-5]
    c = n * groups
    args = (x, case.weight(c, k * groups, groups), case.draw(c) if bias else None, residual, case.draw(c), case.draw(c))
    kernels = ["conv_kernel", "norm_kernel"] if x.numel() else []
    options = {"groups": groups, "eps": eps}
    kernels = None if twice else kernels
    out = call("grouped_pointwise_conv_layer_norm", *args, kernels=kernels, config=config, twice=twice, **options)
    expected = exact("grouped_pointwise_conv_layer_norm", *args, **options)
    case.compare(out, expected, CONV_NORM, k + c)


def conv_norm_constant(case, eps):
    """Rows of variance 0 become the bias, bit for bit where their sum is exact."""
    x, weight = case.draw(2, 9, 24), guarded(torch.zeros(40, 24, dtype=case.dtype))
    residual = guarded(torch.full((2, 9, 40), -1.5, dtype=case.dtype))
    beta = case.draw(40)
    out = call("grouped_pointwise_conv_layer_norm", x, weight, None, residual, case.draw(40), beta, eps=eps)
    assert torch.equal(out, beta.expand(2, 9, 40)), worst(out, beta.double().expand(2, 9, 40))


def add_conv_norm(add):
    for dtype in FLOATING:
        for groups, eps in itertools.product((1, 2, 4), (1e-12, 0.5)):
            add(f"conv_norm-{groups}-eps{eps}", conv_norm, dtype, groups=groups, eps=eps, twice=groups == 1)
        add("conv_norm-views", conv_norm, dtype, groups=2, view=True)
        add("conv_norm-no_bias", conv_norm, dtype, bias=False)
        for eps in (1e-12, 1e-5):
            add(f"conv_norm-constant-eps{eps}", conv_norm_constant, dtype, eps=eps)
    add("conv_norm-one_token", conv_norm, "fp32", rows=(1,))
    add("conv_norm-no_tokens", conv_norm, "fp32", rows=(0, 3))
    config = {"conv_residual": {**TILE, "BLOCK_M": 256}}
    add("conv_norm-many_tokens", conv_norm, "fp32", rows=(1030,), k=4, n=4, config=config)  # rows of LayerNorm by fours


# --- attention_block


def projections(case, channels, width, groups, biases=(True, True, True)):
    """Weights and biases of q, k and v."""
    return [
        t
        for g, bias in zip(groups, biases)
        for t in (case.weight(width, channels, g), case.draw(width) if bias else None)
    ]


def mask_of(case, kind, batch, heads, length):
    """An additive mask; of "padding" and "full" some keys are hidden from all."""
    least = torch.finfo(case.dtype).min
    if kind is None:
        return None
    if kind in ("padding", "padding_inf", "expanded"):
        mask = torch.zeros(batch, 1, 1, length)
        mask[-1, ..., (length + 1) // 2 :] = -INF if kind == "padding_inf" else least
        mask = guarded(mask.to(case.dtype))
        return mask.expand(batch, heads, length, length) if kind == "expanded" else mask
    if kind in ("full", "transposed", "causal"):
        mask = case.draw(batch, heads, length, length)
        if kind == "causal":
            mask.masked_fill_(torch.ones(length, length, dtype=torch.bool).triu(1), -INF)
        else:
            mask[..., length // 2] = least
            mask[..., length // 2, :1] = 0.0  # no row is hidden whole
        return mask.transpose(-1, -2) if kind == "transposed" else mask
    shapes = {"queries_by_keys": (length, length), "of_heads": (1, heads, 1, length), "column": (batch, 1, length, 1)}
    return case.draw(*shapes[kind]).expand(*(batch, heads, length, length) if kind == "column" else shapes[kind])


def attention(
    case, batch=2, length=9, heads=4, d=12, channels=20, groups=(2, 2, 2), mask="padding", biases=(True, True, True),
    kernels=("attention_kernel",), paths=(), config=None, twice=False, x=None,
):  # fmt: skip
    args = (
        case.draw(batch, length, channels) if x is None else x(case),
        *projections(case, channels, heads * d, groups, biases),
        mask_of(case, mask, batch, heads, length),
    )
    options = dict(num_heads=heads, q_groups=groups[0], k_groups=groups[1], v_groups=groups[2])
    if "two" in paths:
        kernels = QKV_FLASH
    kernels = None if twice or config == "shipped" else list(kernels)
    out = call("attention_block", *args, kernels=kernels, paths=paths, config=config, twice=twice, **options)
    case.compare(out, exact("attention_block", *args, **options), ATTENTION, channels + d + length)


QKV_FLASH = ("qkv_kernel", "flash_kernel")
THREE_FLASH = ("conv_kernel",) * 3 + ("flash_kernel",)


def attention_hidden_query(case, value, shape, paths):
    """A query that all keys are hidden from: the mean of the values with the least number, 0 with -inf."""
    batch, length, heads, d = 2, 19, 2, 12
    args = (case.draw(batch, length, 20), *projections(case, 20, heads * d, (2, 2, 2)))
    mask = torch.zeros(batch, 1, 1, length) if shape == "padding" else torch.zeros(batch, heads, length, length)
    mask[1, -1, 0 if shape == "padding" else 3] = torch.finfo(case.dtype).min if value == "least" else -INF
    mask = guarded(mask.to(case.dtype))
    options = dict(num_heads=heads, q_groups=2, k_groups=2, v_groups=2)
    out = call("attention_block", *args, mask, paths=paths, **options)
    expected = exact("attention_block", *args, mask, **options)
    assert expected.isnan().any() == (value == "inf")
    # A float32 score near -65504, the least float16, is rounded to 2^-8: as much may a probability be off.
    bar = 2.0**-8 if case.dtype == FP16 and value == "least" else None
    case.compare(out, expected.nan_to_num(nan=0.0), ATTENTION, 20 + d + length, bar)
    if value == "inf":
        assert torch.equal(out[expected.isnan()], torch.zeros_like(out[expected.isnan()]))


def attention_packed(case, lengths=(5, 0, 19, 1), mask=None, paths=(), heads=4, d=12, channels=20):
    """Sequences one behind the other are what each is on its own."""
    bounds = list(itertools.accumulate(lengths, initial=0))
    x = case.draw(bounds[-1], channels)
    weights = projections(case, channels, heads * d, (2, 2, 2))
    options = dict(num_heads=heads, q_groups=2, k_groups=2, v_groups=2)
    m = mask_of(case, mask, len(lengths), heads, max(lengths))
    offsets = torch.tensor(bounds)
    out = call("attention_block", x, *weights, m, paths=paths, offsets=offsets, **options)
    expected = []
    for b, (first, last) in enumerate(itertools.pairwise(bounds)):
        one = None if m is None else m[b : b + 1, ..., : last - first]
        one = one if m is None or m.shape[2] == 1 else one[:, :, : last - first]
        expected.append(exact("attention_block", x[None, first:last], *weights, one, **options)[0])
    case.compare(out, torch.cat(expected), ATTENTION, channels + d + max(lengths))


def attention_bad_offsets(case, bounds, paths):
    """Offsets that leave [0, T], or do not ascend, are clipped; what is in rows of no sequence does not matter."""
    tokens, heads, d = 7, 2, 12
    x, weights = case.draw(tokens, 20), projections(case, 20, heads * d, (2, 2, 2))
    options = dict(num_heads=heads, q_groups=2, k_groups=2, v_groups=2)
    out = call("attention_block", x, *weights, None, paths=paths, offsets=torch.tensor(bounds), **options)
    expected = torch.zeros(tokens, heads * d, dtype=torch.float64)
    written = torch.zeros(tokens, dtype=torch.bool)
    for first, last in itertools.pairwise(bounds):
        first = min(max(first, 0), tokens)
        rows = slice(first, min(max(last, first), tokens))
        expected[rows] = exact("attention_block", x[None, rows], *weights, None, **options)[0]
        written[rows] = True
    case.compare(out[written], expected[written], ATTENTION, 20 + d + tokens)


def add_attention(add):
    masks = [None, "padding", "padding_inf", "full", "causal", "expanded", "transposed", "queries_by_keys", "of_heads",
             "column"]  # fmt: skip
    for dtype, mask in itertools.product(FLOATING, masks):
        if dtype == "fp32" or mask in (None, "padding", "padding_inf", "full"):
            options = dict(mask=mask, length=19, heads=2, twice=mask == "padding")
            add(f"attention-one-{mask}", attention, dtype, **options)
            add(f"attention-two-{mask}", attention, dtype, **options, paths=("two",))
    for dtype, value, shape in itertools.product(FLOATING, ("least", "inf"), ("padding", "full")):
        for path in ("one", "two"):
            name = f"attention-{path}-hidden_query-{value}-{shape}"
            add(name, attention_hidden_query, dtype, value=value, shape=shape, paths=(path,))
    for dtype in FLOATING:
        for path in ("one", "two"):
            add(f"attention-{path}-one_token", attention, dtype, length=1, paths=(path,))
            add(f"attention-{path}-even", attention, dtype, length=16, d=16, channels=32, heads=2, paths=(path,))
            add(f"attention-{path}-packed", attention_packed, dtype, paths=(path,), heads=2)
            for mask in ("padding", "full"):
                name = f"attention-{path}-packed-{mask}"
                add(name, attention_packed, dtype, lengths=(5, 0, 17), heads=2, mask=mask, paths=(path,))
        add("attention-unequal_groups", attention, dtype, groups=(2, 4, 1), kernels=THREE_FLASH)
        add("attention-shipped_config", attention, dtype, mask="padding", config="shipped")
    # The longest sequences of one kernel, 32 tokens of float32 and 128 of halves, and one more.
    add("attention-longest", attention, "fp32", length=32, heads=1, batch=1, groups=(1, 1, 1))
    add("attention-longer", attention, "fp32", length=33, heads=1, batch=1, groups=(1, 1, 1), kernels=QKV_FLASH)
    wide = {"attention": {"BLOCK_Q": 64, "BLOCK_K": 16, **ONE},
            "flash": {"BLOCK_M": 64, "BLOCK_N": 32, **ONE}}  # fmt: skip
    for dtype, mask in itertools.product(("fp16", "bf16"), ("padding", "full")):
        one = dict(heads=1, batch=1, groups=(1, 1, 1), mask=mask, config=wide)
        add(f"attention-longest-{mask}", attention, dtype, length=128, **one)
        add(f"attention-longer-{mask}", attention, dtype, length=129, kernels=QKV_FLASH, **one)
    for block_q, block_k in [(32, 16), (16, 32)]:
        config = {"attention": {"BLOCK_Q": block_q, "BLOCK_K": block_k, **ONE}}
        add(f"attention-blocks{block_q, block_k}", attention, "fp32", length=19, mask="full", config=config)
    add("attention-many_heads", attention, "fp32", heads=8, mask="full", d=6)  # four heads for each group
    for d, heads, channels in [(1, 2, 8), (5, 3, 9), (24, 2, 10), (100, 1, 7)]:
        groups = (heads,) * 3 if channels % heads == 0 else (1, 1, 1)
        options = dict(d=d, heads=heads, channels=channels, groups=groups)
        add(f"attention-one-d{d}", attention, "fp32", **options)
        add(f"attention-two-d{d}", attention, "fp32", **options, paths=("two",))
    options = dict(length=17, channels=7, heads=1, groups=(1, 1, 1))
    add("attention-one-d100", attention, "fp16", d=100, **options)
    add("attention-longer-d100", attention, "fp32", d=100, **options, kernels=QKV_FLASH)  # too much for one kernel
    add("attention-longer-d130", attention, "fp16", d=130, **options, kernels=QKV_FLASH)
    # Two groups have parts of a head each: projections on their own.
    add("attention-split_heads", attention, "fp32", heads=2, d=10, groups=(4, 4, 4), kernels=QKV_FLASH)
    for biases in itertools.product((True, False), repeat=3):
        name = "".join(n if b else "_" for n, b in zip("qkv", biases))
        add(f"attention-bias-{name}", attention, "fp32", biases=biases, heads=2)
    add("attention-two-no_bias", attention, "fp32", biases=(False,) * 3, heads=2, paths=("two",))
    add("attention-some_bias", attention, "fp32", biases=(True, False, True), groups=(2, 1, 1), kernels=THREE_FLASH)
    for path in ("one", "two"):
        x = lambda c: c.draw(1, 9, 50).expand(2, 9, 50)[..., 7:27]  # noqa: E731
        add(f"attention-{path}-expanded_x", attention, "fp32", x=x, heads=2, paths=(path,))
        for batch, length in [(0, 5), (2, 0)]:
            options = dict(batch=batch, length=length, config="shipped", mask=None, paths=(path,))
            add(f"attention-{path}-empty{batch, length}", attention, "fp32", **options)
        for bounds in ([-5, 3, 30, 2, 7], [7, 0], [3, 3, 1], [0, 9, 12], [-9, -2, 5], [0]):
            add(f"attention-{path}-offsets{bounds}", attention_bad_offsets, "fp32", bounds=bounds, paths=(path,))


# --- post_attention_block and encoder_layer


def behind_attention(case, channels, hidden, groups, biases=True):
    """Weights of the post convolution, of the feed-forward network and of the two LayerNorms."""

    def bias(n):
        return case.draw(n) if biases else None

    return (
        case.weight(channels, channels, groups[0]), bias(channels), case.draw(channels), case.draw(channels),
        case.weight(hidden, channels, groups[1]), bias(hidden),
        case.weight(channels, hidden, groups[2]), bias(channels), case.draw(channels), case.draw(channels),
    )  # fmt: skip


def post(
    case, rows=(2, 9), channels=24, hidden=88, groups=(1, 1, 1), activation="gelu", biases=True, fused=True, one=True,
    config=None, twice=False, eps=(1e-12, 1e-12),
):  # fmt: skip
    """``one``: whether the feed-forward network is to be one kernel; ``fused``: whether it may."""
    args = (case.draw(*rows, channels), case.draw(*rows, channels))
    args += behind_attention(case, channels, hidden, groups, biases)
    options = dict(zip(("post_groups", "intermediate_groups", "output_groups"), groups))
    options |= {"activation": activation, "post_eps": eps[0], "output_eps": eps[1]}
    if config != "shipped":
        config = {"ffn": {**SMALL["ffn"], "FUSED": int(fused), **(config or {})}}
    kernels = ["conv_kernel", "norm_kernel", *(["ffn_kernel"] if one and fused else ["conv_kernel"] * 2), "norm_kernel"]
    kernels = None if twice or config == "shipped" or 0 in rows else kernels
    out = call("post_attention_block", *args, kernels=kernels, config=config, twice=twice, **options)
    case.compare(out, exact("post_attention_block", *args, **options), POST, 3 * channels + hidden)


def encoder_layer(case, lengths, mask, groups, post_groups):
    """The layer is its two halves, bit for bit, and what the reference says."""
    channels, heads = 24, 4
    bounds = list(itertools.accumulate(lengths, initial=0)) if isinstance(lengths, tuple) else None
    x = case.draw(2, lengths, channels) if bounds is None else case.draw(bounds[-1], channels)
    length = lengths if bounds is None else max(lengths)
    batch = 2 if bounds is None else len(lengths)
    weights, m = projections(case, channels, channels, groups), mask_of(case, mask, batch, heads, length)
    others = behind_attention(case, channels, 40, post_groups)
    options = dict(num_heads=heads, q_groups=groups[0], k_groups=groups[1], v_groups=groups[2])
    options["offsets"] = None if bounds is None else torch.tensor(bounds)
    post_options = dict(zip(("post_groups", "intermediate_groups", "output_groups"), post_groups))
    post_options |= {"activation": "gelu_tanh", "post_eps": 1e-3, "output_eps": 0.1}
    out = call(
        "encoder_layer", x, *weights, m, *others, attention_packed=None, post_packed=None, twice=bounds is None,
        **options, **post_options,
    )  # fmt: skip
    context = call("attention_block", x, *weights, m, **options)
    assert torch.equal(out, call("post_attention_block", context, x, *others, **post_options))
    case.compare(out, exact("encoder_layer", x, *weights, m, *others, **options, **post_options), LAYER, 6 * channels)


def add_post(add):
    # 24 channels a group are a chunk of 16 and one of 16 with a remainder; 22 or 44 hidden ones are no multiple of 16.
    for dtype, groups, fused in itertools.product(FLOATING, (1, 2, 4), (True, False)):
        # The one kernel has a loop of loops for each program, so the most groups get fewer rows.
        options = dict(rows=(9,) if groups == 4 else (2, 9), channels=24 * groups, hidden=22 * groups, fused=fused)
        add(f"post-{groups}-{'one' if fused else 'two'}", post, dtype, groups=(groups,) * 3, **options)
    for dtype in FLOATING:
        add("post-unequal_groups", post, dtype, rows=(9,), groups=(1, 2, 4), one=False)
        add("post-no_biases", post, dtype, rows=(9,), biases=False, groups=(1, 2, 2), twice=dtype == "fp32")
        add("post-shipped_config", post, dtype, config="shipped", groups=(1, 2, 2))
        add("post-even", post, dtype, channels=32, hidden=32, config={"CHUNK": 32})
        add("post-chunks", post, dtype, channels=48, hidden=20, config={"CHUNK": 32})  # 32 + 16, as 192 is 128 + 64
        add("post-one_token", post, dtype, rows=(1,), channels=20)
        for mask, lengths in [("padding", 5), (None, (3, 0, 7))]:
            name = "encoder_layer" if mask else "encoder_layer-packed"
            add(name, encoder_layer, dtype, lengths=lengths, mask=mask, groups=(2, 2, 2), post_groups=(1, 2, 2))
    for activation in ACTIVATIONS:
        add(f"post-{activation}", post, "fp32", activation=activation, eps=(0.5, 1e-12))
    add("post-two-no_biases", post, "fp32", biases=False, fused=False, eps=(1e-12, 0.5))
    add("post-no_tokens", post, "fp32", rows=(2, 0))
    add("post-large_group", post, "fp32", rows=(3,), channels=257, hidden=16, one=False)
    options = dict(lengths=5, mask="full", groups=(4, 2, 1), post_groups=(1, 2, 4))
    add("encoder_layer-unequal_groups", encoder_layer, "fp32", **options)


# --- shapes at random


def add_random(add):
    pick = random.Random(0)
    for i in range(8):
        tile = {name: pick.choice((16, 32)) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K")}
        shape = dict(rows=(pick.randint(1, 40),), k=pick.randint(1, 50), n=pick.randint(1, 40))
        options = dict(groups=pick.randint(1, 3), activation=pick.choice(ACTIVATIONS), bias=pick.random() < 0.7)
        add(f"random-conv{i}", conv, "fp32", **shape, **options, config={"conv": {**tile, **ONE}})
    for i in range(8):
        groups, heads_each = pick.randint(1, 2), pick.randint(1, 2)
        shape = dict(batch=pick.randint(1, 2), length=pick.randint(1, 32), heads=groups * heads_each)
        shape |= dict(d=pick.randint(1, 40), channels=groups * pick.randint(1, 30), groups=(groups,) * 3)
        mask = pick.choice((None, "padding", "full", "expanded"))
        config = {"attention": {"BLOCK_Q": 16, "BLOCK_K": pick.choice((16, 32)), **ONE}}
        add(f"random-attention{i}", attention, "fp32", **shape, mask=mask, config=config, paths=("one", "two")[i % 2 :])


def cases():
    """Name -> what runs it, given its Case."""
    found = {}

    def add(name, function, dtype, **options):
        name = f"{name}-{dtype}".replace(" ", "")
        assert name not in found, name
        found[name] = lambda: run(name, function, FLOATING[dtype], options)

    for group in (add_conv, add_conv_norm, add_attention, add_post, add_random):
        group(add)
    return found


def run(name, function, dtype, options):
    case, failure, start = Case(name, dtype), None, time.perf_counter()
    try:
        function(case, **options)
    except AssertionError as error:
        failure = str(error) or traceback.format_exc()
    except Exception:
        failure = traceback.format_exc()
    seconds = time.perf_counter() - start
    return {"name": name, "failure": failure, "error": case.error, "bar": case.bar, "seconds": seconds}


def main(names):
    from support.triton_interpreter import remember_builtins

    remember_builtins()
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # numpy: exp of -inf, division by 0 and the like
    torch.use_deterministic_algorithms(True)  # fills what is left uninitialised with NaNs
    found = cases()
    for name in names or found:
        print(json.dumps({"started": name}), flush=True)
        print(json.dumps(found[name]()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
