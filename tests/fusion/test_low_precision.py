"""bfloat16, int8 and unpadded batches through the ops and optimize."""

import copy
import pickle

import pytest
import torch
import transformers
from support.op_cases import CASES, attention_case, groups_of, mask_of, randn, weights_of
from support.optimized_models import all_fused, assert_same, batch, bert, run, squeezebert
from transformers.models.bert import modeling_bert

import squeezebert_kernels as sbk
from squeezebert_kernels import ops
from squeezebert_kernels.benchmark.checking import relative_error
from squeezebert_kernels.compat import TRANSFORMERS_5
from squeezebert_kernels.ops import reference

# Relative error (Frobenius) of one op: operands rounded to 8 or 7 bits of mantissa, errors of k products average out.
BOUNDS = {"bfloat16": 2**-8, "int8": 0.02}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", CASES)
def test_ops(name, dtype):
    args, options = CASES[name]()
    packed = ops.pack(
        weights_of(name, args), groups_of(name, options), num_heads=options.get("num_heads", 0), dtype=dtype
    )
    exact = getattr(ops, name)(*args, **options)
    rounded = getattr(ops, name)(*args, **options, packed=packed)
    assert 0 < relative_error(rounded, exact) < BOUNDS[dtype]
    assert ops.packed_is_current(weights_of(name, args), packed)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_same_bits_for_any_thread_count(dtype):
    args, options = attention_case(batch=3, length=77)
    packed = ops.pack(weights_of("attention_block", args), [2, 2, 2], num_heads=4, dtype=dtype)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(ops.attention_block(*args, **options, packed=packed))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], r) for r in results[1:])


def test_pack_refuses_other_dtypes():
    with pytest.raises(ValueError, match="dtype must be 'float32', 'bfloat16' or 'int8', got 'int4'"):
        ops.pack([randn(8, 4)], [1], dtype="int4")


def test_int8_packs_into_a_quarter():
    w = [randn(768, 192)]
    sizes = {dtype: ops.pack(w, [4], dtype=dtype).numel() for dtype in ("float32", "bfloat16", "int8")}
    assert sizes["float32"] >= sizes["bfloat16"]
    if sbk.report(torch.nn.Linear(2, 2)).isa.startswith(("avx512vnni", "avx512bf16")):
        assert sizes["int8"] < 0.27 * sizes["float32"]


OPTIONS = {"bfloat16": {"dtype": torch.bfloat16}, "int8": {"quantization": "int8"}}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("make", [squeezebert, bert])
def test_models(make, kind):
    model = make()
    exact = run(model, batch())
    sbk.optimize(model, **OPTIONS[kind], strict=True)
    rounded = run(model, batch())
    assert 0 < relative_error(rounded, exact) < 4 * BOUNDS[kind]
    assert {e.dtype for e in sbk.report(model).entries} == {kind}
    assert kind in str(sbk.report(model))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, batch()), rounded)
    # Parameters are as they were: full precision comes back.
    sbk.optimize(model)
    assert_same(run(model, batch()), exact)
    sbk.restore(sbk.optimize(model, **OPTIONS[kind]))
    assert_same(run(model, batch()), exact)
    assert not any(k.startswith("_sbk") for m in model.modules() for k in m.__dict__)


def test_own_classes_and_convs():
    model = sbk.SqueezeBertModel(sbk.SqueezeBertConfig(num_hidden_layers=1)).eval()
    exact = run(model, batch())
    assert 0 < relative_error(run(sbk.optimize(model, dtype=torch.bfloat16), batch()), exact) < 4 * BOUNDS["bfloat16"]
    conv = torch.nn.Conv1d(64, 64, 1, groups=2)
    x = randn(2, 64, 9)
    exact = conv(x).detach()
    assert 0 < relative_error(sbk.optimize(conv, quantization="int8")(x).detach(), exact) < BOUNDS["int8"]


def test_bad_options():
    with pytest.raises(ValueError, match="dtype or quantization, not both"):
        sbk.optimize(squeezebert(), dtype=torch.bfloat16, quantization="int8")
    with pytest.raises(ValueError, match="dtype=torch.float16 has no kernels"):
        sbk.optimize(squeezebert(), dtype=torch.float16)


