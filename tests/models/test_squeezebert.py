"""Our models on their own: masks, state, embeddings, checkpointing."""

import copy
import pickle

import pytest
import torch
import transformers
from support.hf_models import (
    HEADS,
    NO_DROPOUT,
    TINY,
    WITH_LOSS,
    inputs_for,
    labels_for,
    ours,
    pair,
    relative,
    stock,
    worst,
)
from torch import nn

from squeezebert_kernels.models.configuration import SqueezeBertConfig
from squeezebert_kernels.models.heads import ARCHITECTURES, SqueezeBertForMaskedLM
from squeezebert_kernels.models.squeezebert import SqueezeBertModel, SqueezeBertModule


@pytest.fixture(scope="module")
def model():
    return pair(**TINY)[1]


def hidden(model, **inputs):
    with torch.no_grad():
        return model(**inputs).last_hidden_state


# --- state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_state_dict_has_the_keys_and_shapes_of_transformers(name):
    theirs, mine = stock(name, **TINY).state_dict(), ours(name, **TINY).state_dict()
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}
    assert list(mine) == list(theirs)


def test_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = SqueezeBertModel(SqueezeBertConfig(vocab_size=30528))
    assert sum(p.numel() for p in model.parameters()) == 51_094_272
    assert model.encoder.layers[0].attention.query.weight.shape == (768, 192, 1)
    assert model.encoder.layers[11].intermediate.conv1d.weight.shape == (3072, 192, 1)


@pytest.mark.parametrize("name", HEADS)
def test_built_on_the_meta_device(name):
    with torch.device("meta"):
        empty = ARCHITECTURES[name](SqueezeBertConfig(**TINY))
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    inputs = {key: value.to("meta") for key, value in inputs_for(name).items()}
    assert empty.eval()(**inputs)[0].device.type == "meta"
    mine = ours(name, **TINY)
    empty.load_state_dict(mine.state_dict(), assign=True)
    assert relative(empty(**inputs_for(name))[0], mine(**inputs_for(name))[0]) == 0


def test_new_weights_are_initialised_as_the_configuration_says():
    model = ours("SqueezeBertForMaskedLM", **{**TINY, "vocab_size": 2000}, initializer_range=0.5)
    state = model.state_dict()
    assert 0.45 < state["transformer.embeddings.word_embeddings.weight"].std() < 0.55
    assert not state["transformer.embeddings.word_embeddings.weight"][0].any()
    for key, value in state.items():
        if key.endswith("bias"):
            assert not value.any(), key
        elif "ayer" in key and key.endswith(("orm.weight", "LayerNorm.weight")):
            assert (value == 1).all(), key
        elif key.endswith("conv1d.weight"):
            assert 0.3 < value.std() < 0.7, key


@pytest.mark.parametrize("name", HEADS)
def test_copies_and_pickles(name):
    mine, inputs = ours(name, **TINY), inputs_for(name)
    want = mine(**inputs)[0]
    for other in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert torch.equal(other(**inputs)[0], want)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        assert not torch.equal(other(**inputs)[0], want)
        assert torch.equal(mine(**inputs)[0], want)


def test_norms_in_the_encoder_keep_their_epsilon():
    models = pair(**TINY, layer_norm_eps=0.5)
    assert models[1].embeddings.LayerNorm.eps == 0.5
    assert {layer.output.layernorm.eps for layer in models[1].encoder.layers} == {1e-12}
    inputs = inputs_for("")
    assert worst(hidden(models[1], **inputs), hidden(models[0], **inputs)) <= 2e-5


# --- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [99, 120, 64])
def test_resized_embeddings_stay_tied(size):
    models = pair("SqueezeBertForMaskedLM", **TINY)
    for model in models:
        model.resize_token_embeddings(size, mean_resizing=False)
    _, mine = models
    predictions = mine.cls.predictions
    assert mine.config.vocab_size == size
    assert predictions.decoder.weight is mine.transformer.embeddings.word_embeddings.weight
    assert predictions.decoder.bias is predictions.bias
    assert predictions.bias.shape == (size,)
    inputs = inputs_for("", vocab=min(size, 99))
    out = mine(**inputs, labels=inputs["input_ids"])
    assert out.logits.shape[-1] == size
    old = min(size, 99)
    assert relative(out.logits[..., :old], models[0](**inputs).logits[..., :old]) <= 1e-4
    if size > 99:
        fresh = torch.full_like(inputs["input_ids"], size - 1)
        assert mine(input_ids=fresh).logits.isfinite().all()


