"""Packed weights follow the parameters, however those change."""

import pytest
import torch
from test_optimize import assert_same, batch, bert, run, squeezebert, weights

import squeezebert_kernels as sbk


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
        change(weights(model))
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
