"""LoRA of peft on the drop-in class and under optimize(): the same numbers as on transformers' own model."""

import copy
import warnings

import peft
import pytest
import torch
from support.distributed_worker import counted
from support.hf_models import NO_DROPOUT, TINY, inputs_for, labels_for, ours, pair, relative, worst

import squeezebert_kernels as sbk

HEAD = "SqueezeBertForSequenceClassification"
FIELDS = {**TINY, **NO_DROPOUT, "num_hidden_layers": 2, "post_attention_groups": 1}  # as the published model has it
INPUTS = {**inputs_for(HEAD), **labels_for(HEAD)}
TOLERANCE = 64 * torch.finfo(torch.float32).eps

ATTENTION = ["attention.query", "attention.value"]
"""Of 2 groups: the rank must be a multiple of that, and what was learnt cannot be merged (see docs/distributed.md)."""
POST = ["post_attention.conv1d"]


def with_lora(model, targets, seed=3):
    """``model`` with LoRA weights that do something, in training mode."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Merging is not supported.*")
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return adapted.train()


def models():
    """(transformers' model, the drop-in class, an optimized model of transformers) with the same weights."""
    theirs, mine = pair(HEAD, **FIELDS)
    return theirs, mine, sbk.optimize(copy.deepcopy(theirs))


def loss_and_gradients(model):
    loss = model(**INPUTS).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("which", [1, 2], ids=["drop-in", "optimized"])
@pytest.mark.parametrize("targets", [ATTENTION, POST], ids=["attention", "post"])
def test_gradients_are_those_of_transformers(which, targets):
    all_models = models()
    expected_loss, expected = loss_and_gradients(with_lora(all_models[0], targets))
    loss, grads = loss_and_gradients(with_lora(all_models[which], targets))
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE)
    assert len(expected) == 2 * 2 * len(targets)  # layers, A and B
    assert all("lora_" in name for name in expected)
    assert grads.keys() == expected.keys()
    assert max(relative(grads[name], expected[name]) for name in expected) < TOLERANCE


@pytest.mark.parametrize("targets", [ATTENTION, POST], ids=["attention", "post"])
def test_frozen_and_learnt_convolutions_of_the_drop_in_class_run_on_the_kernels(targets):
    model, ops = with_lora(ours(HEAD, **FIELDS), targets), {}
    with counted(ops):
        model(**INPUTS)
    assert sum(ops.values()) == 2 * (6 + 2 * len(targets))
    fallbacks = sbk.report(model).fallbacks
    assert [entry.reason for entry in fallbacks] == 2 * [
        "a projection is a peft.tuners.lora.layer.Conv1d, not a plain convolution or linear layer"
    ]


def test_under_optimize_a_layer_with_lora_is_transformers_own_and_reported():
    model, ops = with_lora(models()[2], ATTENTION), {}
    with counted(ops):
        model(**INPUTS)
    assert ops == {}
    assert [entry.state for entry in sbk.report(model).entries] == ["fallback", "fallback"]


def test_training_changes_only_lora_weights():
    model = with_lora(ours(HEAD, **FIELDS), ATTENTION)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(4):
        loss, _ = loss_and_gradients(model)
        losses.append(loss)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.001
    changed = {name for name, p in model.named_parameters() if worst(p, before[name]) > 0}
    assert changed == {name for name in before if "lora_" in name}


@pytest.mark.parametrize("which", [1, 2], ids=["drop-in", "optimized"])
def test_a_merged_model_fuses_again(which):
    model = models()[which]
    with torch.no_grad():
        before = model(**INPUTS).logits  # packs the weights that merging will change
        adapted = with_lora(model, POST).eval()
        expected = adapted(**INPUTS).logits
        merged = adapted.merge_and_unload()
        assert sbk.report(merged).fallbacks == ()
        got = merged(**INPUTS).logits
    assert worst(expected, before) > 0.01
    assert relative(got, expected) < TOLERANCE


@pytest.mark.parametrize("which", [1, 2], ids=["drop-in", "optimized"])
def test_grouped_convolutions_cannot_be_merged_and_an_unloaded_model_fuses_again(which):
    model = models()[which]
    with torch.no_grad():
        before = model(**INPUTS).logits
        adapted = with_lora(model, ATTENTION).eval()
        with pytest.raises(NotImplementedError, match="groups > 1"):
            adapted.merge_and_unload()
        unloaded = adapted.unload()
        assert sbk.report(unloaded).fallbacks == ()
        assert relative(unloaded(**INPUTS).logits, before) < TOLERANCE


OTHERS = {
    "DoRA": lambda: peft.LoraConfig(r=4, use_dora=True, target_modules=ATTENTION),
    "LoHa": lambda: peft.LoHaConfig(r=4, target_modules=ATTENTION),
    "LoKr": lambda: peft.LoKrConfig(r=4, target_modules=ATTENTION),
    "IA3": lambda: peft.IA3Config(target_modules=ATTENTION, feedforward_modules=[]),
    "OFT": lambda: peft.OFTConfig(r=4, oft_block_size=0, target_modules=ATTENTION),
    "AdaLoRA": lambda: peft.AdaLoraConfig(target_modules=ATTENTION, total_step=10),
}
"""Adapters that look at the layout of what a convolution gives, or at its class."""


def with_adapter(model, config):
    """``model`` with an adapter that does something; or why peft refuses it, without the names of classes."""
    try:
        adapted = peft.get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        return type(error)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return adapted


@pytest.mark.parametrize("which", [1, 2], ids=["drop-in", "optimized"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_adapters_do_what_they_do_to_transformers(name, which):
    """Also where the length equals the channels, so that no shape tells one layout from the other."""
    all_models = [with_adapter(model, OTHERS[name]()) for model in models()]
    expected_model, model = all_models[0], all_models[which]
    if isinstance(expected_model, type):
        assert model is expected_model
        return
    square = torch.arange(TINY["hidden_size"])[None] % TINY["vocab_size"]
    for inputs in (INPUTS, {"input_ids": square, "labels": torch.tensor([1])}):
        with torch.no_grad():
            expected, got = expected_model(**inputs).logits, model(**inputs).logits
        assert relative(got, expected) < TOLERANCE
    expected_loss, expected_grads = loss_and_gradients(expected_model.train())
    loss, grads = loss_and_gradients(model.train())
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE)
    assert grads.keys() == expected_grads.keys()
    assert max(relative(grads[key], expected_grads[key]) for key in expected_grads) < TOLERANCE
