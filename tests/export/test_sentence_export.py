"""A checkpoint with sentence-transformers' files as a .sbk file: sbk-run --embedding gives their vectors or refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.hf_models import TINY, stock
from support.programs import run
from support.sentence import flags, hidden_states, in_a_folder_of_its_own, pool, sentence_checkpoint, write_json

import squeezebert_kernels as sbk
from squeezebert_kernels.cli import main
from squeezebert_kernels.export.sbk_file import export

TEXTS = ["It rains in Spain.", "MIXED Case", " ".join(f"number {i}" for i in range(60))]
DENSE = {"in_features": 32, "out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
PROMPTS = {"prompts": {"query": "find: "}, "default_prompt_name": "query"}


@pytest.fixture(scope="module")
def base(tmp_path_factory, bert_vocab) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    fields = {**TINY, "vocab_size": 30522, "num_hidden_layers": 1, "max_position_embeddings": 48}
    stock("SqueezeBertModel", **fields).save_pretrained(folder)
    sbk.SqueezeBertTokenizer(str(bert_vocab)).save_pretrained(folder)
    return folder


def embedding(file: Path, text: str) -> list[float]:
    done = run("sbk-run", "--embedding", file, text)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["cls", "mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_are_those_of_the_checkpoint(base, tmp_path, kind, normalize):
    pooling = {"embedding_dimension": 32, "pooling_mode": kind}
    length = 9 if normalize else 48
    files = {"sentence_bert_config.json": {"max_seq_length": length if normalize else None}}
    behind = ["Normalize"] if normalize else []
    folder = sentence_checkpoint(base, tmp_path / "model", pooling, behind=behind, files=files)
    assert export(folder, tmp_path / "model.sbk", tier="scalar") == []
    for text, hidden in zip(TEXTS, hidden_states(base, TEXTS, length)):
        want = pool(hidden, kind)
        if normalize:
            want = torch.nn.functional.normalize(want, dim=0)
        np.testing.assert_allclose(embedding(tmp_path / "model.sbk", text), want, atol=2e-5 * want.abs().max().item())


def test_lower_case(base, tmp_path, bert_vocab):
    files = {"sentence_bert_config.json": {"do_lower_case": True}}
    folder = sentence_checkpoint(base, tmp_path / "model", flags("mean_tokens"), files=files)
    sbk.SqueezeBertTokenizer(str(bert_vocab), do_lower_case=False, strip_accents=True).save_pretrained(folder)
    export(folder, tmp_path / "model.sbk", tier="scalar")
    assert embedding(tmp_path / "model.sbk", "MIXED Case") == embedding(tmp_path / "model.sbk", "mixed case")


@pytest.mark.parametrize(
    "pooling, behind, files, reason",
    [
        (flags("max_tokens"), [], {}, "1_Pooling/config.json: pooling max"),
        (flags("mean_tokens", "cls_token"), [], {}, "1_Pooling/config.json: pooling cls,mean"),
        ({"pooling_mode": ["[red]", 1]}, [], {}, "1_Pooling/config.json: pooling_mode ['[red]', 1] is not supported"),
        (flags(), ["Dense"], {"2_Dense/config.json": DENSE}, "modules.json: Dense(32, 8, Tanh)"),
        (flags(), ["WordWeights"], {}, "modules.json: the module WordWeights behind Pooling is not supported"),
        (
            flags(),
            [],
            {"config_sentence_transformers.json": PROMPTS},
            "config_sentence_transformers.json: default_prompt_name 'query': the prompt 'find: '",
        ),
    ],
)
def test_what_a_file_cannot_say_is_refused_by_name(base, tmp_path, capsys, pooling, behind, files, reason):
    folder = sentence_checkpoint(base, tmp_path / "model", pooling, behind=behind, files=files)
    file = tmp_path / "model.sbk"
    assert main(["export", str(folder), str(file), "--tier", "scalar"]) == 0
    assert f"note: sbk-run --embedding will refuse the file: {reason}" in capsys.readouterr().out.replace("\n", " ")
    done = run("sbk-run", "--embedding", file, "It rains.")
    assert done.returncode == 1
    assert reason in done.stderr
    assert run("sbk-run", file, "It rains.").returncode == 0, "all but the embedding is there"


def test_a_checkpoint_that_lost_its_modules(base, tmp_path):
    folder = sentence_checkpoint(base, tmp_path / "model", flags("cls_token"))
    (folder / "modules.json").unlink()
    notes = export(folder, tmp_path / "model.sbk", tier="scalar")
    assert notes == [
        "sbk-run --embedding will refuse the file: there is 1_Pooling, but no modules.json, which says how it is used"
    ]


def test_an_encoder_in_a_folder_of_its_own(base, tmp_path):
    folder = in_a_folder_of_its_own(sentence_checkpoint(base, tmp_path / "model", flags("cls_token")))
    assert export(folder, tmp_path / "model.sbk", tier="scalar") == []
    assert len(embedding(tmp_path / "model.sbk", TEXTS[0])) == 32


@pytest.mark.parametrize(
    "said, message",
    [
        ({"pooling": 3}, "sentence_embedding: pooling must be a string"),
        ({"max_length": 0}, "sentence_embedding: max_length must be a whole number from 1"),
        ({"unsupported": []}, "sentence_embedding: unsupported must be a string"),
        (None, ""),
        ({"pooling": "cls", "max_length": 1000, "normalize": None}, ""),
    ],
)
def test_a_configuration_that_says_nonsense_does_not_load(base, tmp_path, said, message):
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(base / "model.safetensors")
    write_json(tmp_path / "config.json", {**config, "sentence_embedding": said})
    done = run("sbk-run", "--info", tmp_path)
    assert done.returncode == (1 if message else 0)
    assert message in done.stderr
