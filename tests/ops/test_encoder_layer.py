"""The op for a whole layer: the op itself, and where models use it instead of the two that it is made of."""

import typing
from types import SimpleNamespace

import pytest
import torch
from support.op_cases import CASES, attention_case, check, groups_of, post_case, randn, weights_of
from support.optimized_models import all_fused, batch, bert, loss, run, squeezebert
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

import squeezebert_kernels as sbk
from squeezebert_kernels import layer_arguments, ops
from squeezebert_kernels.benchmark.checking import exact
from squeezebert_kernels.layers import fused_layer
from squeezebert_kernels.layers.call_cache import known_calls
from squeezebert_kernels.ops import reference

NAME = "encoder_layer"
HALVES = ("attention_block", "post_attention_block")


def layer_case(batch=2, length=9, channels=24, heads=4, groups=(2, 2, 2, 1, 4, 4), mask="b11s", dtype="float32"):
    """(tensors, options) of encoder_layer."""
    args, options = attention_case(batch, length, channels, heads, groups[:3], mask)
    post, post_options = post_case((batch, length), channels, 2 * channels, groups[3:])
    packed = {
        "attention_packed": ops.pack(args[1:7:2], groups[:3], num_heads=heads, dtype=dtype),
        "post_packed": ops.pack([post[2], post[6], post[8]], groups[3:], dtype=dtype),
    }
    return (*args, *post[2:]), {**options, **post_options, **packed}


def two_ops(x, *tensors, attention_packed, post_packed, offsets=None, **options):
    attention = {k: v for k, v in options.items() if k[:2] in ("q_", "k_", "v_", "nu")}
    post = {k: v for k, v in options.items() if k not in attention}
    context = ops.attention_block(x, *tensors[:7], **attention, packed=attention_packed, offsets=offsets)
    return ops.post_attention_block(context, x, *tensors[7:], **post, packed=post_packed)


@pytest.mark.parametrize("mask", [None, "b11s", "b1ss", "bhss", "ss"])
@pytest.mark.parametrize(
    "case",
    [
        dict(length=128, channels=96, heads=12, groups=(4, 4, 4, 1, 4, 4)),
        dict(length=33, channels=24, heads=2, groups=(8, 4, 6, 2, 4, 1)),
        dict(length=1, channels=30, heads=5, groups=(1, 2, 3, 1, 1, 1)),
        dict(batch=0), dict(length=0),
    ],
    ids=str,
)  # fmt: skip
def test_values(case, mask):
    args, options = layer_case(**case, mask=mask)
    check(NAME, args, options, 64 * args[0].shape[-1])
    assert torch.equal(ops.encoder_layer(*args, **options), two_ops(*args, **options))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_low_precision(dtype):
    args, options = layer_case(dtype=dtype)
    assert torch.equal(ops.encoder_layer(*args, **options), two_ops(*args, **options))


@pytest.mark.parametrize("mask", [None, "b11s", "bhss"])
def test_offsets(mask):
    args, options = layer_case(batch=3, mask=mask)
    offsets = torch.tensor([0, 9, 9, 13])
    args = (args[0].flatten(0, 1)[:13], *args[1:])
    y = ops.encoder_layer(*args, **options, offsets=offsets)
    assert torch.equal(y, two_ops(*args, **options, offsets=offsets))
    torch.testing.assert_close(y, reference.encoder_layer(*args, **options, offsets=offsets), rtol=0, atol=2e-5)


def test_any_strides():
    args, options = layer_case(mask="b1ss")
    expected = ops.encoder_layer(*args, **options)
    strided = [t.repeat_interleave(2, -1)[..., ::2] for t in args]
    assert not any(t.is_contiguous() for t in strided if t.shape[-1] > 1)
    assert torch.equal(ops.encoder_layer(*strided, **options), expected)
    turned = args[0].transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(ops.encoder_layer(turned, *args[1:], **options), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype):
    args, options = layer_case(mask=None)
    cast = [t if t is None else t.to(dtype) for t in args]
    options["attention_packed"] = ops.pack([t.float() for t in cast[1:7:2]], [2, 2, 2], num_heads=4)
    options["post_packed"] = ops.pack([cast[i].float() for i in (8, 12, 14)], [1, 4, 4])
    actual = ops.encoder_layer(*cast, **options)
    expected = exact("encoder_layer", *cast, **options)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=torch.finfo(dtype).eps * 16)


