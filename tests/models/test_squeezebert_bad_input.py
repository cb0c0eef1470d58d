"""Every kind of bad input to our models is refused by name and value, before anything is computed."""

import inspect
import re

import pytest
import torch
import transformers
from support.hf_models import HEADS, TINY, WITH_LOSS, inputs_for, labels_for, ours, pair

from squeezebert_kernels.models.heads import ARCHITECTURES
from squeezebert_kernels.models.squeezebert import SqueezeBertModel


@pytest.fixture(scope="module")
def model():
    return pair(**TINY)[1]


IDS = torch.ones(2, 6, dtype=torch.long)
BAD = [
    ({}, ValueError, "either input_ids or inputs_embeds, got neither"),
    ({"input_ids": IDS, "inputs_embeds": torch.zeros(2, 6, 32)}, ValueError, "got both"),
    ({"input_ids": IDS[0]}, ValueError, r"input_ids must be \[batch, length\], got shape \[6\]"),
    ({"input_ids": IDS[None]}, ValueError, r"input_ids must be .* got shape \[1, 2, 6\]"),
    ({"input_ids": [[1, 2]]}, TypeError, "input_ids must be a torch.Tensor, got list"),
    ({"input_ids": IDS.float()}, TypeError, "input_ids must have dtype int64 or int32, got torch.float32"),
    ({"input_ids": IDS.bool()}, TypeError, "input_ids must have dtype int64 or int32, got torch.bool"),
    ({"input_ids": IDS * 99}, ValueError, r"input_ids must lie in .*\[0, 99\), got values from 99 to 99"),
    ({"input_ids": IDS - 3}, ValueError, r"input_ids must lie in .*got values from -2 to -2"),
    ({"input_ids": IDS[:, :0]}, ValueError, r"input_ids has shape \[2, 0\]"),
    ({"input_ids": IDS[:, :1].expand(2, 513)}, ValueError, r"length 513.*max_position_embeddings \(512\)"),
    ({"input_ids": IDS.to("meta")}, ValueError, "input_ids is on meta, but the model is on cpu"),
    (
        {"inputs_embeds": torch.zeros(2, 6)},
        ValueError,
        r"inputs_embeds must be \[batch, length, 32\], got shape \[2, 6\]",
    ),
    ({"inputs_embeds": torch.zeros(2, 6, 31)}, ValueError, r"inputs_embeds must be .*\[2, 6, 31\]"),
    ({"inputs_embeds": torch.zeros(2, 6, 32).long()}, TypeError, "inputs_embeds must have a floating dtype"),
    ({"inputs_embeds": torch.zeros(2, 6, 32).double()}, ValueError, "inputs_embeds has dtype torch.float64.*float32"),
    ({"inputs_embeds": torch.zeros(2, 600, 32)}, ValueError, "inputs_embeds has length 600"),
    ({"input_ids": IDS, "token_type_ids": IDS * 2}, ValueError, r"token_type_ids must lie in .*\[0, 2\).*2 to 2"),
    ({"input_ids": IDS, "token_type_ids": IDS[:, :5]}, ValueError, r"token_type_ids must be \[2, 6\].*\[2, 5\]"),
    ({"input_ids": IDS, "token_type_ids": IDS[:1].expand(3, 6)}, ValueError, r"token_type_ids .*\[3, 6\]"),
    ({"input_ids": IDS, "token_type_ids": IDS.float()}, TypeError, "token_type_ids must have dtype"),
    ({"input_ids": IDS, "position_ids": IDS * 512}, ValueError, r"position_ids must lie in .*512 to 512"),
    ({"input_ids": IDS, "position_ids": torch.arange(5)}, ValueError, r"position_ids must be .*got shape \[5\]"),
    ({"input_ids": IDS, "attention_mask": torch.ones(2, 5)}, ValueError, r"attention_mask must be \[2, 6\].*\[2, 5\]"),
    ({"input_ids": IDS, "attention_mask": torch.ones(3, 6)}, ValueError, r"attention_mask .*got shape \[3, 6\]"),
    ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 6)}, ValueError, r"attention_mask .*got shape \[2, 1, 6\]"),
    ({"input_ids": IDS, "attention_mask": torch.ones(2, 3, 6, 6)}, ValueError, r"attention_mask .*\[2, 3, 6, 6\]"),
    ({"input_ids": IDS, "attention_mask": torch.ones(6)}, ValueError, r"attention_mask .*got shape \[6\]"),
    ({"input_ids": IDS, "attention_mask": [[1] * 6] * 2}, TypeError, "attention_mask must be a torch.Tensor, got list"),
    ({"input_ids": IDS, "attention_mask": torch.ones(2, 6).to("meta")}, ValueError, "attention_mask is on meta"),
    ({"input_ids": IDS, "head_mask": torch.ones(3, 4)}, ValueError, "head_mask is not supported"),
    ({"input_ids": IDS.to_sparse()}, TypeError, "input_ids must be a dense .*sparse"),
    ({"input_ids": torch.nested.nested_tensor([IDS[0], IDS[1]])}, TypeError, "input_ids must be a dense .*nested"),
    ({"input_ids": IDS, "attention_mask": torch.ones(2, 6).to_sparse()}, TypeError, "attention_mask must be a dense"),
    ({"input_ids": IDS, "heads_mask": None}, TypeError, "heads_mask"),
]


