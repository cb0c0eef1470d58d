"""What the fused kernels must not stand in for: found in every call, reported as it is now."""

import functools

import pytest
import torch
import transformers
from support.optimized_models import all_fused, assert_same, batch, bert, run, squeezebert
from torch import nn
from transformers.models.bert import modeling_bert
from transformers.models.squeezebert import modeling_squeezebert

import squeezebert_kernels as sbk
from squeezebert_kernels.compat import TRANSFORMERS_5


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
        (squeezebert, transformers.activations.GELUActivation),
        (bert, nn.LayerNorm),
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
        return tuple(t if t is None else t * 2 for t in out) if isinstance(out, tuple) else out * 2

    # Wrapped as decorators do it, so that it claims to come from the same module.
    monkeypatch.setattr(owner, "forward", functools.wraps(stock)(doubled))
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
    model = sbk.optimize(squeezebert(hidden_dropout_prob=0.1), quantization="int8")
    run(model.train(), batch())
    assert reasons(model) == ["training with dropout 0.1 in int8"] * 2
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


@pytest.mark.parametrize(
    ("make", "owner", "name"),
    [
        (squeezebert, modeling_squeezebert.SqueezeBertSelfAttention, "transpose_for_scores"),
        (bert, modeling_bert.BertLayer, "feed_forward_chunk"),
    ],
)
def test_methods_of_classes_patched(make, owner, name, monkeypatch):
    model, before = sbk.optimize(make()), run(make(), batch())
    stock = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda self, x: stock(self, x).flip(-1))
    patched = run(make(), batch())
    assert not torch.allclose(patched, before, atol=1e-4)
    assert_same(run(model, batch()), patched)
    assert reasons(model) == [f"{owner.__name__} is patched"] * 2


# transformers' own SqueezeBERT cannot do it in float16.
@pytest.mark.parametrize(
    ("make", "dtype"), [(squeezebert, torch.bfloat16), (bert, torch.bfloat16), (bert, torch.float16)]
)
def test_layer_norms_in_another_dtype(make, dtype):
    """As peft prepares models for training."""

    def prepared():
        model = make().to(dtype)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.float()
        return model

    stock = prepared()
    assert_same(run(sbk.optimize(prepared()), batch()), run(stock, batch()))


@pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4 asks the dropout module")
def test_dropout_follows_the_attention_of_transformers_5():
    model = sbk.optimize(bert(attention_probs_dropout_prob=0.5).train())
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    assert all_fused(model)
    assert not torch.equal(run(model, batch()), run(model, batch()))


def test_hooks_on_an_activation_see_its_layout():
    model = squeezebert(hidden_act="silu")
    shapes = []
    model.encoder.layers[0].intermediate.act.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape)))
    run(model, batch())
    run(sbk.optimize(model), batch())
    assert shapes == [(3, 64, 11)] * 2


def test_subclasses_built_under_enable():
    sbk.enable()
    try:

        class Mine(modeling_bert.BertLayer):
            def feed_forward_chunk(self, attention_output):
                return super().feed_forward_chunk(attention_output).flip(-1)

    finally:
        sbk.disable()
    model = bert()
    mine = Mine(model.config).eval()
    mine.load_state_dict(model.encoder.layer[0].state_dict())
    before = run(model, batch())
    model.encoder.layer[0] = mine
    assert not torch.allclose(run(model, batch()), before, atol=1e-3)
    assert reasons(model)[0] == "Mine is a subclass that the kernels do not know"


@pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4 refuses boolean masks")
def test_a_boolean_mask_under_eager_attention():
    model, inputs = bert(attn_implementation="eager"), batch()
    inputs["attention_mask"] = inputs["attention_mask"].bool()[:, None, None]
    before = run(model, inputs)
    assert_same(run(sbk.optimize(model), inputs), before)
    assert "a boolean mask under eager attention" in reasons(model)[0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16])
def test_masks_that_an_encoder_adds_as_they_stand(dtype):
    encoder = squeezebert().encoder
    hidden, mask = torch.randn(3, 11, 32), batch()["attention_mask"][:, None, None].to(dtype)
    with torch.no_grad():
        before = encoder(hidden, mask).last_hidden_state
        assert_same(sbk.optimize(encoder)(hidden, mask).last_hidden_state, before)
    assert "attention_mask has dtype" in reasons(encoder)[0]


def test_patched_forwards_are_reported():
    model = sbk.optimize(squeezebert())
    model.encoder.forward = model.encoder.forward
    assert reasons(model) == ["FusedSqueezeBertEncoder.forward is patched"] * 2
    mine = sbk.SqueezeBertModel(model.config).eval()
    layer = mine.encoder.layers[0]
    layer.forward = layer.forward
    assert reasons(mine) == ["SqueezeBertModule.forward is not its own"]
    assert torch.isfinite(run(mine, batch())).all()


def test_own_convs_with_few_channels_run_on_the_kernels():
    conv = sbk.GroupedPointwiseConv1d(8, 8, groups=4)
    conv(torch.randn(1, 8, 3))
    assert all_fused(conv)


def test_restore_after_parametrizing():
    net = sbk.optimize(nn.Sequential(nn.Conv1d(16, 16, 1, groups=2)))
    nn.utils.parametrizations.weight_norm(net[0])
    x = torch.randn(2, 16, 5)
    before = net(x)
    assert_same(sbk.restore(net)(x), before)
    nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    assert type(sbk.restore(net)[0]) is nn.Conv1d
    assert_same(net(x), before)


def test_dtypes_come_back_through_any_root():
    model = squeezebert().half()
    sbk.optimize(model.encoder, dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float16, torch.float32}
    sbk.restore(nn.Sequential(model))
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert not any(key.startswith("_sbk") for m in model.modules() for key in m.__dict__)


def test_gradients_are_converted_too():
    model = bert().bfloat16()
    model(**batch())[0].sum().backward()
    for expected, change in ((torch.float32, sbk.optimize), (torch.bfloat16, sbk.restore)):
        change(model, **({"dtype": torch.float32} if change is sbk.optimize else {}))
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {expected}


def test_a_conversion_that_fails_is_rolled_back():
    class Stubborn(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") == "to":
                raise MemoryError("no more")
            return super().__torch_function__(function, types, args, kwargs or {})

    model = nn.Sequential(squeezebert().half(), nn.Module())
    model[1].weight = nn.Parameter(torch.randn(3).half().as_subclass(Stubborn), requires_grad=False)
    with pytest.raises(MemoryError):
        sbk.optimize(model, dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
