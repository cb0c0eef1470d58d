"""The ops as PyTorch calls them, weights packed: every op x dtype x real shape, with --threads threads."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from squeezebert_kernels import _native, ops
from squeezebert_kernels.benchmark import native
from squeezebert_kernels.benchmark.checking import UNIT, exact, relative_error
from squeezebert_kernels.benchmark.timing import seconds_of
from squeezebert_kernels.ops.dtypes import DTYPES


@dataclass(frozen=True)
class Layer:
    hidden: int
    wide: int
    heads: int
    groups: int  # of all convolutions but post-attention


LAYERS = {"squeezebert": Layer(768, 3072, 12, 4), "minilm": Layer(384, 1536, 12, 1)}
SHAPES = ((1, 32), (1, 128), (1, 384), (8, 128))


def random(*shape, scale=1.0):
    return torch.randn(*shape) * scale


def conv(c_out, c_in, groups):
    return random(c_out, c_in // groups, scale=(c_in // groups) ** -0.5), random(c_out, scale=0.1)


def attention(layer, batch, length):
    """(op's name, tensors, options, weights to pack, their groups, packing options, FLOPs)"""
    x = random(batch, length, layer.hidden)
    qkv = [t for _ in range(3) for t in conv(layer.hidden, layer.hidden, layer.groups)]
    options = {"num_heads": layer.heads, **{f"{n}_groups": layer.groups for n in "qkv"}}
    flops = 6 * batch * length * layer.hidden**2 // layer.groups + 4 * batch * length**2 * layer.hidden
    return "attention_block", (x, *qkv), options, qkv[::2], [layer.groups] * 3, {"num_heads": layer.heads}, flops


def post_attention(layer, batch, length):
    context, x = random(batch, length, layer.hidden), random(batch, length, layer.hidden)
    norm = (1 + random(layer.hidden, scale=0.1), random(layer.hidden, scale=0.1))
    post = conv(layer.hidden, layer.hidden, 1)
    up, down = conv(layer.wide, layer.hidden, layer.groups), conv(layer.hidden, layer.wide, layer.groups)
    groups = {"post_groups": 1, "intermediate_groups": layer.groups, "output_groups": layer.groups}
    flops = 2 * batch * length * (layer.hidden**2 + 2 * layer.hidden * layer.wide // layer.groups)
    tensors = (context, x, *post, *norm, *up, *down, *norm)
    weights = [post[0], up[0], down[0]]
    return "post_attention_block", tensors, groups, weights, [1, layer.groups, layer.groups], {}, flops


def up_conv(layer, batch, length):
    x, (weight, bias) = random(batch, length, layer.hidden), conv(layer.wide, layer.hidden, layer.groups)
    flops = 2 * batch * length * layer.hidden * layer.wide // layer.groups
    options = {"groups": layer.groups, "activation": "gelu"}
    return "grouped_pointwise_conv", (x, weight, bias), options, [weight], [layer.groups], {}, flops


def down_conv_layer_norm(layer, batch, length):
    hidden, x = random(batch, length, layer.wide), random(batch, length, layer.hidden)
    weight, bias = conv(layer.hidden, layer.wide, layer.groups)
    tensors = (hidden, weight, bias, x, torch.ones(layer.hidden), torch.zeros(layer.hidden))
    flops = 2 * batch * length * layer.hidden * layer.wide // layer.groups
    options = {"groups": layer.groups}
    return "grouped_pointwise_conv_layer_norm", tensors, options, [weight], [layer.groups], {}, flops


@pytest.mark.parametrize("dtype", native.PEAKS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("make", [attention, post_attention, up_conv, down_conv_layer_norm], ids=lambda f: f.__name__)
def test_op(make, layer, shape, dtype, threads, benchmark, report, request):
    torch.manual_seed(0)
    name, tensors, options, weights, groups, packing, flops = make(LAYERS[layer], *shape)
    packed = ops.pack(weights, groups, dtype=DTYPES[dtype], **packing)
    op = getattr(ops, name)

    with torch.inference_mode():
        call = partial(op, *tensors, **options, packed=packed)
        wanted = exact(name, *tensors, **options)
        error = relative_error(call(), wanted)
        # Up to six products follow one another; float32 sums add a unit per square root of their length.
        length = max(w.shape[1] for w in weights) if dtype == "fp32" else 1
        assert error <= 4 * UNIT[dtype] * (6 * length) ** 0.5, "the result is wrong: not timed"

        seconds, shares, peaks = [], [], []
        calls = max(1, round(request.config.getoption("--milliseconds") / 1e3 / seconds_of(call)))

        def measure_peak():
            peaks.append(native.peak(_native.isa(), dtype, threads=threads))

        def run():
            seconds.append(seconds_of(call, calls))
            shares.append(flops / seconds[-1] / peaks[-1])

        benchmark.group = f"{name} {layer}"
        benchmark.pedantic(run, setup=measure_peak, rounds=request.config.getoption("--rounds"), iterations=1)
    traffic = sum(4 * t.numel() for t in tensors if t.dim() == 3) + packed.numel() + 4 * wanted.numel()
    report(
        statistics.median(seconds), statistics.median(shares), flops=flops, traffic=traffic,
        peak=statistics.median(peaks), threads=threads,
    )  # fmt: skip
