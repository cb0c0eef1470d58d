"""A model lives as long as its users, whatever refers back to it: hooks, attributes, replaced methods."""

from __future__ import annotations

import copy
import functools
import gc
import io
import pickle
import weakref

import pytest
import torch
from support.hf_models import TINY, ours, stock
from torch import nn
from transformers import BertConfig, BertModel

import squeezebert_kernels as sbk
from squeezebert_kernels.layers.call_cache import CallCache, call_cache
from squeezebert_kernels.layers.fused_layer import last_fallback
from squeezebert_kernels.layers.marks import CALL_CACHE

IDS = torch.ones(1, 4, dtype=torch.long)


def bert(**options):
    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    return sbk.optimize(BertModel(config).eval(), **options)


MODELS = {
    "bert": bert,
    "bert int8": lambda: bert(quantization="int8"),
    "bert, one copy": lambda: bert(free_original=True),
    "squeezebert": lambda: sbk.optimize(stock("SqueezeBertModel", **TINY)),
    "drop-in": lambda: ours("SqueezeBertModel", **TINY),
    "drop-in, padding": lambda: sbk.optimize(ours("SqueezeBertModel", **TINY), skip_padding=True),
}


class Extractor:
    """The usual helper that collects activations."""

    def __init__(self, model):
        self.model, self.got = model, []
        for module in model.modules():
            module.register_forward_hook(lambda *args: self.got.append(args[2]))


def attributes(model):
    for module in model.modules():
        module.__dict__["top"] = model  # nn.Module would take it for a child


def children_outside(model):
    for module in model.modules():
        module.__dict__["all"] = [model]


def methods(model):
    for module in model.modules():
        module.forward = functools.partial(lambda model, forward, *a, **k: forward(*a, **k), model, module.forward)


def accelerate_hooks(model):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for module in model.modules():
        add_hook_to_module(module, AlignDevicesHook(io_same_device=True))
        module._hf_hook.model = model


BACK = {
    "nothing": lambda model: None,
    "hooks": Extractor,
    "attributes": attributes,
    "attributes in a list": children_outside,
    "methods": methods,
    "accelerate": accelerate_hooks,
}


@pytest.mark.parametrize("back", BACK)
@pytest.mark.parametrize("name", MODELS)
def test_the_last_user_takes_it_along(name, back):
    if back == "accelerate":
        pytest.importorskip("accelerate")
    model = MODELS[name]()
    with torch.no_grad():
        model(IDS)
        BACK[back](model)
        model(IDS)
        model(IDS, attention_mask=torch.ones(1, 4))
    sbk.report(model)
    gone = [weakref.ref(module) for module in model.modules()]
    del model
    gc.collect()
    assert not any(ref() for ref in gone)


@pytest.mark.parametrize("name", MODELS)
def test_without_circles_it_dies_at_once(name):
    """Not when Python next looks for circles: a model may be gigabytes."""
    model = MODELS[name]()
    with torch.no_grad():
        model(IDS)
        model.encoder(torch.randn(1, 4, model.config.hidden_size))
    gone = [weakref.ref(module) for module in model.encoder.modules()]
    gc.collect()
    gc.disable()
    try:
        del model
        assert not any(ref() for ref in gone)
    finally:
        gc.enable()


def copies(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return {
        "deepcopy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "torch.save": torch.load(file, weights_only=False),
    }


def caches_in(model):
    """As they lie there, another module's too."""
    return [module.__dict__[CALL_CACHE] for module in model.modules() if CALL_CACHE in module.__dict__]


@pytest.mark.parametrize("name", MODELS)
def test_copies_begin_anew(name):
    model = MODELS[name]()
    with torch.no_grad():
        expected = model(IDS).last_hidden_state
        assert any(cache.plan or cache.plans for cache in caches_in(model))
        for how, other in copies(model).items():
            assert not any(cache.plan or cache.plans for cache in caches_in(other)), how
            assert torch.equal(other(IDS).last_hidden_state, expected), how


def test_a_shallow_copy_has_a_cache_of_its_own():
    layer = nn.Linear(2, 2)
    call_cache(layer).fallback = "a reason"
    other = copy.copy(layer)
    assert other.__dict__[CALL_CACHE] is layer.__dict__[CALL_CACHE]
    assert last_fallback(other) is None
    call_cache(other).fallback = "another"
    assert last_fallback(layer) == "a reason"


def test_replicas_of_data_parallel_run_with_their_own_weights():
    """torch.nn.DataParallel copies modules shallowly and gives the copies other tensors."""
    model = MODELS["bert"]()
    with torch.no_grad():
        model(IDS)
        layer = model.encoder.layer[0]
        replica = layer._replicate_for_data_parallel()
        x = torch.randn(1, 4, 64)
        parts = {name: copy.deepcopy(child) for name, child in layer.named_children()}
        replica._modules = parts
        for parameter in replica.parameters():
            parameter.mul_(0.5)
        want = copy.deepcopy(layer)
        want.load_state_dict(replica.state_dict())
        assert torch.equal(replica(x)[0], want(x)[0])
        assert not torch.equal(replica(x)[0], layer(x)[0])


def test_restore_leaves_nothing():
    model = MODELS["bert"]()
    with torch.no_grad():
        model(IDS)
    assert isinstance(model.encoder.layer[0].__dict__[CALL_CACHE], CallCache)
    sbk.restore(model)
    assert not any(key.startswith("_sbk") for module in model.modules() for key in module.__dict__)