def test_tying_is_what_the_configuration_says(tmp_path):
    tied, untied = (ours("SqueezeBertForMaskedLM", **TINY, tie_word_embeddings=tie) for tie in (True, False))
    words = untied.transformer.embeddings.word_embeddings.weight
    assert tied.cls.predictions.decoder.weight is tied.transformer.embeddings.word_embeddings.weight
    assert untied.cls.predictions.decoder.weight is not words
    with torch.no_grad():
        untied.cls.predictions.decoder.weight.add_(1.0)
    untied.save_pretrained(tmp_path)
    again = SqueezeBertForMaskedLM.from_pretrained(tmp_path)
    assert relative(again(**inputs_for("")).logits, untied(**inputs_for("")).logits) == 0
    theirs = transformers.SqueezeBertForMaskedLM.from_pretrained(tmp_path)
    assert relative(theirs(**inputs_for("")).logits, untied(**inputs_for("")).logits) <= 1e-4


def test_input_and_output_embeddings_can_be_replaced(model):
    model = copy.deepcopy(model)
    new = nn.Embedding(7, 32)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert hidden(model, input_ids=torch.tensor([[6]])).shape == (1, 1, 32)
    with pytest.raises(ValueError, match=r"input_ids must lie in \[0, vocab_size\) = \[0, 7\), got values from 7 to 7"):
        model(input_ids=torch.tensor([[7]]))
    lm = ours("SqueezeBertForMaskedLM", **TINY)
    decoder = nn.Linear(32, 99)
    lm.set_output_embeddings(decoder)
    assert lm.get_output_embeddings() is decoder
    assert lm.cls.predictions.bias is decoder.bias


def test_inputs_embeds_equal_their_ids(model):
    inputs = inputs_for("")
    ids = inputs.pop("input_ids")
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(hidden(model, inputs_embeds=embeds, **inputs), hidden(model, input_ids=ids, **inputs))
    half = hidden(model, inputs_embeds=embeds.half().detach(), **inputs)  # promoted, as the stock embeddings do
    assert half.dtype == torch.float32


def test_position_ids(model):
    theirs, mine = pair(**TINY)
    ids = inputs_for("")["input_ids"]
    default = hidden(mine, input_ids=ids)
    arange = torch.arange(17)
    for same in (arange, arange[None], arange.expand(3, -1), arange.int()):
        assert worst(hidden(mine, input_ids=ids, position_ids=same), default) <= 1e-6
    other = torch.arange(16, -1, -1)[None] + 400
    got = hidden(mine, input_ids=ids, position_ids=other)
    assert worst(got, default) > 1e-2
    assert worst(got, hidden(theirs, input_ids=ids, position_ids=other)) <= 2e-5


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.uint8, torch.bool, torch.float32, torch.float64])
def test_two_dimensional_masks_of_any_dtype(model, dtype):
    inputs = inputs_for("")
    want = hidden(model, **inputs)
    mask = inputs.pop("attention_mask")
    assert torch.equal(hidden(model, **inputs, attention_mask=mask.to(dtype)), want)
    longer = mask[1].sum()
    alone = hidden(
        model, input_ids=inputs["input_ids"][1:2, :longer], token_type_ids=inputs["token_type_ids"][1:2, :longer]
    )
    assert worst(want[1:2, :longer], alone) <= 2e-5  # padding changes nothing


def test_a_mask_without_padding_is_no_mask(model):
    ids = inputs_for("")["input_ids"]
    assert torch.equal(hidden(model, input_ids=ids), hidden(model, input_ids=ids, attention_mask=torch.ones(3, 17)))