def test_autocast():
    args, options = layer_case()
    exact = ops.encoder_layer(*args, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.encoder_layer(*args, **options), exact)
        y = ops.encoder_layer(args[0].bfloat16(), *args[1:], **options)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, exact, rtol=0.05, atol=0.05)


def test_opcheck_compile_and_export():
    args, options = layer_case()
    opcheck(torch.ops.squeezebert_kernels.encoder_layer.default, args, options)

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return ops.encoder_layer(*tensors, **options) * 1

    expected = ops.encoder_layer(*args, **options)
    assert torch.equal(torch.compile(Module(), fullgraph=True, backend="aot_eager")(*args), expected)
    assert torch.equal(torch.export.export(Module(), args).module()(*args), expected)


def test_the_named_tuples_are_the_schema():
    schema = torch.ops.squeezebert_kernels.encoder_layer.default._schema
    assert tuple(argument.name for argument in schema.arguments) == layer_arguments.ORDER
    optional = {a.name for a in schema.arguments if str(a.type) == "Optional[Tensor]"}
    annotations = typing.get_type_hints(layer_arguments.LayerTensors)
    assert {name for name, kind in annotations.items() if kind != torch.Tensor} == optional - {"offsets"}
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    assert layer_arguments.LayerOptions._field_defaults == {k: v for k, v in defaults.items() if k != "offsets"}

    call = layer_arguments.LayerCall.bind(*range(31))
    assert call.in_order() == tuple(range(31))
    assert layer_arguments.LayerCall.bind(*range(21), offsets=1).options.output_eps == 1e-12


@pytest.mark.parametrize("wrong", [{"q_wight": 1}, {"num_heads": 1, "x": 1}, {}])
def test_the_reference_takes_the_arguments_of_the_op_and_no_others(wrong):
    args, options = layer_case()
    options.update(wrong)
    with pytest.raises(TypeError):
        reference.encoder_layer(*args[: 18 if wrong else 17], **options)


def test_there_is_no_gradient():
    args, options = layer_case()
    for i in (0, 3, 7, 10, 17):
        leaves = list(args)
        leaves[i] = args[i].clone().requires_grad_()
        with pytest.raises(ValueError, match="encoder_layer has no gradient: call it under"):
            ops.encoder_layer(*leaves, **options)
        with torch.no_grad():
            ops.encoder_layer(*leaves, **options)
        y = torch.ops.squeezebert_kernels.encoder_layer(*leaves, **options)
        with pytest.raises(NotImplementedError, match="encoder_layer has no gradient"):
            y.sum().backward()


OTHER = ops.pack([randn(8, 4)], [1])
BAD = [
    ({0: randn(9, 24)}, {}, ValueError, r"x must be \[batch, seq"),
    ({0: [1.0]}, {}, TypeError, "x must be a torch.Tensor, got list"),
    ({0: randn(2, 9, 23)}, {}, ValueError, "x has 23 channels"),
    ({1: None}, {}, TypeError, "q_weight must be a torch.Tensor"),
    ({3: randn(48, 12)}, {}, ValueError, "k_weight has 48"),
    ({6: randn(23)}, {}, ValueError, "v_bias"),
    ({7: randn(2, 1, 1, 8)}, {}, ValueError, r"attention_mask .*1, 8\]"),
    ({7: randn(())}, {}, ValueError, r"attention_mask .*\[\]"),
    ({7: torch.ones(2, 1, 1, 9, dtype=torch.bool)}, {}, TypeError, "attention_mask must have a floating dtype"),
    ({7: randn(2, 1, 1, 9).to("meta")}, {}, ValueError, "attention_mask is on meta"),
    ({8: randn(20, 24)}, {}, ValueError, "post_weight has 20 output channels, but x has 24"),
    ({8: randn(24, 20)}, {}, ValueError, "context has 24 channels"),
    ({10: randn(3)}, {}, ValueError, "post_norm_weight"),
    ({12: randn(48, 7)}, {}, ValueError, "x has 24 channels .*intermediate_weight"),
    ({14: randn(20, 12)}, {}, ValueError, "output_weight has 20 output channels, but x has 24"),
    ({17: randn(24).double()}, {}, ValueError, "output_norm_bias has dtype"),
    ({}, {"num_heads": 5}, ValueError, "num_heads=5 .*24"),
    ({}, {"num_heads": 4.0}, TypeError, "num_heads must be an int"),
    ({}, {"k_groups": 5}, ValueError, "k_groups=5"),
    ({}, {"output_groups": 7}, ValueError, "output_groups=7"),
    ({}, {"activation": "swish"}, ValueError, "swish"),
    ({}, {"output_eps": float("nan")}, ValueError, "output_eps"),
    ({}, {"offsets": torch.tensor([0, 18])}, ValueError, r"x must be \[tokens, channels\] with offsets"),
    ({0: randn(18, 24)}, {"offsets": torch.tensor([0, 17])}, ValueError, "offsets must ascend from 0 to the 18"),
    ({}, {"attention_packed": None}, TypeError, "attention_packed must be a torch.Tensor"),
    ({}, {"attention_packed": torch.zeros(3)}, ValueError, "attention_packed must be a 1-D uint8"),
    ({}, {"attention_packed": OTHER}, ValueError, r"^attention_packed was made for a weight \[8, 4\]"),
    ({}, {"post_packed": OTHER[:10]}, ValueError, "^post_packed is not a result of ops.pack"),
    ({}, {"post_packed": OTHER.to("meta")}, ValueError, "post_packed is on meta"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "changes", "error", "message"), BAD, ids=[b[3] for b in BAD])
