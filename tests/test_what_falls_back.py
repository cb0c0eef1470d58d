"""What the fused kernels must not stand in for: found in every call, reported as it is now."""

import pytest
import torch
from test_optimize import all_fused, assert_same, batch, bert, run, squeezebert
from torch import nn
from transformers.models.bert import modeling_bert
from transformers.models.squeezebert import modeling_squeezebert

import squeezebert_kernels as sbk
from squeezebert_kernels.configuration import TRANSFORMERS_5


def reasons(model):
    return [e.reason for e in sbk.report(model).fallbacks]


def batch_norm():
    norm = nn.BatchNorm1d(64).eval()
    norm.running_mean.normal_()
    return nn.Sequential(nn.GELU(), norm)


def prelu():
    activation = nn.PReLU(64)
    nn.init.normal_(activation.weight)
    return activation


@pytest.mark.parametrize("make", [prelu, batch_norm, lambda: nn.Softmax(dim=1), lambda: lambda x: x.softmax(1)])
def test_activations_that_depend_on_the_layout(make):
    torch.manual_seed(0)
    model, activation = squeezebert(), make()
    layer = model.encoder.layers[0].intermediate
    del layer.act
    layer.act = activation
    before = run(model, batch())
    assert_same(run(sbk.optimize(model), batch()), before)
    assert [("may depend on the layout" in reason) for reason in reasons(model)] == [True]


@pytest.mark.parametrize("activation", [nn.PReLU(), nn.SiLU(), nn.ReLU6()])
def test_activations_that_do_not(activation):
    model = squeezebert()
    model.encoder.layers[0].intermediate.act = activation
    before = run(model, batch())
    assert_same(run(sbk.optimize(model), batch()), before)
    assert [e.state for e in sbk.report(model).entries] == ["partly", "fused"]


def test_helper_methods_patched():
    model = squeezebert()
    attention = model.encoder.layers[1].attention
    stock = attention.transpose_for_scores
    attention.transpose_for_scores = lambda x: stock(x) * 2
    before = run(model, batch())
    assert_same(run(sbk.optimize(model), batch()), before)
    assert reasons(model) == ["SqueezeBertSelfAttention.transpose_for_scores is patched"]


@pytest.mark.parametrize(
    ("make", "owner"),
    [
        (squeezebert, modeling_squeezebert.SqueezeBertSelfAttention),
        (squeezebert, modeling_squeezebert.SqueezeBertModule),
        (bert, modeling_bert.BertSelfOutput),
        (bert, modeling_bert.BertLayer),
        (squeezebert, nn.Conv1d),
    ],
)
def test_classes_patched(make, owner, monkeypatch):
    model = sbk.optimize(make())
    run(model, batch())
    stock = owner.forward

    def doubled(self, *args, **kwargs):
        out = stock(self, *args, **kwargs)
        if isinstance(out, dict):
            return {name: value * 2 for name, value in out.items()}
        return tuple(t * 2 for t in out) if isinstance(out, tuple) else out * 2

    monkeypatch.setattr(owner, "forward", doubled)
    assert_same(run(model, batch()), run(make(), batch()))
    assert len(reasons(model)) == 2
    monkeypatch.undo()
    run(model, batch())
    assert all_fused(model)


@pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4 chooses attention by class")
def test_attention_of_ones_own():
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def mine(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention_forward(module, query, key * 2, value * 3, attention_mask, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("mine", mine)
    model = bert()
    model.config._attn_implementation = "mine"
    before = run(model, batch(padded=False))
    assert_same(run(sbk.optimize(model), batch(padded=False)), before)
    assert reasons(model) == ["attention implementation 'mine'"] * 2
    scaled = bert(attn_implementation="eager")
    scaled.encoder.layer[0].attention.self.scaling = 5.0
    before = run(scaled, batch())
    assert_same(run(sbk.optimize(scaled), batch()), before)
    assert reasons(scaled) == ["attention scaling is 5.0, not 1/sqrt(8)"]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_sequence_of_padding_only(implementation):
    inputs = batch()
    inputs["attention_mask"][0] = 0
    model = bert(attn_implementation=implementation)
    before = run(model, inputs)
    assert_same(run(sbk.optimize(model), inputs), before)
    assert all_fused(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_same(run(compiled, inputs), before)


def test_the_report_is_of_now():
    model = sbk.optimize(squeezebert(hidden_dropout_prob=0.1))
    run(model.train(), batch())
    assert reasons(model) == ["training with dropout 0.1"] * 2
    model.eval()
    assert all_fused(model)
    run(model, batch(), output_attentions=True)
    assert reasons(model) == ["in the last call: attention scores or a head mask were asked for"] * 2
    assert all_fused(sbk.optimize(model, strict=True))


def test_float64_models_are_converted_first():
    model = sbk.optimize(squeezebert().double(), dtype=torch.float32, strict=True)
    assert all_fused(model)
    assert run(sbk.restore(model), batch()).dtype == torch.float64
    convs = nn.Sequential(nn.Conv1d(32, 32, 1, groups=4)).double()
    assert type(sbk.optimize(convs, dtype=torch.float32)[0]) is sbk.GroupedPointwiseConv1d


def test_a_refused_conversion_leaves_every_bit():
    model = squeezebert().double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1e-12)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.encoder.layers[1].attention.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="has hooks"):
        sbk.optimize(model, dtype=torch.float32, strict=True)
    assert all(torch.equal(t, before[name]) and t.dtype == before[name].dtype for name, t in model.state_dict().items())