def test_three_dimensional_masks(model):
    ids = inputs_for("")["input_ids"]
    causal = torch.ones(3, 17, 17).tril().long()
    got = hidden(model, input_ids=ids, attention_mask=causal)
    lowest = torch.finfo(torch.float32).min
    additive = torch.zeros(1, 1, 17, 17).masked_fill(causal[:1, None] == 0, lowest)
    assert torch.equal(got, hidden(model, input_ids=ids, attention_mask=additive))
    assert torch.equal(got, hidden(model, input_ids=ids, attention_mask=causal[:1]))
    # A causal model's first states do not see the later tokens.
    other = ids.clone()
    other[:, 9:] = 5
    changed = hidden(model, input_ids=other, attention_mask=causal)
    assert worst(changed[:, :9], got[:, :9]) <= 1e-6
    assert worst(changed[:, 9:], got[:, 9:]) > 1e-2


@pytest.mark.parametrize("shape", [(3, 1, 17, 17), (1, 1, 1, 17), (3, 4, 17, 17), (1, 4, 17, 1), (3, 1, 1, 17)])
def test_four_dimensional_masks_are_added_as_they_stand(shape):
    models = pair(**TINY)
    ids = inputs_for("")["input_ids"]
    mask = torch.randn(shape, generator=torch.Generator().manual_seed(4)) * 3
    for asked in ({}, {"output_attentions": True}):
        got = models[1](input_ids=ids, attention_mask=mask, **asked)
        if asked:
            plain = models[1](input_ids=ids, **asked)
            assert worst(got.attentions[0] - plain.attentions[0], mask.expand(3, 4, 17, 17)) <= 1e-5
        try:
            expected = hidden(models[0], input_ids=ids, attention_mask=mask)
        except ValueError as error:  # transformers before 5.12
            if "Wrong shape for input_ids" not in str(error):
                raise
        else:
            assert worst(got.last_hidden_state, expected) <= 2e-5