@pytest.mark.parametrize("mask", [None, "b11s", "b1ss", "bhss"])
def test_offsets(mask):
    args, options = attention_case(batch=3, length=9, mask=None)
    lengths = [9, 0, 4]
    offsets = torch.tensor([0, 9, 9, 13])
    full = mask_of(mask, 3, 4, 9)
    x = torch.cat([args[0][b, :n] for b, n in enumerate(lengths)])
    actual = ops.attention_block(x, *args[1:7], full, **options, offsets=offsets)
    torch.testing.assert_close(
        actual, reference.attention_block(x, *args[1:7], full, **options, offsets=offsets), rtol=0, atol=1e-5
    )
    for b, n in enumerate(lengths):
        part = full if full is None else full.expand(3, -1, full.shape[2], 9)[b : b + 1, :, :n, :n]
        alone = ops.attention_block(args[0][b : b + 1, :n], *args[1:7], part, **options)
        assert torch.equal(actual[offsets[b] : offsets[b + 1]], alone[0])


@pytest.mark.parametrize(
    "offsets,message",
    [
        (torch.tensor([0, 9]), "offsets must ascend from 0 to the 18 tokens of x"),
        (torch.tensor([1, 18]), "offsets must ascend from 0"),
        (torch.tensor([0, 12, 9, 18]), "offsets must ascend .* 12, 9"),
        (torch.tensor([0.0, 18.0]), "offsets must be an int64 tensor"),
        (torch.tensor([[0, 18]]), "offsets must be an int64 tensor"),
    ],
)
def test_bad_offsets(offsets, message):
    args, options = attention_case(mask=None)
    with pytest.raises((ValueError, RuntimeError), match=message):
        ops.attention_block(args[0].flatten(0, 1), *args[1:], **options, offsets=offsets)


def test_offsets_have_no_gradient():
    args, options = attention_case(mask=None)
    x = args[0].flatten(0, 1).requires_grad_()
    with pytest.raises(ValueError, match="offsets has no gradient"):
        ops.attention_block(x, *args[1:], **options, offsets=torch.tensor([0, 18]))


def ragged_batch():
    """Inputs of a model, and where their tokens are real."""
    inputs = batch((5, 40))
    lengths = torch.tensor([40, 3, 17, 40, 1])
    real = torch.arange(40) < lengths[:, None]
    inputs["attention_mask"] = real.long()
    inputs["attention_mask"][2, 5] = 0  # a hole stays in
    return inputs, real


@pytest.mark.parametrize("make", [squeezebert, "ours"])
def test_skip_padding(make):
    model = squeezebert()
    if make == "ours":
        ours = sbk.SqueezeBertModel(sbk.SqueezeBertConfig(**model.config.to_dict())).eval()
        ours.load_state_dict(model.state_dict())
        model = ours
    inputs, real = ragged_batch()
    expected = run_states(model, inputs)
    sbk.optimize(model, skip_padding=True)
    actual = run_states(model, inputs)
    for a, e in zip(actual[:-1], expected[:-1]):
        assert_same(a[real], e[real])
    assert_same(actual[-1], expected[-1])  # pooled
    assert (actual[1][~real] == 0).all()
    assert all_fused(model)
    # With gradients everything is computed.
    out = model(**inputs)[0]
    assert_same(out.detach(), expected[0])
    model.encoder.layers[0].attention.register_forward_hook(lambda *a: None)
    assert_same(run_states(model, inputs)[0], expected[0])
    sbk.optimize(model, skip_padding=False)
    assert_same(run_states(model, inputs)[0], expected[0])


def run_states(model, inputs):
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    return [out.last_hidden_state, *out.hidden_states[1:], out.pooler_output]


def outputs(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options)


