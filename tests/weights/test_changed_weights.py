"""Packed weights follow the parameters, however those change."""

import pytest
import torch
from support.optimized_models import assert_same, batch, bert, changed_weight, run, squeezebert
from torch._subclasses.fake_tensor import FakeTensorMode

import squeezebert_kernels as sbk
from squeezebert_kernels.fusion.stock_classes import SQUEEZEBERT
from squeezebert_kernels.layers.fused_layer import _Record


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.data.mul_(2),
        lambda w: w.mul_(2),
        lambda w: w.copy_(torch.zeros_like(w)),
        lambda w: w[0].fill_(3),
        lambda w: setattr(w, "data", w.data * 2),
    ],
)
@pytest.mark.parametrize("make", [squeezebert, bert])
def test_changed_weights_are_seen(make, change):
    model = sbk.optimize(make())
    before = run(model, batch())
    with torch.no_grad():
        change(changed_weight(model))
    after = run(model, batch())
    assert not torch.allclose(before, after, atol=1e-4)
    assert_same(after, run(sbk.restore(model), batch()))


def test_weights_that_come_and_go_are_seen():
    """New tensors take the addresses and version numbers of dead ones; one changed value is not in the sample."""
    model = sbk.optimize(squeezebert())
    stock = squeezebert()
    name = "encoder.layers.0.attention.value.weight"
    base = dict(model.named_parameters())[name].detach()
    for i in range(20):
        weight = base.clone()
        weight.view(-1)[i * 7] += 10.0
        with torch.no_grad():
            actual = torch.func.functional_call(model, {name: weight}, (), batch())[0]
            expected = torch.func.functional_call(stock, {name: weight}, (), batch())[0]
        assert_same(actual, expected)
        del weight


def test_load_state_dict_and_an_optimizer_step_are_seen():
    model, other = sbk.optimize(squeezebert()), squeezebert()
    run(model, batch())
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    model.load_state_dict(other.state_dict())
    assert_same(run(model, batch()), run(other, batch()))
    for m in (model, other):
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1)
        m(**batch())[0].square().mean().backward()
        optimizer.step()
    assert_same(run(model, batch()), run(other, batch()))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_fused_optimizers(optimizer):
    """They change parameters without counting it as a change."""
    models = squeezebert(), sbk.optimize(squeezebert())
    for model in models:
        run(model, batch())
        weight = model.encoder.layers[0].output.conv1d.weight
        weight.grad = torch.zeros_like(weight)
        weight.grad[7, 3] = 1
        optimizer([weight], lr=1.0, fused=True).step()
    assert_same(*(run(model, batch()) for model in models))


def test_parameters_can_be_swapped():
    model = sbk.optimize(squeezebert())
    run(model, batch())
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert run(model, batch()).dtype == torch.float64


def test_a_run_with_fake_tensors_leaves_nothing_behind():
    conv = sbk.GroupedPointwiseConv1d(16, 16, groups=2)
    x = torch.randn(2, 16, 5)
    with torch.no_grad():
        for _ in range(2):  # before anything is packed, and after
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                assert conv(mode.from_tensor(x)).shape == x.shape
            assert type(conv(x)) is torch.Tensor


def test_an_equal_parameter_of_one_element_is_another():
    """Of larger ones a comparison raises; of this one it would say that nothing has changed."""
    module = torch.nn.Sequential(torch.nn.Linear(1, 1))
    record = _Record([module], SQUEEZEBERT)
    assert record.fits([module])
    module[0].weight = torch.nn.Parameter(module[0].weight.detach().clone())
    assert not record.fits([module])


UNSEEN = {
    "one value": lambda w: w.data[7, 3].add_(1.0),
    "one row": lambda w: w.detach().numpy()[5].fill(1.0),
    "one column": lambda w: w.detach().numpy()[:, 5].fill(1.0),
}


@pytest.mark.parametrize("change", UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize("options", [{}, {"quantization": "int8"}, {"dtype": torch.bfloat16}], ids=str)
@pytest.mark.parametrize("name", ["query", "output"])
def test_small_weights_that_torch_does_not_see_change(change, options, name):
    model = sbk.optimize(bert(), **options)
    layer = model.encoder.layer[1]
    before = run(model, batch())
    change((layer.attention.self.query if name == "query" else layer.output.dense).weight)
    after = run(model, batch())
    assert not torch.equal(after, before)
    assert torch.equal(after, run(sbk.optimize(sbk.restore(model), **options), batch()))


def large():
    """A convolution of 1.5 MB: 384 pieces, of which a call with 128 tokens looks at 6."""
    torch.manual_seed(0)
    return sbk.GroupedPointwiseConv1d(512, 768).eval(), torch.randn(1, 512, 128)


@pytest.mark.parametrize("at", [(0, 0), (-1, -1), (333, 250)])
def test_one_value_of_a_large_weight_is_seen_within_8192_tokens(at):
    conv, x = large()
    with torch.no_grad():
        conv(x)
        conv.weight.data[at] += 10.0
        expected = torch.nn.functional.conv1d(x, conv.weight, conv.bias)
        seen = [torch.allclose(conv(x), expected, atol=1e-3) for _ in range(64)]
    assert seen[-1]
    assert seen == sorted(seen)  # never the old ones again


def test_weights_changed():
    model = sbk.optimize(bert())
    assert sbk.weights_changed(model) == []  # nothing is packed yet
    run(model, batch())
    assert sbk.weights_changed(model) == []
    model.encoder.layer[1].output.dense.weight.data[3, 3] += 1
    assert sbk.weights_changed(model) == ["encoder.layer.1"]
    assert_same(run(model, batch()), run(sbk.restore(model), batch()))
    conv, x = large()
    with torch.no_grad():
        conv(x)
        conv.weight.data[333, 250] += 10.0
        assert sbk.weights_changed(torch.nn.ModuleList([conv])) == ["0"]
        assert_same(conv(x), torch.nn.functional.conv1d(x, conv.weight, conv.bias), 1e-3)
    frozen = sbk.optimize(bert(), free_original=True)
    run(frozen, batch())
    assert sbk.weights_changed(frozen) == []
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got str"):
        sbk.weights_changed("model")
