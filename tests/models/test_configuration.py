"""SqueezeBertConfig: transformers' fields, defaults and JSON; nonsense is refused by name and value."""

import copy
import json
import pickle

import pytest
import transformers
from support.hf_models import NO_GROUPS, PUBLISHED, TINY, ours

from squeezebert_kernels.models.configuration import SqueezeBertConfig
from squeezebert_kernels.models.heads import SqueezeBertModel


@pytest.mark.parametrize("fields", [{}, TINY, NO_GROUPS, PUBLISHED, {"num_labels": 5, "pad_token_id": 3}])
def test_same_fields_and_defaults_as_transformers(fields):
    assert SqueezeBertConfig(**fields).to_dict() == transformers.SqueezeBertConfig(**fields).to_dict()


def test_positional_order_is_that_of_transformers_4():
    config = SqueezeBertConfig(50, 8, 1, 2, 16, "relu", 0.0, 0.2, 7, 1, 0.3, 1e-3, 1, 8)
    assert (config.vocab_size, config.num_attention_heads, config.hidden_act) == (50, 2, "relu")
    assert (config.layer_norm_eps, config.pad_token_id, config.embedding_size) == (1e-3, 1, 8)


@pytest.mark.parametrize("fields", [{}, {**TINY, "num_labels": 3, "problem_type": "regression"}])
def test_json_round_trip_both_ways(tmp_path, fields):
    fields = {**fields, "tie_word_embeddings": False, "hidden_act": "relu"}
    mine, theirs = SqueezeBertConfig(**fields), transformers.SqueezeBertConfig(**fields)
    mine.save_pretrained(tmp_path / "mine")
    theirs.save_pretrained(tmp_path / "theirs")
    read = [json.loads((tmp_path / who / "config.json").read_text()) for who in ("mine", "theirs")]
    assert read[0] == read[1]
    back = transformers.AutoConfig.from_pretrained(tmp_path / "mine")
    again = SqueezeBertConfig.from_pretrained(tmp_path / "theirs")
    assert type(again) is SqueezeBertConfig
    for loaded, original in ((back, theirs), (again, mine)):
        loaded.name_or_path = ""
        assert loaded.to_dict() == original.to_dict()
    assert SqueezeBertConfig.from_pretrained(tmp_path / "theirs", num_hidden_layers=1).num_hidden_layers == 1


def test_auto_config_still_builds_the_class_of_transformers(tmp_path):
    SqueezeBertConfig().save_pretrained(tmp_path)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is transformers.SqueezeBertConfig
    assert type(transformers.AutoConfig.for_model("squeezebert")) is transformers.SqueezeBertConfig


def test_copies_and_pickles():
    config = SqueezeBertConfig(**TINY)
    assert copy.deepcopy(config).to_dict() == pickle.loads(pickle.dumps(config)).to_dict() == config.to_dict()


BAD = [
    ({"hidden_size": 770, "embedding_size": 770}, ValueError, r"hidden_size \(770\).*num_attention_heads \(12\)"),
    ({"embedding_size": 128}, ValueError, r"embedding_size \(128\).*hidden_size \(768\)"),
    ({"q_groups": 5}, ValueError, r"hidden_size \(768\).*q_groups \(5\)"),
    ({"k_groups": 7}, ValueError, r"hidden_size \(768\).*k_groups \(7\)"),
    ({"v_groups": 9}, ValueError, r"hidden_size \(768\).*v_groups \(9\)"),
    ({"post_attention_groups": 11}, ValueError, r"post_attention_groups \(11\)"),
    ({"intermediate_groups": 256, "intermediate_size": 3000}, ValueError, r"intermediate_size \(3000\).*\(256\)"),
    ({"output_groups": 1536}, ValueError, r"hidden_size \(768\).*output_groups \(1536\)"),
    ({"q_groups": 0}, ValueError, "q_groups must be at least 1, got 0"),
    ({"hidden_size": -768}, ValueError, "hidden_size must be at least 1, got -768"),
    ({"vocab_size": 0}, ValueError, "vocab_size must be at least 1, got 0"),
    ({"num_hidden_layers": -1}, ValueError, "num_hidden_layers must be at least 0, got -1"),
    ({"num_attention_heads": 0}, ValueError, "num_attention_heads must be at least 1, got 0"),
    ({"max_position_embeddings": 0}, ValueError, "max_position_embeddings"),
    ({"hidden_size": 768.0}, TypeError, "hidden_size must be an int, got 768.0"),
    ({"q_groups": True}, TypeError, "q_groups must be an int, got True"),
    ({"vocab_size": "30522"}, TypeError, "vocab_size must be an int, got '30522'"),
    ({"hidden_act": "geluu"}, ValueError, "hidden_act 'geluu' is unknown"),
    ({"hidden_act": abs}, TypeError, "hidden_act must be a str"),
    ({"hidden_dropout_prob": 1.5}, ValueError, r"hidden_dropout_prob must be in \[0.0, 1.0\], got 1.5"),
    ({"attention_probs_dropout_prob": -0.1}, ValueError, "attention_probs_dropout_prob.*-0.1"),
    ({"hidden_dropout_prob": None}, TypeError, "hidden_dropout_prob must be a number, got None"),
    ({"layer_norm_eps": float("nan")}, ValueError, "layer_norm_eps"),
    ({"initializer_range": -1.0}, ValueError, "initializer_range"),
    ({"pad_token_id": 30522}, ValueError, r"pad_token_id \(30522\).*vocab_size \(30522\)"),
]


@pytest.mark.parametrize(("fields", "error", "message"), BAD, ids=[str(fields)[:40] for fields, _, _ in BAD])
def test_nonsense_is_refused_by_name_and_value(fields, error, message):
    with pytest.raises(error, match=message):
        SqueezeBertConfig(**fields)


def test_models_check_the_configuration_of_transformers_too():
    config = transformers.SqueezeBertConfig(**{**TINY, "k_groups": 3})
    with pytest.raises(ValueError, match=r"k_groups \(3\)"):
        SqueezeBertModel(config)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_scores_can_be_switched_on_under_either_implementation(implementation):
    model = ours("SqueezeBertModel", **TINY, attn_implementation=implementation)
    assert model.config._attn_implementation == implementation
    model.config.output_attentions = True
    assert len(model(input_ids=model.dummy_inputs["input_ids"]).attentions) == TINY["num_hidden_layers"]


def test_a_configuration_of_another_model_is_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type 'bert', expected 'squeezebert'"):
        SqueezeBertConfig.from_pretrained(tmp_path)


def test_what_is_no_configuration_is_refused(tmp_path):
    with pytest.raises(TypeError, match="config must be a SqueezeBertConfig, got BertConfig"):
        SqueezeBertModel(transformers.BertConfig())
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="config.json holds no JSON object"):
        SqueezeBertConfig.from_pretrained(tmp_path)
