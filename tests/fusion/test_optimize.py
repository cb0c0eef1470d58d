"""optimize, restore, report, enable and disable on live models: never silent, never wrong, nothing left behind."""

import copy
import io
import pickle
import threading

import pytest
import torch
import transformers
from support.optimized_models import (
    HEADS,
    all_fused,
    assert_same,
    batch,
    bert,
    changed_weight,
    loss,
    parts,
    run,
    squeezebert,
)
from torch import nn
from torch.nn.utils import parametrizations

import squeezebert_kernels as sbk


@pytest.mark.parametrize("head", HEADS)
def test_every_head(head):
    model = squeezebert(head)
    inputs = batch((2, 3, 11) if head.endswith("MultipleChoice") else (3, 11))
    before, keys = run(model, inputs), list(model.state_dict())
    original = copy.deepcopy(model.state_dict())
    assert sbk.optimize(model) is model
    assert all_fused(model)
    assert_same(run(model, inputs), before)
    assert list(model.state_dict()) == keys
    assert isinstance(model, getattr(transformers, head))
    assert sbk.restore(model) is model
    assert torch.equal(run(model, inputs), before)
    assert all(torch.equal(original[k], v) for k, v in model.state_dict().items())
    assert not any(k.startswith("_sbk") for m in model.modules() for k in m.__dict__)
    assert (
        type(model.get_submodule("encoder" if head == HEADS[0] else "transformer.encoder")).__name__
        == "SqueezeBertEncoder"
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bert(attention):
    model = bert(attn_implementation=attention) if attention == "eager" else bert()
    for inputs in (batch(), batch(padded=False), {"input_ids": batch()["input_ids"]}):
        sbk.restore(model)
        before = run(model, inputs)
        sbk.optimize(model, strict=True)
        assert_same(run(model, inputs), before)
    assert all_fused(model)
    assert len(sbk.report(model).entries) == 2


def test_many_layers_are_all_reported():
    model = sbk.optimize(bert())
    model.encoder.layer.extend(copy.deepcopy(model.encoder.layer[0]) for _ in range(10))
    assert len(sbk.report(model).fused) == 12


@pytest.mark.parametrize(
    "changes",
    [
        dict(q_groups=1, k_groups=2, v_groups=4, post_attention_groups=2, intermediate_groups=4, output_groups=1),
        dict(q_groups=1, k_groups=1, v_groups=1, post_attention_groups=1, intermediate_groups=1, output_groups=1),
        dict(hidden_act="relu"), dict(hidden_act="gelu_new"), dict(hidden_act="gelu_pytorch_tanh"),
    ],
    ids=str,
)  # fmt: skip
def test_configurations(changes):
    model = squeezebert(**changes)
    before = run(model, batch())
    sbk.optimize(model, strict=True)
    assert_same(run(model, batch()), before)


def test_unknown_activation_gets_a_pass_of_its_own():
    model = squeezebert(hidden_act="silu")
    before = run(model, batch())
    sbk.optimize(model)
    assert_same(run(model, batch()), before)
    assert {e.state for e in sbk.report(model).entries} == {"partly"}
    assert "SiLU" in str(sbk.report(model))


def test_outputs_that_need_the_stock_path():
    model = squeezebert()
    stock = run_all(model)
    sbk.optimize(model)
    for a, b in zip(stock, run_all(model)):
        assert_same(a, b)
    assert all_fused(model)
    run(model, batch(), output_attentions=True)
    assert "attention scores" in sbk.report(model).fallbacks[0].reason
    run(model, batch())
    assert all_fused(model)


def run_all(model):
    with torch.no_grad():
        out = model(**batch(), output_attentions=True, output_hidden_states=True)
        hidden = model(**batch(), output_hidden_states=True, return_dict=False)
    return [out.last_hidden_state, *out.hidden_states, *out.attentions, *hidden[2]]


def test_bert_attentions():
    model = bert(attn_implementation="eager")
    with torch.no_grad():
        stock = model(**batch(), output_attentions=True, output_hidden_states=True)
        sbk.optimize(model)
        run(model, batch())
        assert all_fused(model)
        ours = model(**batch(), output_attentions=True, output_hidden_states=True)
        assert sbk.report(model).fallbacks
        after = model(**batch(), output_hidden_states=True)
    for a, b in zip((*stock.attentions, *stock.hidden_states, *stock.hidden_states),
                    (*ours.attentions, *ours.hidden_states, *after.hidden_states)):  # fmt: skip
        assert_same(a, b)
    run(model, batch())
    assert all_fused(model), sbk.report(model)


class Doubled(nn.Module):
    """Stands for a LoRA or quantized layer: wraps a projection and changes what it computes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    @property
    def weight(self):
        return self.inner.weight

    @property
    def bias(self):
        return self.inner.bias

    def forward(self, x):
        return self.inner(x) * 2


def change_hook(layer, conv, norm):
    conv.register_forward_hook(lambda module, args, output: output * 2)


def change_pre_hook(layer, conv, norm):
    layer.intermediate.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def change_norm_hook(layer, conv, norm):
    norm.register_forward_hook(lambda module, args, output: output + 1)


def change_spectral(layer, conv, norm):
    parametrizations.weight_norm(conv)
    with torch.no_grad():
        conv.parametrizations.weight.original0.mul_(3)


def change_old_weight_norm(layer, conv, norm):
    torch.nn.utils.weight_norm(conv)
    with torch.no_grad():
        conv.weight_g.mul_(3)


def change_forward(layer, conv, norm):
    stock = conv.forward
    conv.forward = lambda x: stock(x) * 2


def test_hooks_inside_attention_are_honoured():
    model = squeezebert()
    before = run(model, batch())
    sbk.optimize(model)
    run(model, batch())
    handle = model.encoder.layers[0].attention.softmax.register_forward_hook(lambda module, args, out: out * 0.5)
    assert not torch.allclose(run(model, batch()), before, atol=1e-3)
    assert "Softmax has hooks" in sbk.report(model).fallbacks[0].reason
    handle.remove()
    assert_same(run(model, batch()), before)
    model.encoder.layers[0].attention.softmax = nn.Identity()
    assert "Identity" in sbk.report(model).fallbacks[0].reason


def change_bias(layer, conv, norm):
    conv.bias = None


CHANGES = [change_hook, change_pre_hook, change_norm_hook, change_spectral, change_old_weight_norm, change_forward]


@pytest.mark.parametrize("make", [squeezebert, bert])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_children_that_do_more_are_honoured(make, change, when):
    model = make()
    plain = run(model, batch())
    stock = make()
    layer, owner, name, norm = parts(stock)
    change(layer, getattr(owner, name), norm)
    expected = run(stock, batch())
    assert not torch.allclose(plain, expected, atol=1e-3)

    if when == "after":
        sbk.optimize(model)
        run(model, batch())
    layer, owner, name, norm = parts(model)
    change(layer, getattr(owner, name), norm)
    sbk.optimize(model)
    assert_same(run(model, batch()), expected)
    fallbacks = sbk.report(model).fallbacks
    assert len(fallbacks) == 1
    assert fallbacks[0].reason
    with pytest.raises(RuntimeError, match=r"would not run fused: encoder\.layers?\.1: "):
        sbk.optimize(model, strict=True)


@pytest.mark.parametrize("make", [squeezebert, bert])
def test_replaced_projections_are_honoured(make):
    model = make()
    sbk.optimize(model)
    plain = run(model, batch())
    _, owner, name, _ = parts(model)
    setattr(owner, name, Doubled(getattr(owner, name)))
    changed = run(model, batch())
    assert not torch.allclose(plain, changed, atol=1e-3)
    assert "Doubled" in sbk.report(model).fallbacks[0].reason
    assert_same(changed, run(sbk.restore(model), batch()))


def test_missing_biases():
    model = squeezebert()
    change_bias(*[parts(model)[0], getattr(*parts(model)[1:3]), None])
    before = run(model, batch())
    sbk.optimize(model, strict=True)
    assert_same(run(model, batch()), before)


def test_dynamically_quantized_bert_falls_back():
    model = torch.ao.quantization.quantize_dynamic(bert(), {nn.Linear}, dtype=torch.qint8)
    before = run(model, batch())
    sbk.optimize(model)
    assert torch.equal(run(model, batch()), before)
    assert len(sbk.report(model).fallbacks) == 2


@pytest.mark.parametrize("make", [squeezebert, bert])
def test_gradients(make):
    stock, ours = make(), sbk.optimize(make())
    for model in (stock, ours):
        loss(model).backward()
    assert all_fused(ours)
    for (name, a), b in zip(stock.named_parameters(), ours.parameters()):
        if a.grad is not None:
            scale = float(a.grad.abs().max())
            torch.testing.assert_close(b.grad, a.grad, rtol=0, atol=1e-4 * scale + 1e-5, msg=name)


def test_training_mode_keeps_dropout():
    for fields in ({"hidden_dropout_prob": 0.5}, {"attention_probs_dropout_prob": 0.5}):
        fields = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **fields}
        for model in (squeezebert(**fields), bert(**fields)):
            sbk.optimize(model).train()
            assert all_fused(model)
            torch.manual_seed(0)
            first = run(model, batch())
            assert not torch.equal(first, run(model, batch()))
            torch.manual_seed(0)
            assert torch.equal(first, run(model, batch()))
            model.eval()
            assert torch.equal(run(model, batch()), run(model, batch()))
    model = sbk.optimize(squeezebert(), quantization="int8").train()
    assert "dropout 0.1 in int8" in sbk.report(model).fallbacks[0].reason
    assert not torch.equal(run(model, batch()), run(model, batch()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    exact = run(squeezebert(), batch())
    model = sbk.optimize(squeezebert().to(dtype))
    assert run(model, batch()).dtype == dtype
    torch.testing.assert_close(run(model, batch()).float(), exact, rtol=0, atol=40 * torch.finfo(dtype).eps)
    sbk.optimize(model, dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_same(run(model, batch()), run(squeezebert().to(dtype).float(), batch()))
    sbk.restore(model)
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_conversions_after_packing():
    model = sbk.optimize(squeezebert())
    exact = run(model, batch())
    assert_same(run(model.double(), batch()).float(), exact)
    assert "float64" in sbk.report(model).fallbacks[0].reason
    assert_same(run(model.float(), batch()), exact)
    assert all_fused(model)


def test_deepcopy_and_pickle():
    model = sbk.optimize(squeezebert())
    exact = run(model, batch())
    clone = copy.deepcopy(model)
    with torch.no_grad():
        changed_weight(clone).zero_()
    assert torch.equal(run(model, batch()), exact)
    assert not torch.equal(run(clone, batch()), exact)
    assert torch.equal(run(pickle.loads(pickle.dumps(model)), batch()), exact)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert len(buffer.getvalue()) < 2 * sum(p.numel() * 4 for p in model.parameters())
    buffer.seek(0)
    assert torch.equal(run(torch.load(buffer, weights_only=False), batch()), exact)


def test_save_pretrained_is_stock(tmp_path):
    model = squeezebert("SqueezeBertForMaskedLM")
    before = run(model, batch())
    sbk.optimize(model).save_pretrained(tmp_path)
    assert_same(run(transformers.SqueezeBertForMaskedLM.from_pretrained(tmp_path).eval(), batch()), before)


def test_inference_mode():
    model = sbk.optimize(squeezebert())
    with torch.inference_mode():
        exact = model(**batch())[0].clone()
    model(**batch())[0].sum().backward()  # the packed weights are no inference tensors
    with torch.inference_mode():
        born = sbk.optimize(squeezebert())
        assert torch.equal(born(**batch())[0], exact)
        changed_weight(born).mul_(2)  # inference tensors have no version
        assert not torch.equal(born(**batch())[0], exact)


def test_threads_share_a_model():
    model = sbk.optimize(squeezebert())
    exact = run(model, batch())
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(run(model, batch()) for _ in range(20))) for _ in range(4)
    ]
    sbk.restore(model)
    sbk.optimize(model)  # nothing packed: all threads pack at once
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 80
    assert all(torch.equal(r, exact) for r in results)


@pytest.mark.parametrize("make", [squeezebert, bert])
def test_compile_and_export(make):
    model = sbk.optimize(make())
    inputs = batch(padded=False)
    exact = run(model, inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_same(run(compiled, inputs), exact)
    assert_same(run(compiled, batch((2, 7), padded=False)), run(model, batch((2, 7), padded=False)))
    dims = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("length", max=64)}
    exported = torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, dims), strict=False).module()
    for shape in ((3, 11), (5, 9)):
        assert_same(exported(**batch(shape))[0], run(model, batch(shape)))


def test_gradient_checkpointing_of_bert():
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    stock, ours = bert(**no_dropout), sbk.optimize(bert(**no_dropout))
    for model in (stock, ours):
        model.train()
        model.gradient_checkpointing_enable()
        loss(model).backward()
    for a, b in zip(stock.parameters(), ours.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=0, atol=1e-4 * float(a.grad.abs().max()) + 1e-5)


def test_enable_and_disable(tmp_path):
    stock = squeezebert("SqueezeBertForSequenceClassification")
    stock.save_pretrained(tmp_path)
    exact = run(stock, batch())
    sbk.enable()
    sbk.enable()
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        assert all_fused(model)
        assert_same(run(model, batch()), exact)
        assert all_fused(bert())
    finally:
        sbk.disable()
    assert all_fused(model)
    assert sbk.report(bert()).fallbacks[0].reason.startswith("not optimized")
    assert sbk.report(transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)).fallbacks
    sbk.restore(model)
    assert sbk.report(model).fallbacks
    assert_same(run(model, batch()), exact)


def test_bad_arguments():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got dict"):
        sbk.optimize({})
    for function in (sbk.restore, sbk.report):
        with pytest.raises(TypeError, match="model must be a torch.nn.Module, got int"):
            function(3)
    with pytest.raises(TypeError, match="dtype must be a torch.dtype or None, got 'float32'"):
        sbk.optimize(squeezebert(), dtype="float32")
    with pytest.raises(ValueError, match="dtype=torch.int8 has no kernels"):
        sbk.optimize(squeezebert(), dtype=torch.int8)
    with pytest.raises(ValueError, match="quantization='int3'"):
        sbk.optimize(squeezebert(), quantization="int3")
    with pytest.raises(ValueError, match="nothing in Linear is for the kernels"):
        sbk.optimize(nn.Linear(3, 3))


def test_strict_leaves_the_model_as_it_was():
    model = squeezebert()
    change_hook(*[None, parts(model)[1].get_submodule("conv1d"), None])
    classes = [type(m) for m in model.modules()]
    with pytest.raises(RuntimeError, match="Conv1d has hooks"):
        sbk.optimize(model, strict=True, dtype=torch.float32)
    assert [type(m) for m in model.modules()] == classes
    assert not any(k.startswith("_sbk") for m in model.modules() for k in m.__dict__)


def test_report_is_readable():
    text = str(sbk.report(sbk.optimize(squeezebert())))
    for words in ("parts on the kernels", "encoder.layers.0", "ISA"):
        assert words in text
    assert "nothing in this model" in str(sbk.report(nn.Linear(2, 2)))


def test_report_of_a_stock_model_built_before_enable():
    model = bert()
    before = str(sbk.report(model))
    sbk.enable()
    try:
        assert str(sbk.report(model)) == before
        assert "not optimized" in before
    finally:
        sbk.disable()