def test_boolean_four_dimensional_masks_say_where_to_attend(model):
    inputs = inputs_for("")
    want = hidden(model, **inputs)
    mask = inputs.pop("attention_mask").bool()[:, None, None, :]
    assert torch.equal(hidden(model, **inputs, attention_mask=mask), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_fully_masked_rows_give_no_nan(dtype):
    theirs, mine = (model.to(dtype) for model in pair(**TINY))
    ids = inputs_for("")["input_ids"]
    mask = torch.ones(3, 17, dtype=torch.long)
    mask[1] = 0
    for asked in ({}, {"output_attentions": True}):
        got = mine(input_ids=ids, attention_mask=mask, **asked)
        assert got.last_hidden_state.isfinite().all()
    if dtype in (torch.float32, torch.float64):
        assert worst(got.last_hidden_state, hidden(theirs, input_ids=ids, attention_mask=mask)) <= 2e-5
    wide = torch.zeros(3, 1, 1, 17, dtype=torch.float64).masked_fill(
        mask[:, None, None] == 0, torch.finfo(torch.float64).min
    )
    assert hidden(mine, input_ids=ids, attention_mask=wide).isfinite().all()


def test_empty_batch(model):
    out = model(input_ids=torch.zeros(0, 5, dtype=torch.long), attention_mask=torch.zeros(0, 5))
    assert out.last_hidden_state.shape == (0, 5, 32)
    assert out.pooler_output.shape == (0, 32)


# --- how layers run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", [None, "eager", "sdpa"])
def test_attention_implementations_agree(implementation):
    theirs, mine = (
        stock("SqueezeBertModel", **TINY),
        ours("SqueezeBertModel", **TINY, attn_implementation=implementation),
    )
    mine.load_state_dict(theirs.state_dict())
    mine.encoder.layers[0].attention.register_forward_hook(lambda *_: None)  # one layer child by child
    assert worst(hidden(mine, **inputs_for("")), hidden(theirs, **inputs_for(""))) <= 2e-5


def test_unknown_attention_implementations_are_refused():
    with pytest.raises(ValueError, match="no_such"):
        ours("SqueezeBertModel", **TINY, attn_implementation="no_such")


CHILDREN = [
    "encoder.layers.1",
    *(
        f"encoder.layers.1.{name}"
        for name, module in SqueezeBertModule(SqueezeBertConfig(**TINY)).named_modules()
        if name
    ),
    "embeddings.word_embeddings",
    "embeddings.LayerNorm",
    "pooler.dense",
]


@pytest.mark.parametrize("child", CHILDREN)
def test_hooks_on_every_module_fire_and_count(child):
    model = pair(**TINY)[1]
    want = hidden(model, **inputs_for(""))
    calls = []
    handle = model.get_submodule(child).register_forward_hook(lambda *args: calls.append(args))
    assert worst(hidden(model, **inputs_for("")), want) <= 2e-5
    assert len(calls) == 1
    handle.remove()
    model.get_submodule(child).register_forward_hook(lambda module, args, output: output * 0 + 0.5)
    out = model(**inputs_for(""))
    assert worst(out.last_hidden_state, want) > 1e-4 or child == "pooler.dense"


def test_replaced_children_are_called():
    model = pair(**TINY)[1]
    want = hidden(model, **inputs_for(""))

    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    layer = model.encoder.layers[2]
    for owner, name in ((layer.attention, "value"), (layer.output, "conv1d"), (layer.intermediate, "act")):
        original = getattr(owner, name)
        setattr(owner, name, Doubled(original))
        assert worst(hidden(model, **inputs_for("")), want) > 1e-3, name
        setattr(owner, name, original)
        assert torch.equal(hidden(model, **inputs_for("")), want)


def test_dropout_works_in_training_only():
    model = ours("SqueezeBertModel", **TINY, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    inputs = inputs_for("")
    assert torch.equal(hidden(model, **inputs), hidden(model, **inputs))
    model.train()
    torch.manual_seed(0)
    first = hidden(model, **inputs)
    assert not torch.equal(first, hidden(model, **inputs))
    torch.manual_seed(0)
    assert torch.equal(first, hidden(model, **inputs))
    assert worst(model.eval()(**inputs).last_hidden_state, first) > 1e-2


@pytest.mark.parametrize("which", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_either_dropout_alone_acts_in_every_layer(which):
    fields = {**TINY, "num_hidden_layers": 1, **NO_DROPOUT, which: 0.9}
    model = ours("SqueezeBertModel", **fields).train()
    inputs = inputs_for("", ragged=False)
    layer = model.encoder.layers[0]
    states = torch.randn(3, 17, 32)
    assert not torch.equal(layer(states), layer(states))
    assert model(**inputs).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_no_gradient(reentrant, dropout):
    fields = {**TINY, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    plain = ours("SqueezeBertForMaskedLM", **fields).train()
    saved = copy.deepcopy(plain)
    saved.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert saved.is_gradient_checkpointing
    runs = []
    # A pre-hook sees the recomputation too, where a forward hook is stopped short of it. Its layer does not run fused:
    # dropout is torch's there, in both models.
    saved.transformer.encoder.layers[1].attention.register_forward_pre_hook(lambda *_: runs.append(1))
    plain.transformer.encoder.layers[1].attention.register_forward_pre_hook(lambda *_: None)
    inputs = {**inputs_for(""), **labels_for("SqueezeBertForMaskedLM")}
    for model in (plain, saved):
        torch.manual_seed(7)
        model(**inputs).loss.backward()
    assert len(runs) == 2
    for (name, want), got in zip(plain.named_parameters(), saved.parameters()):
        if "pooler" in name:
            assert got.grad is None
            continue
        assert relative(got.grad, want.grad) <= 1e-5 or worst(got.grad, want.grad) <= 1e-8, name
    saved.gradient_checkpointing_disable()
    saved(**inputs).loss.backward()
    assert len(runs) == 3
    saved.eval()
    saved.gradient_checkpointing_enable()
    saved(**inputs)
    assert len(runs) == 4


@pytest.mark.parametrize("name", WITH_LOSS)
def test_a_head_learns(name):
    model = ours(name, **TINY, **NO_DROPOUT).train()
    inputs = {**inputs_for(name), **labels_for(name)}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    # Weights changed in place after packing: the fused path must see them.
    model.eval()
    with torch.no_grad():
        fused = model(**inputs).loss
        composed = model(**inputs, output_attentions=True).loss
    assert relative(fused, composed) <= 1e-4


def test_frozen_parameters_get_no_gradient():
    model = ours("SqueezeBertForSequenceClassification", **TINY, **NO_DROPOUT).train()
    for parameter in model.transformer.parameters():
        parameter.requires_grad_(False)
    model.transformer.encoder.layers[2].attention.key.weight.requires_grad_(True)
    model(**inputs_for(""), labels=torch.tensor([0, 1, 0])).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {
        "classifier.weight",
        "classifier.bias",
        "transformer.encoder.layers.2.attention.key.weight",
    }
