"""The files of sentence-transformers: what is read from them, and what is refused by name."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file
from support.sentence import KINDS, flags, pool, sentence_checkpoint, write_json

from squeezebert_kernels.models.pooling import POOLING, pooled
from squeezebert_kernels.models.sentence_config import SentenceConfig, read_sentence_config
from squeezebert_kernels.models.sentence_head import SentenceHead

DENSE = {"in_features": 32, "out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
SBERT, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"


@pytest.fixture
def base(tmp_path):
    (tmp_path / "base").mkdir()
    return tmp_path / "base"


def test_a_checkpoint_without_the_files(base):
    assert read_sentence_config(base).chosen() == SentenceConfig().chosen()
    write_json(base / "1_Pooling/config.json", flags("cls_token"))
    with pytest.raises(ValueError, match=re.escape("there is 1_Pooling, but no modules.json")):
        read_sentence_config(base)


@pytest.mark.parametrize(
    "files, message",
    [
        ({"1_Pooling/config.json": {"pooling_mode": "median"}}, "1_Pooling/config.json: pooling_mode 'median' is not"),
        ({"1_Pooling/config.json": {"pooling_mode": []}}, "pooling_mode [] is not supported"),
        ({"1_Pooling/config.json": {"pooling_mode": ["cls", 3]}}, "pooling_mode ['cls', 3] is not supported"),
        ({"1_Pooling/config.json": {"pooling_mode_new_tokens": True}}, "pooling_mode_new_tokens=True is not supported"),
        ({"1_Pooling/config.json": {"pooling_mode_cls_token": "yes"}}, "pooling_mode_cls_token is 'yes', which is not"),
        ({"1_Pooling/config.json": [1]}, "1_Pooling/config.json holds a list, not an object"),
        ({SBERT: {"max_seq_length": 0}}, "max_seq_length is 0, it must be at least 1"),
        ({SBERT: {"max_seq_length": 2.5}}, "max_seq_length is 2.5, which is not understood"),
        ({SBERT: {"max_seq_length": True}}, "max_seq_length is True, which is not understood"),
        ({SBERT: {"transformer_task": "fill-mask"}}, "transformer_task='fill-mask' is not supported"),
        ({SBERT: {"module_output_name": "sentence_embedding"}}, "module_output_name='sentence_embedding' is not"),
        ({SBERT: {"modality_config": {"message": {}}}}, "modality_config={'message': {}} is not supported"),
        ({SBERT: {"tokenizer_args": {"truncation_side": "left"}}}, "truncation_side='left' in processor_kwargs is not"),
        ({SBERT: {"model_args": {"num_hidden_layers": 2}}}, "num_hidden_layers=2 in model_kwargs is not supported"),
        ({SBERT: {"config_args": {"hidden_act": "relu"}}}, "config_args={'hidden_act': 'relu'} is not supported"),
        ({SBERT: {"processing_kwargs": {"text": {"max_length": 3}}}}, "processing_kwargs="),
        ({SBERT: {"query_length": 32}}, "query_length=32 is not supported"),
        ({PROMPTS: {"model_type": "SparseEncoder"}}, "model_type='SparseEncoder' is not supported"),
        ({PROMPTS: {"default_prompt_name": "q"}}, "default_prompt_name 'q' is none of 'query', 'document'"),
        ({PROMPTS: {"prompts": {"q": 1}}}, "the prompt 'q' is no text"),
        ({PROMPTS: {"truncate_dim": -1}}, "truncate_dim is -1"),
        ({"modules.json": {}}, "modules.json holds a dict, not a list"),
        ({"modules.json": [1]}, "modules.json: 1 is no module"),
        ({"modules.json": []}, "modules.json: nothing is not supported"),
        ({"modules.json": [{"type": "custom_st.Transformer", "path": ""}]}, "'custom_st.Transformer' is the check"),
        ({"modules.json": [{"type": KINDS + "CLIPModel", "path": ""}]}, "modules.json: CLIPModel is not supported"),
        ({"modules.json": [{"type": KINDS + "Transformer", "path": ""}]}, "modules.json: Transformer is not supported"),
        ({"modules.json": [{"type": KINDS + "Transformer", "path": "../x"}]}, "the path '../x' leads out of the"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(base, tmp_path, files, message):
    folder = sentence_checkpoint(base, tmp_path / "model", flags("cls_token"))
    assert read_sentence_config(folder).pooling == ("cls",)
    for name, value in files.items():
        write_json(folder / name, value)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_sentence_config(folder)


@pytest.mark.parametrize(
    "kind, config, message",
    [
        ("WordWeights", {}, "modules.json: the module WordWeights behind Pooling is not supported"),
        ("Pooling", {}, "modules.json: the module Pooling behind Pooling is not supported"),
        ("Normalize", {"module_input_name": "token_embeddings"}, "module_input_name='token_embeddings' is not"),
        ("Dense", None, "2_Dense/config.json is missing"),
        ("Dense", {**DENSE, "activation_function": "custom.Swish"}, "activation_function 'custom.Swish' is not"),
        ("Dense", {**DENSE, "gate": True}, "gate=True is not supported"),
    ],
)
def test_modules_that_are_refused(base, tmp_path, kind, config, message):
    files = {} if config is None else {f"2_{kind}/config.json": config}
    folder = sentence_checkpoint(base, tmp_path / "model", flags("cls_token"), behind=[kind], files=files)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_sentence_config(folder)


def test_damaged_json_is_named(base, tmp_path):
    folder = sentence_checkpoint(base, tmp_path / "model", flags("cls_token"))
    for name in ("modules.json", "1_Pooling/config.json"):
        kept = (folder / name).read_bytes()
        for damaged in (b"{", b"\xff\xfe", b"[" * 100000):
            (folder / name).write_bytes(damaged)
            with pytest.raises(ValueError, match=f"{name} cannot be read"):
                read_sentence_config(folder)
        (folder / name).write_bytes(kept)


def test_weights_of_a_dense_layer_are_checked(base, tmp_path):
    folder = sentence_checkpoint(
        base, tmp_path / "model", flags("cls_token"), behind=["Dense"], files={"2_Dense/config.json": DENSE}
    )
    file = folder / "2_Dense/model.safetensors"

    def message() -> str:
        with pytest.raises(ValueError) as error:
            SentenceHead(read_sentence_config(folder), folder, 32)
        return str(error.value)

    assert SentenceHead(read_sentence_config(folder), folder, 32).width == 8
    kept = file.read_bytes()
    save_file({"linear.weight": torch.zeros(9, 32), "linear.bias": torch.zeros(8)}, file)
    assert "'linear.weight': (9, 32)" in message()
    save_file({"linear.weight": torch.zeros(8, 32)}, file)
    assert "not {'linear.weight': (8, 32), 'linear.bias': (8,)}" in message()
    file.write_bytes(kept[:40])
    assert "cannot be read" in message()
    file.unlink()
    assert "2_Dense has no model.safetensors or pytorch_model.bin" in message()
    torch.save(
        {"linear.weight": torch.zeros(8, 32), "linear.bias": torch.ones(8)}, folder / "2_Dense/pytorch_model.bin"
    )
    head = SentenceHead(read_sentence_config(folder), folder, 32)
    assert torch.equal(head(torch.rand(2, 3, 32), torch.ones(2, 3)), torch.tanh(torch.ones(2, 8)))
    for activation in ("Softmin2", "MultiheadAttention", "Threshold"):
        path = f"torch.nn.modules.activation.{activation}"
        write_json(folder / "2_Dense/config.json", {**DENSE, "activation_function": path})
        assert f"activation_function {activation!r} is not supported" in message()
    write_json(folder / "2_Dense/config.json", {**DENSE, "activation_function": "torch.nn.modules.activation.PReLU"})
    assert "'activation_function.weight': (1,)" in message(), "the checkpoint has no slope for it"
    write_json(folder / "2_Dense/config.json", {**DENSE, "out_features": 1 << 50})
    assert "not {'linear.weight': (1125899906842624, 32)" in message()


def test_layer_norm(base, tmp_path):
    files = {"2_LayerNorm/config.json": {"dimension": 32}}
    folder = sentence_checkpoint(base, tmp_path / "model", flags("cls_token"), behind=["LayerNorm"], files=files)
    weights = {"norm.weight": torch.rand(32), "norm.bias": torch.rand(32)}
    save_file(weights, folder / "2_LayerNorm/model.safetensors")
    hidden = torch.randn(2, 3, 32)
    want = torch.nn.functional.layer_norm(hidden[:, 0], [32], *weights.values())
    got = SentenceHead(read_sentence_config(folder), folder, 32)(hidden, torch.ones(2, 3))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", POOLING)
def test_pooling_counts_real_tokens_only(kind):
    hidden = torch.randn(3, 7, 5) - 1  # all negative channels: padding, 0, would win a maximum
    mask = torch.zeros(3, 7, dtype=torch.long)
    for row, count in enumerate((7, 1, 4)):
        mask[row, :count] = 1
        hidden[row, count:] = 0
    want = torch.stack([pool(hidden[row, :count], kind) for row, count in enumerate((7, 1, 4))])
    torch.testing.assert_close(pooled(hidden, mask, kind, normalize=False), want)


def test_a_pooling_that_is_not_known():
    for names in ("median", (), ["mean", "median"]):
        with pytest.raises(ValueError, match="pooling must be of mean, cls, max"):
            pooled(torch.zeros(1, 1, 1), torch.ones(1, 1), names)