def test_bad_input(tensors, changes, error, message):
    args, options = layer_case()
    args = [tensors.get(i, t) for i, t in enumerate(args)]
    options |= changes
    with pytest.raises(error, match=message):
        ops.encoder_layer(*args, **options)
    if error is ValueError and "meta" not in message:
        with pytest.raises((RuntimeError, ValueError)):
            torch.ops.squeezebert_kernels.encoder_layer(*args, **options)


@pytest.mark.parametrize("name", CASES)
def test_packed_weights_are_not_looked_at(name):
    """With ``packed`` a weight says only its shape and dtype: one that is no values at all costs nothing."""
    args, options = CASES[name]()
    weights = weights_of(name, args)
    packed = ops.pack(weights, groups_of(name, options), num_heads=options.get("num_heads", 0))
    expected = getattr(ops, name)(*args, **options)
    hollow = [
        torch.full((1,), float("nan")).expand(t.shape) if any(t is w for w in weights) else t.contiguous() for t in args
    ]

    def copies(call):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            result = call()
        return result, sum(event.name == "aten::clone" for event in profile.events())

    result, count = copies(lambda: getattr(ops, name)(*hollow, **options, packed=packed))
    assert torch.equal(result, expected)
    assert count == 0
    result, count = copies(lambda: getattr(ops, name)(*hollow, **options))
    assert result.isnan().all()
    assert count == len(weights)


def test_strided_weights_are_packed_by_their_values():
    weights = [randn(24, 12), randn(48, 6)]
    strided = [w.t().contiguous().t() for w in weights]
    packed = ops.pack(weights, [2, 4])
    assert torch.equal(torch.ops.squeezebert_kernels.pack(strided, [2, 4]), packed)
    assert ops.packed_is_current(strided, packed)
    strided[1].mul_(2)
    assert not ops.packed_is_current(strided, packed)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """What came of every attempt to use the op: True, or False where it refused."""
    outcomes = []
    attempt = ops.try_encoder_layer

    def spy(*arguments):
        y = attempt(*arguments)
        outcomes.append(y is not None)
        return y

    monkeypatch.setattr(ops, "try_encoder_layer", spy)
    return outcomes


