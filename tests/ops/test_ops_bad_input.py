"""Bad arguments of the ops: the right error, naming the argument and its values."""

from pathlib import Path

import pytest
import torch
from support.op_cases import CASES, randn

from squeezebert_kernels import ops
from squeezebert_kernels.ops.dispatch import in_own_words, is_refusal


def broken(name, index=None, value=None, **changes):
    args, options = CASES[name]()
    args = list(args)
    if index is not None:
        args[index] = value(args[index]) if callable(value) else value
    return args, {**options, **changes}


CONV, CONV_NORM = "grouped_pointwise_conv", "grouped_pointwise_conv_layer_norm"
BAD = [
    (CONV, broken(CONV, 0, randn(3, 23)), ValueError, "x has 23 channels"),
    (CONV, broken(CONV, 0, randn(())), ValueError, "x must have"),
    (CONV, broken(CONV, 1, randn(40)), ValueError, r"weight must be .*\[40\]"),
    (CONV, broken(CONV, 1, randn(40, 6, 3)), ValueError, r"weight must be .*3\]"),
    (CONV, broken(CONV, 2, randn(39)), ValueError, r"bias must have .*\[39\]"),
    (CONV, broken(CONV, groups=3), ValueError, "groups=3 .*C_out=40"),
    (CONV, broken(CONV, groups=0), ValueError, "groups=0"),
    (CONV, broken(CONV, groups=-4), ValueError, "groups=-4"),
    (CONV, broken(CONV, groups=2.0), TypeError, "groups must be an int"),
    (CONV, broken(CONV, activation="swish"), ValueError, "swish"),
    (CONV, broken(CONV, 0, [1.0]), TypeError, "x must be a torch.Tensor, got list"),
    (CONV, broken(CONV, 0, torch.zeros(3, 24, dtype=torch.long)), TypeError, "x .*int64"),
    (CONV, broken(CONV, 1, torch.Tensor.double), ValueError, "weight has dtype .*float64"),
    (CONV, broken(CONV, 1, lambda w: w.to("meta")), ValueError, "weight is on meta"),
    (CONV, broken(CONV, 1, None), TypeError, "weight must be a torch.Tensor, got NoneType"),
    (CONV, broken(CONV, 1, torch.Tensor.to_sparse), TypeError, "weight must be a dense .*sparse"),
    (CONV, broken(CONV, 0, lambda x: torch.nested.nested_tensor([x, x])), TypeError, "x must be a dense .*nested"),
    (CONV, broken(CONV, activation=5), TypeError, "activation must be None or a str, got int"),
    (CONV_NORM, broken(CONV_NORM, 5, None), TypeError, "norm_bias must be a torch.Tensor, got NoneType"),
    (CONV_NORM, broken(CONV_NORM, 3, randn(3, 4, 40)), ValueError, "residual"),
    (CONV_NORM, broken(CONV_NORM, 4, randn(3)), ValueError, "norm_weight"),
    (CONV_NORM, broken(CONV_NORM, eps=-1.0), ValueError, "eps .*-1"),
    ("attention_block", broken("attention_block", 0, randn(9, 24)), ValueError, r"x must be \[batch, seq"),
    ("attention_block", broken("attention_block", num_heads=5), ValueError, "num_heads=5 .*24"),
    ("attention_block", broken("attention_block", num_heads=0), ValueError, "num_heads=0"),
    ("attention_block", broken("attention_block", 7, randn(2, 1, 1, 8)), ValueError, r"attention_mask .*1, 8\]"),
    ("attention_block", broken("attention_block", 7, randn(3, 1, 9, 9)), ValueError, "attention_mask"),
    ("attention_block", broken("attention_block", 7, randn(())), ValueError, r"attention_mask .*\[\]"),
    ("attention_block", broken("attention_block", 3, randn(48, 12)), ValueError, "k_weight has 48"),
    ("attention_block", broken("attention_block", 6, randn(23)), ValueError, "v_bias"),
    ("attention_block", broken("attention_block", k_groups=5), ValueError, "k_groups=5"),
    ("post_attention_block", broken("post_attention_block", 1, randn(2, 8, 24)), ValueError, "residual"),
    ("post_attention_block", broken("post_attention_block", 6, randn(40, 7)), ValueError, "intermediate_weight"),
    ("post_attention_block", broken("post_attention_block", 8, randn(20, 10)), ValueError, "output_weight has 20"),
    ("post_attention_block", broken("post_attention_block", output_eps=float("nan")), ValueError, "output_eps"),
]  # fmt: skip


