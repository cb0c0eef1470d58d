"""What the Hugging Face documentation of SqueezeBERT tells its users holds for our classes."""

import warnings

import pytest
import torch
import transformers
from support.hf_models import TINY, WITH_LOSS, inputs_for, worst

import squeezebert_kernels as sbk
from squeezebert_kernels.models.heads import ARCHITECTURES

TOKENIZERS = (sbk.SqueezeBertTokenizer, sbk.SqueezeBertTokenizerFast)
TEXTS = ["a short one", "a text that has some more words than the other"]


# "SqueezeBERT is a model with absolute position embeddings, so it's usually advised to pad the inputs on the right."


@pytest.mark.parametrize("tokenizer_class", TOKENIZERS)
def test_padding_is_on_the_right_unless_asked_otherwise(tokenizer_class, bert_vocab, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = tokenizer_class(bert_vocab)
        tokenizer.save_pretrained(tmp_path)
        loaded = tokenizer_class.from_pretrained(tmp_path)
        for one in (tokenizer, loaded):
            assert one.padding_side == "right"
            mask = one(TEXTS, padding=True, return_tensors="pt")["attention_mask"]
            assert mask.tolist() == mask.sort(dim=1, descending=True).values.tolist()
            assert not mask.all()


@pytest.mark.parametrize("tokenizer_class", TOKENIZERS)
def test_padding_on_the_left_warns_once_where_it_is_asked_for(tokenizer_class, bert_vocab):
    with pytest.warns(UserWarning, match="padding_side") as caught:
        tokenizer = tokenizer_class(bert_vocab, padding_side="left")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = tokenizer(TEXTS, padding=True, return_tensors="pt")["attention_mask"]
    assert mask[0, 0] == 0


def test_padding_on_the_right_changes_nothing_and_on_the_left_it_does(bert_vocab):
    """Why the tip is given: positions are numbered from the first column, padding included."""
    model = sbk.SqueezeBertModel(sbk.SqueezeBertConfig(**TINY | {"vocab_size": 30522})).eval()
    tokenizer = sbk.SqueezeBertTokenizer(bert_vocab)
    with torch.inference_mode():
        alone = model(**tokenizer(TEXTS[:1], return_tensors="pt")).pooler_output
        right = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).pooler_output[:1]
        with pytest.warns(UserWarning, match="padding_side"):
            inputs = tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
        inputs["input_ids"] = inputs["input_ids"][:1]
        hidden = model(inputs["input_ids"], inputs["attention_mask"][:1]).last_hidden_state
        first = inputs["attention_mask"][0].argmax()
        left = model.pooler(hidden[:, first:])
    assert worst(right, alone) < 1e-5
    assert worst(left, alone) > 1e-3


# "For best results when finetuning on sequence classification tasks, it is recommended to start with the
# squeezebert/squeezebert-mnli-headless checkpoint."


@pytest.fixture
def transformers_log(caplog):
    """What transformers logs, at the level that its users have."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.enable_propagation()
    yield caplog
    transformers.utils.logging.disable_propagation()
    transformers.utils.logging.set_verbosity(level)


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("name", WITH_LOSS)
def test_every_head_starts_from_a_headless_checkpoint(name, prefix, tmp_path, transformers_log):
    torch.manual_seed(3)
    encoder = sbk.SqueezeBertModel(sbk.SqueezeBertConfig(**TINY)).eval()
    with torch.no_grad():  # no weight is left as a new model would have it
        for parameter in encoder.parameters():
            parameter.add_(torch.rand_like(parameter), alpha=0.1)
    encoder.config.architectures = ["SqueezeBertModel"]
    encoder.config.save_pretrained(tmp_path)
    state = {prefix + key: value.half() for key, value in encoder.state_dict().items()}
    torch.save(state, tmp_path / "pytorch_model.bin")

    model = ARCHITECTURES[name].from_pretrained(tmp_path).eval()
    loaded = model.transformer.state_dict()
    assert loaded.keys() == encoder.state_dict().keys()
    for key, value in loaded.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[prefix + key].float()), key

    # The head is new, and transformers says so, weight by weight.
    new = {key for key in model.state_dict() if not key.startswith("transformer.")}
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert new
    for key in new - tied:
        assert key in transformers_log.text
    assert "newly initialized" in transformers_log.text.lower() or "MISSING" in transformers_log.text
    assert not any(key in transformers_log.text for key in loaded if key.startswith("encoder."))
    for key, value in model.state_dict().items():
        if key in new and key.endswith("bias"):
            assert not value.any(), key
        elif key in new - tied and "LayerNorm" not in key:
            assert 0 < value.std() < 2 * model.config.initializer_range, key

    with torch.inference_mode():
        inputs = inputs_for(name)
        flat = {key: value.flatten(0, -2) for key, value in inputs.items()}
        hidden = encoder.float()(**flat).last_hidden_state
        mine = model.transformer(**flat).last_hidden_state
        assert worst(mine, hidden) < 2e-2  # of float16
        assert torch.isfinite(model(**inputs)[0]).all()