@pytest.mark.parametrize(("inputs", "error", "message"), BAD, ids=[f"{i}-{m[:30]}" for i, (_, _, m) in enumerate(BAD)])
def test_bad_input_is_refused_by_name_and_value(model, inputs, error, message):
    with pytest.raises(error, match=message):
        model(**inputs)


@pytest.mark.parametrize("name", WITH_LOSS)
def test_heads_refuse_bad_input_too(name):
    model = ours(name, **TINY)
    inputs = inputs_for(name)
    with pytest.raises(ValueError, match=r"input_ids must be .*\[17\]"):
        model(input_ids=torch.ones(17, dtype=torch.long))
    with pytest.raises(ValueError, match="attention_mask must be"):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"][..., 1:])
    with pytest.raises(ValueError, match="head_mask"):
        model(**inputs, head_mask=[torch.ones(4)])
    with pytest.raises(ValueError, match="got neither"):
        model()
    model(**inputs, head_mask=[None] * 3)


def _labels(name):
    good = labels_for(name)
    key = next(iter(good))
    return key, good, good[key]


@pytest.mark.parametrize("name", WITH_LOSS)
def test_bad_labels_are_refused_by_name_and_value(name):
    model = ours(name, **TINY)
    key, good, labels = _labels(name)
    with pytest.raises(ValueError, match=rf"{key} must have shape .*got \[{labels.shape[0] - 1}"):
        model(**inputs_for(name), **{**good, key: labels[1:]})
    with pytest.raises(TypeError, match=f"{key} must be a torch.Tensor, got list"):
        model(**inputs_for(name), **{**good, key: labels.tolist()})
    if name != "SqueezeBertForQuestionAnswering":  # which clamps
        with pytest.raises(ValueError, match=rf"{key} must lie in \[0, \d+\) or be -100, got 1000"):
            model(**inputs_for(name), **{key: torch.full_like(labels, 1000)})
    if name in ("SqueezeBertForMaskedLM", "SqueezeBertForTokenClassification"):
        with pytest.raises(TypeError, match="labels must hold class numbers"):
            model(**inputs_for(name), labels=labels.float())


@pytest.mark.parametrize("name", ["SqueezeBertForMaskedLM", "SqueezeBertForTokenClassification"])
def test_flat_labels_are_taken_as_transformers_takes_them(name):
    model = ours(name, **TINY)
    _, _, labels = _labels(name)
    losses = [model(**inputs_for(name), labels=given).loss for given in (labels, labels.flatten())]
    assert torch.equal(*losses)


def test_nothing_is_computed_for_bad_input(model):
    calls = []
    handle = model.embeddings.register_forward_pre_hook(lambda *_: calls.append(1))
    for inputs, error, message in BAD:
        with pytest.raises(error, match=message):
            model(**inputs)
    handle.remove()
    assert not calls


def test_question_answering_needs_two_labels():
    with pytest.raises(ValueError, match="num_labels must be 2 .* got 3"):
        ours("SqueezeBertForQuestionAnswering", **TINY, num_labels=3)


def test_forward_takes_the_arguments_of_transformers():
    for name in HEADS:
        theirs = inspect.signature(getattr(transformers, name).forward).parameters
        mine = inspect.signature(ARCHITECTURES[name].forward).parameters
        wanted = [key for key in theirs if key not in ("kwargs", "head_mask")]
        assert [key for key in mine if key != "head_mask"] == wanted
        assert "head_mask" in mine


def test_public_docstrings_name_their_errors():
    assert re.search(r"Raises:.*ValueError", SqueezeBertModel.forward.__doc__, re.DOTALL)