@pytest.mark.parametrize("name,call,error,message", BAD, ids=[f"{b[0]}-{b[3]}" for b in BAD])
def test_bad_input(name, call, error, message):
    args, options = call
    with pytest.raises(error, match=message):
        getattr(ops, name)(*args, **options)
    # Straight through the dispatcher it is an error too, never a crash.
    if error is ValueError and "meta" not in message and all(t is None or isinstance(t, torch.Tensor) for t in args):
        options = {k: ("none" if k == "activation" and v is None else v) for k, v in options.items()}
        if not any(isinstance(v, float) for v in options.values()):
            with pytest.raises((RuntimeError, ValueError, NotImplementedError)) as found:
                getattr(torch.ops.squeezebert_kernels, name)(*args, **options)
            assert is_refusal(found.value)


W = randn(40, 6)
BAD_PACKS = [
    (([], []), {}, ValueError, "got 0 weights and 0 groups"),
    (([W], [4, 4]), {}, ValueError, "got 1 weights and 2 groups"),
    ((W, [4]), {}, TypeError, "weights must be a sequence of tensors, got Tensor"),
    (([None], [4]), {}, TypeError, r"weights\[0\] must be a torch.Tensor, got NoneType"),
    (([W], ["4"]), {}, TypeError, r"groups\[0\] must be an int, got str"),
    (([W], [4.0]), {}, TypeError, r"groups\[0\] must be an int, got float"),
    (([W], None), {}, TypeError, "groups must be a sequence of ints, got NoneType"),
    (([W], [3]), {}, ValueError, r"groups\[0\]=3 must be positive and divide C_out=40"),
    (([W], [2**63]), {}, ValueError, r"groups\[0\]=9223372036854775808"),
    (([W[:0]], [4]), {}, ValueError, r"weights\[0\] must be \[C_out, C_in/groups\].*\[0, 6\]"),
    (([W[..., None, None, None]], [4]), {}, ValueError, r"weights\[0\] must be .*\[40, 6, 1, 1, 1\]"),
    (([W.to_sparse()], [4]), {}, TypeError, r"weights\[0\] must be a dense"),
    (([W.double()], [4]), {}, ValueError, r"weights\[0\] must be on CPU with .* got torch.float64"),
    (([W], [4]), {"num_heads": 7}, ValueError, "num_heads=7 must be positive and divide the 40"),
    (([W], [4]), {"num_heads": 4.0}, TypeError, "num_heads must be an int, got float"),
    (([W], [4]), {"dtype": "int4"}, ValueError, "dtype must be 'float32', 'bfloat16' or 'int8', got 'int4'"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), BAD_PACKS, ids=[b[3] for b in BAD_PACKS])
def test_bad_packing(args, options, error, message):
    with pytest.raises(error, match=message):
        ops.pack(*args, **options)


def test_boolean_masks_fit_x():
    args, options = broken("attention_block", 7, torch.ones(2, 1, 1, 9, dtype=torch.bool))
    assert ops.attention_block(*args, **options).shape == args[0].shape
    with pytest.raises(ValueError, match="attention_mask is on meta, but x is on cpu"):
        ops.attention_block(*args[:7], args[7].to("meta"), **options)
    with pytest.raises(TypeError, match="x must have a floating dtype"):
        ops.attention_block(args[0].long(), *args[1:], **options)


@pytest.mark.parametrize("size", [-(10**15), 0, 1, 10**15])
def test_a_packed_section_of_any_size_is_compared_safely(size):
    """The size of a section is read from a buffer that the caller may have made himself."""
    weights = [W, randn(40, 6)]
    packed = ops.pack(weights, [4, 4]).clone()
    assert ops.packed_is_current(weights, packed)
    words = packed.view(torch.int64)
    section = packed.numel() // 2
    at = (words == section).nonzero()
    assert len(at)
    words[at[0]] = size
    assert not ops.packed_is_current(weights, packed)


def test_a_refusal_is_told_by_its_first_words():
    """And by nothing else: the rest is what a ValueError says, any other error stays as it is."""
    x, weight = randn(2, 3), randn(4, 5)
    with pytest.raises(RuntimeError) as found:
        torch.ops.squeezebert_kernels.grouped_pointwise_conv(x, weight)
    words = in_own_words(found.value)
    assert type(words) is ValueError
    assert str(words) == "x must have 5 channels, got [2, 3]"
    for error in (RuntimeError("arguments.h:180, x must have 5 channels"), torch.OutOfMemoryError("none left")):
        assert not is_refusal(error)
        assert in_own_words(error) is error


def test_every_check_of_arguments_is_a_refusal():
    """csrc/torch has no other way to raise."""
    sources = Path(__file__).resolve().parents[2] / "csrc" / "torch"
    if not sources.exists():
        pytest.skip("not a source tree")
    text = "".join(file.read_text() for file in sources.iterdir())
    assert text.count("SBK_CHECK_ARGUMENT(") > 40
    assert text.count("throw ") == 1
    assert "TORCH_CHECK" not in text
