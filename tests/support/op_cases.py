"""Arguments for every op, with random values, and the comparison with the float64 reference."""

import torch

from squeezebert_kernels import ops
from squeezebert_kernels.benchmark.checking import exact

EPS = torch.finfo(torch.float32).eps
ACTIVATIONS = [None, "gelu", "gelu_tanh", "relu"]


def randn(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(hash((shape, seed)) % 2**31)
    return torch.randn(*shape, generator=generator) * scale


def weight(c_out, c_in, groups, seed=0):
    """Weights of a size that keeps activations near 1."""
    return randn(c_out, c_in // groups, 1, scale=(groups / c_in) ** 0.5, seed=seed)


def conv_case(rows=(3, 5), c_in=24, c_out=40, groups=4, activation="gelu", bias=True):
    x = randn(*rows, c_in)
    return (x, weight(c_out, c_in, groups), randn(c_out) if bias else None), {
        "groups": groups,
        "activation": activation,
    }


def conv_norm_case(rows=(3, 5), c_in=24, c_out=40, groups=4):
    args = (
        randn(*rows, c_in), weight(c_out, c_in, groups), randn(c_out), randn(*rows, c_out, seed=1),
        randn(c_out, seed=2), randn(c_out, seed=3),
    )  # fmt: skip
    return args, {"groups": groups, "eps": 1e-12}


def mask_of(kind, batch, heads, length):
    if kind is None:
        return None
    shape = {"b11s": (batch, 1, 1, length), "b1ss": (batch, 1, length, length), "bhss": (batch, heads, length, length),
             "ss": (length, length)}[kind]  # fmt: skip
    hidden = randn(*shape, seed=9) > 0.7
    return torch.zeros(shape).masked_fill(hidden, torch.finfo(torch.float32).min)


def attention_case(batch=2, length=9, channels=24, heads=4, groups=(2, 2, 2), mask="b11s"):
    convs = []
    for i, g in enumerate(groups):
        convs += [weight(channels, channels, g, seed=i), randn(channels, seed=i)]
    args = (randn(batch, length, channels), *convs, mask_of(mask, batch, heads, length))
    return args, {"num_heads": heads, "q_groups": groups[0], "k_groups": groups[1], "v_groups": groups[2]}


def post_case(rows=(2, 9), channels=24, hidden=40, groups=(1, 4, 4), activation="gelu"):
    g_post, g_up, g_down = groups
    args = (
        randn(*rows, channels), randn(*rows, channels, seed=1),
        weight(channels, channels, g_post), randn(channels), randn(channels, seed=2), randn(channels, seed=3),
        weight(hidden, channels, g_up, seed=4), randn(hidden), weight(channels, hidden, g_down, seed=5),
        randn(channels, seed=6), randn(channels, seed=7), randn(channels, seed=8),
    )  # fmt: skip
    options = {"post_groups": g_post, "intermediate_groups": g_up, "output_groups": g_down, "activation": activation}
    return args, options


def assert_close(actual, expected, k, scale=None):
    """Within the rounding of ``k`` float32 additions of values of size ``scale`` (default: the result's own)."""
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    scale = float(expected.abs().max()) if scale is None else scale
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0, atol=EPS * k**0.5 * 4 * max(scale, 1e-6), equal_nan=True
    )


def check(name, args, options, k):
    actual = getattr(ops, name)(*args, **options)
    expected = exact(name, *args, **options)
    assert_close(actual, expected, k)
    assert actual.is_contiguous()


CASES = {
    "grouped_pointwise_conv": conv_case, "grouped_pointwise_conv_layer_norm": conv_norm_case,
    "attention_block": attention_case, "post_attention_block": post_case,
}  # fmt: skip


def groups_of(name, options):
    return {
        "attention_block": [options.get(f"{p}_groups") for p in "qkv"],
        "post_attention_block": [options.get(f"{p}_groups") for p in ("post", "intermediate", "output")],
    }.get(name, [options.get("groups")])


def weights_of(name, args):
    indices = {"attention_block": (1, 3, 5), "post_attention_block": (2, 6, 8)}.get(name, (1,))
    return [args[i] for i in indices]