def assert_skipped(actual, expected, real):
    assert_same(actual[real], expected[real])
    assert (actual[~real] == 0).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_skip_padding_in_bert(attention):
    model, (inputs, real) = bert(attn_implementation=attention), ragged_batch()
    classes = [type(m) for m in model.modules()]
    expected = outputs(model, inputs)
    sbk.optimize(model, skip_padding=True, strict=True)
    assert len(sbk.report(model).entries) == 2
    actual = outputs(model, inputs)
    assert type(actual) is type(expected)
    assert actual.keys() == expected.keys()
    assert_skipped(actual[0], expected[0], real)
    assert_same(actual.pooler_output, expected.pooler_output)
    assert all_fused(model)
    as_tuple = outputs(model, inputs, return_dict=False)
    assert [type(as_tuple), len(as_tuple)] == [tuple, 2]
    assert torch.equal(as_tuple[0], actual[0])
    # Sequences that begin with padding have nothing to leave out.
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    assert_same(run(model, inputs)[real.flip(1)], run(bert(attn_implementation=attention), inputs)[real.flip(1)])
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    handle = model.encoder.layer[1].register_forward_hook(lambda *_: None)
    assert_same(run(model, inputs), expected[0])
    handle.remove()
    assert_skipped(run(model, inputs), expected[0], real)
    assert_same(model(**inputs)[0].detach(), expected[0])  # with gradients
    assert_same(run(torch.compile(model, fullgraph=True, backend="eager"), inputs), expected[0])
    assert_same(run(sbk.optimize(model), inputs), expected[0])
    sbk.restore(sbk.optimize(model, skip_padding=True))
    assert [type(m) for m in model.modules()] == classes
    assert not any(k.startswith("_sbk") for m in model.modules() for k in m.__dict__)


@pytest.mark.parametrize("asked", [{"output_hidden_states": True}, {"output_attentions": True}])
@pytest.mark.parametrize("how", ["call", "config"])
def test_bert_keeps_padding_where_its_layers_are_asked(asked, how):
    model, (inputs, real) = bert(attn_implementation="eager"), ragged_batch()
    expected = outputs(model, inputs, **asked)
    sbk.optimize(model, skip_padding=True)
    assert_skipped(run(model, inputs), expected[0], real)
    if how == "config":
        for name, value in asked.items():
            setattr(model.config, name, value)
        asked = {}
    actual = outputs(model, inputs, **asked)
    assert actual.keys() == expected.keys()
    for a, e in zip(actual.to_tuple(), expected.to_tuple()):
        for x, y in zip(a, e) if isinstance(a, tuple) else [(a, e)]:
            assert_same(x, y)


