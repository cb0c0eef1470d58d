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