@pytest.fixture
def by_two_ops(monkeypatch):
    def call(function, *arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(fused_layer, "_is_one_op", lambda *_: False)
            return function(*arguments, **options)

    return call


MODELS = {
    "squeezebert": lambda: sbk.optimize(squeezebert()),
    "ours": lambda: sbk.SqueezeBertModel(squeezebert().config).eval(),
    "bert": lambda: sbk.optimize(bert(attn_implementation="eager")),
    "bfloat16": lambda: sbk.optimize(squeezebert(), dtype=torch.bfloat16),
    "int8": lambda: sbk.optimize(bert(attn_implementation="eager"), quantization="int8"),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_models_use_it(name, padded, calls, by_two_ops):
    model, inputs = MODELS[name](), batch(padded=padded)
    expected = by_two_ops(run, model, inputs)
    assert calls == []
    assert torch.equal(run(model, inputs), expected)
    assert calls == [True, True]
    with torch.inference_mode():
        assert torch.equal(model(**inputs)[0], expected)
    assert calls == [True] * 4
    assert all_fused(model)


def layer_of(model):
    """(layer, its plan) after a first call."""
    run(model, batch())
    layer = model.encoder.layers[0] if hasattr(model.encoder, "layers") else model.encoder.layer[0]
    return layer, known_calls(layer).plan.plan


LOWEST = torch.finfo(torch.float32).min
HIDDEN = randn(3, 4, 11, 11, seed=9) > 0.7
MASKS = {
    "b11s": (torch.zeros(3, 1, 1, 11).masked_fill(HIDDEN[:, :1, :1], LOWEST), [True]),
    "bhss": (torch.zeros(3, 4, 11, 11).masked_fill(HIDDEN, LOWEST), [True]),
    "ss": (torch.zeros(11, 11).masked_fill(HIDDEN[0, 0], -1e4), [True]),
    "s": (torch.zeros(11).masked_fill(HIDDEN[0, 0, 0], -float("inf")), [True]),
    "expanded": (torch.zeros(3, 1, 1, 11).masked_fill(HIDDEN[:, :1, :1], LOWEST).expand(3, 1, 11, 11), [True]),
    "strided": (torch.zeros(3, 1, 11, 11).masked_fill(HIDDEN[:, :1], LOWEST).transpose(2, 3), [True]),
    "one column for all keys": (randn(3, 1, 11, 1), [False]),
    "boolean": (~HIDDEN, []),
    "boolean, blind queries": (torch.zeros(3, 1, 1, 11, dtype=torch.bool), []),
    "boolean, one column": (~HIDDEN[..., :1], []),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks(kind, calls, by_two_ops):
    mask, outcome = MASKS[kind]
    layer, plan = layer_of(sbk.optimize(bert(attn_implementation="eager")))
    x = randn(3, 11, 32)
    calls.clear()
    with torch.no_grad():
        y = fused_layer.fused_layer(layer, plan, x, mask)
        assert calls == outcome
        assert torch.equal(y, by_two_ops(fused_layer.fused_layer, layer, plan, x, mask))
        strided = x.transpose(0, 1).contiguous().transpose(0, 1)
        assert torch.equal(y, fused_layer.fused_layer(layer, plan, strided, mask))


X = randn(3, 11, 32)
BAD_CALLS = {
    "short mask": (X, randn(3, 1, 1, 10)), "mask of another batch": (X, randn(2, 1, 1, 11)),
    "float64 mask": (X, randn(3, 1, 1, 11).double()), "meta mask": (X, randn(3, 1, 1, 11).to("meta")),
    "no batch": (randn(11, 32), None), "channels": (randn(3, 11, 30), None), "dtype": (X.bfloat16(), None),
    "meta bias": (X, None), "meta x": (X.to("meta"), None), "sparse x": (X.to_sparse(), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_CALLS)
def test_errors_are_those_of_the_two_ops(kind, by_two_ops):
    x, mask = BAD_CALLS[kind]
    layer, plan = layer_of(sbk.optimize(bert()))
    if kind == "meta bias":  # its values would be whatever is in memory: the op's shape function would run
        layer.output.dense.bias = torch.nn.Parameter(layer.output.dense.bias.to("meta"))
        plan = fused_layer.LayerPlan(layer, known_calls(layer).plan.record.family)
    with torch.no_grad():
        with pytest.raises(TypeError if kind == "sparse x" else ValueError) as expected:
            by_two_ops(fused_layer.fused_layer, layer, plan, x, mask)
        with pytest.raises(expected.type) as found:
            fused_layer.fused_layer(layer, plan, x, mask)
    assert str(found.value) == str(expected.value)


FAILURES = [torch.OutOfMemoryError("no memory"), RuntimeError("internal"), TypeError("internal"), MemoryError("none")]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_failures_are_no_refusals(failure, monkeypatch, calls):
    """Only a refusal is answered with the two ops."""
    layer, plan = layer_of(sbk.optimize(bert(attn_implementation="eager")))
    calls.clear()

    def fail(*_):
        raise failure

    monkeypatch.setattr(torch.ops.squeezebert_kernels, NAME, SimpleNamespace(default=fail))
    with torch.no_grad(), pytest.raises(type(failure)) as found:
        fused_layer.fused_layer(layer, plan, X, None)
    assert found.value is failure
    assert calls == []


def test_no_memory_is_no_refusal(calls):
    layer, plan = layer_of(sbk.optimize(bert(attn_implementation="eager")))
    calls.clear()
    with torch.no_grad(), pytest.raises(RuntimeError, match="contiguous"):  # of a petabyte
        fused_layer.fused_layer(layer, plan, torch.zeros(1, 1, 32).expand(2**40, 11, 32), None)
    assert calls == []


def test_gradients_go_through_the_two_ops(calls, by_two_ops):
    model = sbk.optimize(squeezebert())
    found = torch.autograd.grad(loss(model), list(model.encoder.parameters()))
    expected = by_two_ops(lambda: torch.autograd.grad(loss(model), list(model.encoder.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert calls == []


@pytest.mark.parametrize("wanted", ["nothing", "x", "mask", "k_weight", "output_norm_bias"])
def test_what_wants_gradients(wanted, calls):
    model = sbk.optimize(bert(attn_implementation="eager")).requires_grad_(False)
    layer, plan = layer_of(model)
    x, mask = randn(3, 11, 32), torch.zeros(3, 1, 1, 11)
    leaf = {
        "x": x, "mask": mask, "k_weight": layer.attention.self.key.weight,
        "output_norm_bias": layer.output.LayerNorm.bias, "nothing": None,
    }[wanted]  # fmt: skip
    if leaf is not None:
        leaf.requires_grad_()
    calls.clear()
    y = fused_layer.fused_layer(layer, plan, x, mask)
    assert calls == ([True] if leaf is None else [])
    assert y.requires_grad == (leaf is not None)
    if leaf is not None:
        (grad,) = torch.autograd.grad(y.square().sum(), leaf)
        assert grad.isfinite().all()


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("kind", ["autocast", "torch.func", "dispatch mode", "subclass", "half precision"])
def test_where_it_stays_away(kind, calls):
    # In less than float32 weights are packed while tracing too.
    model = sbk.optimize(bert(attn_implementation="eager"), quantization="int8" if kind == "dispatch mode" else None)
    layer, plan = layer_of(model)
    x = randn(2, 5, 32)
    calls.clear()
    with torch.no_grad():
        expected = fused_layer.fused_layer(layer, plan, x, None)
        assert calls == [True]
        if kind == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = fused_layer.fused_layer(layer, plan, x, None)
        elif kind == "torch.func":
            y = torch.func.vmap(lambda e: fused_layer.fused_layer(layer, plan, e[None], None)[0])(x)
        elif kind == "dispatch mode":
            with FlopCounterMode(display=False):
                y = fused_layer.fused_layer(layer, plan, x, None)
        elif kind == "subclass":
            y = fused_layer.fused_layer(layer, plan, x.as_subclass(Subclass), None)
        else:
            model.bfloat16()
            y = fused_layer.fused_layer(
                layer, fused_layer.plan_of(layer, known_calls(layer).plan.record.family), x.bfloat16(), None
            )
    assert calls == [True]
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.1)


def test_tracers_see_the_two_ops(calls):
    model, inputs = sbk.optimize(squeezebert()), batch()
    expected = run(model, inputs)
    calls.clear()
    with torch.no_grad():
        program = torch.export.export(model, (), inputs)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)[0]
    assert calls == []
    names = [str(node.target) for node in program.graph.nodes]
    assert [sum(f"squeezebert_kernels.{name}." in target for target in names) for name in (*HALVES, NAME)] == [2, 2, 0]
    for actual in (compiled, program.module()(**inputs)[0]):
        torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


def test_without_padding(calls, by_two_ops):
    model = sbk.optimize(squeezebert(), skip_padding=True)
    inputs = batch((5, 40))
    inputs["attention_mask"] = (torch.arange(40) < torch.tensor([40, 3, 17, 40, 1])[:, None]).long()
    expected = by_two_ops(run, model, inputs)
    assert torch.equal(run(model, inputs), expected)
    assert calls == [True, True]


def test_changed_weights_are_noticed(calls):
    model, inputs = sbk.optimize(squeezebert()), batch()
    before = run(model, inputs)
    with torch.no_grad():
        model.encoder.layers[0].intermediate.conv1d.weight.mul_(1.5)
        model.encoder.layers[1].attention.query.weight.data.mul_(1.5)
    after = run(model, inputs)
    assert not torch.equal(before, after)
    assert torch.equal(after, run(sbk.optimize(sbk.restore(model)), inputs))
    assert calls == [True] * 6


def test_activations_without_a_kernel_take_three_ops(calls):
    model = sbk.optimize(squeezebert(hidden_act="silu"))
    run(model, batch())
    assert calls == []