@pytest.mark.parametrize("head", ["MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_skip_padding_in_heads_of_bert(head):
    """With the shape of MiniLM's layers."""
    config = transformers.BertConfig(
        vocab_size=99, hidden_size=384, num_hidden_layers=2, num_attention_heads=12, intermediate_size=1536
    )
    torch.manual_seed(0)
    model, (inputs, real) = getattr(transformers, f"BertFor{head}")(config).eval(), ragged_batch()
    expected = run(model, inputs)
    sbk.optimize(model, skip_padding=True)
    hidden = []
    model.bert.encoder.register_forward_hook(lambda module, args, output: hidden.append(output[0]))
    actual = run(model, inputs)
    assert (hidden[0][~real] == 0).all()
    per_token = actual.shape[:2] == real.shape
    assert_same(actual[real] if per_token else actual, expected[real] if per_token else expected)


@pytest.mark.parametrize("options", [{}, {"return_dict": False}, {"use_cache": True}, {"output_hidden_states": True}])
def test_a_bert_encoder_alone(options):
    encoder, (inputs, real) = bert().encoder, ragged_batch()
    hidden, mask = torch.randn(5, 40, 32), inputs["attention_mask"].bool()[:, None, None]
    mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    expected = outputs(encoder, {"hidden_states": hidden, "attention_mask": mask}, **options)
    sbk.optimize(encoder, skip_padding=True)
    actual = outputs(encoder, {"hidden_states": hidden, "attention_mask": mask}, **options)
    assert type(actual) is type(expected)
    assert len(actual) == len(expected)
    assert_same(actual[0][real], expected[0][real])
    with torch.no_grad():
        double = encoder(hidden, mask.double())
    assert_skipped(double[0], expected[0], real)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_skip_padding_with_a_sequence_of_padding_only(dtype):
    model, (inputs, _) = bert(), ragged_batch()
    mask = inputs["attention_mask"].bool()
    mask[1] = False
    if dtype == torch.bool and not TRANSFORMERS_5:
        pytest.skip("transformers 4 makes no boolean masks")
    mask = mask[:, None, None].expand(5, 1, 40, 40)
    if dtype != torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(dtype).min)
    hidden = torch.randn(5, 40, 32)
    with torch.no_grad():
        expected = model.encoder(hidden, mask)[0]
        actual = sbk.optimize(model, skip_padding=True).encoder(hidden, mask)[0]
    assert_same(actual[1], expected[1])
    assert bool((actual[4, 1:] == 0).all()) == (dtype != torch.bool)


@pytest.mark.parametrize("make", [squeezebert, bert])
@pytest.mark.parametrize("shape", [(0, 40), (3, 0)])
def test_skip_padding_of_nothing(make, shape):
    encoder = sbk.optimize(make(), skip_padding=True).encoder
    hidden = torch.zeros(*shape, 32)
    inputs = {"hidden_states": hidden, "attention_mask": torch.zeros(shape[0], 1, 1, shape[1])}
    assert outputs(encoder, inputs)[0].shape == hidden.shape


@pytest.mark.parametrize("kind", OPTIONS)
def test_skip_padding_in_less_than_float32(kind):
    model, (inputs, real) = sbk.optimize(bert(), **OPTIONS[kind]), ragged_batch()
    expected = run(model, inputs)
    assert_skipped(run(sbk.optimize(model, **OPTIONS[kind], skip_padding=True), inputs), expected, real)


def test_copies_skip_padding_too():
    model, (inputs, _) = sbk.optimize(bert(), skip_padding=True), ragged_batch()
    expected = run(model, inputs)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(run(clone, inputs), expected)


def test_skip_padding_in_models_built_under_enable():
    inputs, real = ragged_batch()
    config, expected = bert().config, run(bert(), inputs)
    sbk.enable()
    try:
        model = transformers.AutoModel.from_config(config).eval()
    finally:
        sbk.disable()
    model.load_state_dict(bert().state_dict())
    assert_same(run(model, inputs), expected)
    assert_skipped(run(sbk.optimize(model, skip_padding=True), inputs), expected, real)
    assert type(sbk.restore(model).encoder) is modeling_bert.BertEncoder
    assert type(bert().encoder) is modeling_bert.BertEncoder


def doubled(forward):
    def patched(*args, **kwargs):
        output = forward(*args, **kwargs)
        output["last_hidden_state"] = output["last_hidden_state"] * 2
        return output

    return patched


def change_class(model, monkeypatch):
    monkeypatch.setattr(modeling_bert.BertEncoder, "forward", doubled(modeling_bert.BertEncoder.forward))


def change_instance(model, monkeypatch):
    model.encoder.forward = doubled(model.encoder.forward)


def change_to_subclass(model, monkeypatch):
    class Mine(modeling_bert.BertEncoder):
        forward = doubled(modeling_bert.BertEncoder.forward)

    model.encoder.__class__ = Mine


@pytest.mark.parametrize("change", [change_class, change_instance, change_to_subclass])
def test_encoders_with_code_of_their_own_keep_it(change, monkeypatch):
    model, (inputs, _) = bert(), ragged_batch()
    change(model, monkeypatch)
    expected = run(model, inputs)
    assert_same(run(sbk.optimize(model, skip_padding=True, strict=True), inputs), expected)
    assert len(sbk.report(model).fused) == 2


def test_subclasses_of_the_fused_encoder_keep_their_code():
    class Mine(type(sbk.optimize(bert()).encoder)):
        forward = doubled(modeling_bert.BertEncoder.forward)

    model, (inputs, _) = sbk.optimize(bert(), skip_padding=True), ragged_batch()
    expected = run(sbk.restore(bert()), inputs) * 2
    model.encoder.__class__ = Mine
    assert_same(run(model, inputs), expected)


def test_layers_of_other_kinds_run_as_usual():
    model, (inputs, _) = bert(), ragged_batch()
    model.encoder.layer[0].attention.self.query = torch.nn.Sequential(model.encoder.layer[0].attention.self.query)
    expected = run(model, inputs)
    assert_same(run(sbk.optimize(model, skip_padding=True), inputs), expected)
    assert len(sbk.report(model).fallbacks) == 1
    layer = sbk.optimize(bert().encoder.layer[1], skip_padding=True, strict=True)
    assert len(sbk.report(layer).entries) == 1


@pytest.mark.skipif(TRANSFORMERS_5, reason="transformers 5 has no head masks")
def test_a_head_mask_keeps_padding():
    model, (inputs, _) = bert(), ragged_batch()
    inputs["head_mask"] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    expected = run(model, inputs)
    assert_same(run(sbk.optimize(model, skip_padding=True), inputs), expected)


def test_a_decoder_keeps_padding():
    model, (inputs, _) = bert(is_decoder=True), ragged_batch()
    expected = outputs(model, inputs)
    actual = outputs(sbk.optimize(model, skip_padding=True), inputs)
    assert actual.keys() == expected.keys()
    assert_same(actual[0], expected[0])
