"""squeezebert-kernels embed on checkpoints with the files of sentence-transformers: their vectors, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.hf_models import TINY, stock
from support.sentence import dense, flags, hidden_states, in_a_folder_of_its_own, pool, sentence_checkpoint, write_json

import squeezebert_kernels as sbk
from squeezebert_kernels import cli
from squeezebert_kernels.console import UserError
from squeezebert_kernels.corpus.encoder import Encoder, find_model
from squeezebert_kernels.corpus.job import Job
from squeezebert_kernels.models import hub

TEXTS = ["It rains in Spain.", "", "MIXED Case, Übermäßig naïve", " ".join(f"number {i}" for i in range(60))]
DENSE = {"in_features": 32, "out_features": 20, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
NEW = {"embedding_dimension": 32, "pooling_mode": "mean"}


WORDS = ["rains", "spain", "mixed", "case", "number", "naive", "represent", "this", "passage", "find", "on"]
LETTERS = [
    chr(code)
    for code in (*range(ord("0"), ord(":") + 1), *range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1))
]
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *WORDS,
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    "ü",
    "##ü",
]


def save_tokenizer(folder: Path, **options) -> None:
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    sbk.SqueezeBertTokenizer(vocab=vocabulary, **options).save_pretrained(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    fields = {**TINY, "vocab_size": len(VOCABULARY), "max_position_embeddings": 48}
    stock("SqueezeBertModel", **fields).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def vectors(folder: Path, **options) -> np.ndarray:
    return Encoder(Job(str(folder), "unused", **options))(TEXTS).values


def close(got: np.ndarray, want: list[torch.Tensor]) -> None:
    table = torch.stack(want).numpy()
    np.testing.assert_allclose(got, table, atol=2e-5 * np.abs(table).max())


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


@pytest.mark.parametrize(
    "pooling, kinds",
    [
        (flags("cls_token"), ["cls"]),
        (flags("max_tokens"), ["max"]),
        (flags("mean_sqrt_len_tokens"), ["mean_sqrt_len_tokens"]),
        (flags("weightedmean_tokens"), ["weightedmean"]),
        (flags("lasttoken"), ["lasttoken"]),
        (flags("mean_tokens", "cls_token", "lasttoken"), ["cls", "mean", "lasttoken"]),
        (flags(), ["mean"]),
        ({"embedding_dimension": 32, "pooling_mode": "max", "include_prompt": True}, ["max"]),
        ({"embedding_dimension": 32, "pooling_mode": ["mean", "cls"]}, ["mean", "cls"]),
        ({**flags("cls_token"), "pooling_mode": "lasttoken"}, ["lasttoken"]),
    ],
)
def test_pooling_is_what_the_checkpoint_says(base, tmp_path, pooling, kinds):
    folder = sentence_checkpoint(base, tmp_path / "model", pooling)
    close(vectors(folder), [torch.cat([pool(h, kind) for kind in kinds]) for h in hidden_states(base, TEXTS, 48)])


@pytest.mark.parametrize("behind", ["Normalize", "Dense", "Dense Normalize", "Normalize Dense Dropout", "residual"])
def test_what_follows_pooling(base, tmp_path, behind):
    config = DENSE
    if behind == "residual":
        behind, config = "Dense", {**DENSE, "bias": False, "use_residual": True, "module_output_name": None}
        config["activation_function"] = "torch.nn.modules.linear.Identity"
    kinds = behind.split()
    at = f"{kinds.index('Dense') + 2}_Dense" if "Dense" in kinds else "unused"
    files = {f"{at}/config.json": config} if "Dense" in kinds else {}
    folder = sentence_checkpoint(base, tmp_path / "model", NEW, behind=kinds, files=files)
    want = []
    for hidden in hidden_states(base, TEXTS, 48):
        vector = pool(hidden, "mean")
        for kind in kinds:
            if kind == "Normalize":
                vector = unit(vector)
            elif kind == "Dense" and config is DENSE:
                vector = dense(folder / at, vector)
            elif kind == "Dense":
                vector = dense(folder / at, vector, lambda x: x, residual=True)
        want.append(vector)
    close(vectors(folder), want)


@pytest.mark.parametrize(
    "file",
    [
        {"max_seq_length": 9, "do_lower_case": False},
        {"transformer_task": "feature-extraction", "processor_kwargs": {"model_max_length": 9}, "max_seq_length": 30,
         "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
         "module_output_name": "token_embeddings", "unpad_inputs": False},
    ],
)  # fmt: skip
def test_texts_are_as_long_as_the_checkpoint_says(base, tmp_path, file):
    folder = sentence_checkpoint(base, tmp_path / "model", NEW, files={"sentence_bert_config.json": file})
    close(vectors(folder), [pool(h, "mean") for h in hidden_states(base, TEXTS, 9)])
    encoder = Encoder(Job(str(folder), "unused"))
    assert encoder(TEXTS).longest == 2
    assert "at most 9 tokens (sentence_bert_config.json)" in str(encoder.config)


def test_a_length_that_the_model_does_not_take(base, tmp_path):
    file = {"sentence_bert_config.json": {"max_seq_length": 512}}
    folder = sentence_checkpoint(base, tmp_path / "model", NEW, files=file)
    encoder = Encoder(Job(str(folder), "unused"))
    assert encoder.max_length == 48
    assert "sentence_bert_config.json says 512" in str(encoder.config)
    for length in (1, 2):
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": length})
        with pytest.raises(UserError, match=f"sentence_bert_config.json: a length of {length} leaves no room"):
            Encoder(Job(str(folder), "unused"))


@pytest.mark.parametrize("strip", [None, True])
def test_lower_case(base, tmp_path, strip):
    folder = sentence_checkpoint(base, tmp_path / "model", NEW)
    save_tokenizer(folder, do_lower_case=False, strip_accents=strip)
    upper = vectors(folder)
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    lowered = [pool(h, "mean") for h in hidden_states(folder, [text.lower() for text in TEXTS], 48)]
    close(vectors(folder), lowered)
    assert np.abs(upper[2] - lowered[2].numpy()).max() > 1e-3


PROMPTS = {"prompts": {"query": "Represent this: ", "passage": "passage: ", "none": None}}


@pytest.mark.parametrize(
    "kind, include", [("mean", True), ("mean", False), ("cls", False), ("max", False), ("weightedmean", False)]
)
def test_prompts(base, tmp_path, kind, include):
    files = {"config_sentence_transformers.json": {**PROMPTS, "default_prompt_name": "query"}}
    pooling = {"embedding_dimension": 32, "pooling_mode": kind, "include_prompt": include}
    folder = sentence_checkpoint(base, tmp_path / "model", pooling, files=files)

    def want(prompt: str) -> list[torch.Tensor]:
        tokens = len(sbk.SqueezeBertTokenizer.from_pretrained(base)(prompt)["input_ids"]) - 1
        result = []
        for hidden in hidden_states(base, [prompt + text for text in TEXTS], 48):
            skipped = 0 if include or not prompt else tokens
            vector = pool(hidden[skipped:], kind)
            if kind == "weightedmean" and skipped:
                position = torch.arange(skipped + 1.0, len(hidden) + 1)
                vector = (hidden[skipped:] * position[:, None]).sum(0) / position.sum()
            result.append(vector)
        return result

    close(vectors(folder), want("Represent this: "))
    close(vectors(folder, prompt_name="passage"), want("passage: "))
    close(vectors(folder, prompt="find "), want("find "))
    close(vectors(folder, prompt_name="none"), want(""))


def test_a_vector_that_is_cut(base, tmp_path):
    files = {"config_sentence_transformers.json": {"truncate_dim": 12, "model_type": "SentenceTransformer"}}
    folder = sentence_checkpoint(base, tmp_path / "model", NEW, behind=["Normalize"], files=files)
    whole = [pool(h, "mean") for h in hidden_states(base, TEXTS, 48)]
    close(vectors(folder), [unit(vector)[:12] for vector in whole])
    close(vectors(folder, normalize=True), [unit(vector[:12]) for vector in whole])
    close(vectors(folder, normalize=False), [vector[:12] for vector in whole])


def test_options_win_and_the_manifest_says_so(base, tmp_path, capsys):
    files = {"sentence_bert_config.json": {"max_seq_length": 9}, "config_sentence_transformers.json": PROMPTS}
    folder = sentence_checkpoint(base, tmp_path / "model", flags("cls_token"), behind=["Normalize"], files=files)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def run(out: str, *options: object) -> tuple[dict, np.ndarray]:
        command = ["embed", tmp_path / "in.jsonl", tmp_path / out, "--model", folder, "--threads", 1, *options]
        assert cli.main(list(map(str, command))) == 0, capsys.readouterr().err
        manifest = json.loads((tmp_path / out / "_manifest.json").read_text())
        return manifest, np.array(pq.read_table(tmp_path / out)["embedding"].to_pylist())

    manifest, got = run("plain")
    short = hidden_states(base, TEXTS, 9)
    close(got, [unit(h[0]) for h in short])
    chosen = {"pooling": "cls", "layers": ["Normalize"], "max_length": 9, "prompt": "", "include_prompt": True}
    assert {name: manifest["options"][name] for name in chosen} == chosen
    assert manifest["chosen_by"] == {
        "pooling": "1_Pooling/config.json", "layers": "modules.json", "max_length": "sentence_bert_config.json",
        "lower_case": "sentence_bert_config.json",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "pooling cls (1_Pooling/config.json); then Normalize (modules.json); at most 9 tokens" in printed
    assert "no prompt; the checkpoint has 'query', 'passage' for --prompt-name" in printed

    manifest, got = run("mine", "--pooling", "mean,max", "--no-normalize", "--max-length", 30, "--prompt", "on ")
    long = hidden_states(base, ["on " + text for text in TEXTS], 30)
    close(got, [torch.cat([pool(h, "mean"), pool(h, "max")]) for h in long])
    assert manifest["chosen_by"]["pooling"] == "--pooling"
    chosen = {"pooling": "mean,max", "layers": [], "max_length": 30, "prompt": "on "}
    assert {name: manifest["options"][name] for name in chosen} == chosen

    manifest, got = run("none", "--no-sentence-files")
    close(got, [unit(pool(h, "mean")) for h in hidden_states(base, TEXTS, 48)])
    command = ["embed", str(tmp_path / "in.jsonl"), str(tmp_path / "plain"), "--model", str(folder), "--threads", "1"]
    assert cli.main(command) == 0
    assert "1 of 1 output files are finished" in capsys.readouterr().out
    write_json(folder / "1_Pooling/config.json", flags("max_tokens"))
    assert cli.main(command) == 1
    assert "pooling was 'cls', now 'max'" in capsys.readouterr().err


def test_an_encoder_in_a_folder_of_its_own(base, tmp_path):
    folder = in_a_folder_of_its_own(sentence_checkpoint(base, tmp_path / "model", flags("cls_token")))
    close(vectors(folder), [h[0] for h in hidden_states(base, TEXTS, 48)])


def test_options_that_cannot_be(base, tmp_path, capsys):
    file = {"config_sentence_transformers.json": PROMPTS, "2_Dense/config.json": DENSE}
    folder = sentence_checkpoint(base, tmp_path / "model", NEW, behind=["Dense"], files=file)
    (tmp_path / "in.jsonl").write_text('{"text": "one"}\n')
    common = ["embed", str(tmp_path / "in.jsonl"), str(tmp_path / "out"), "--model", str(folder), "--threads", "1"]
    for options, message in (
        (["--max-length", "1"], "--max-length 1 leaves no room for text: it must be at least 3"),
        (["--max-length", "2"], "--max-length 2 leaves no room for text: it must be at least 3"),
        (["--prompt-name", "question"], "the checkpoint's prompts are 'query', 'document', 'passage', 'none'"),
        (["--prompt-name", "query", "--prompt", "x"], "exclude one another"),
        (["--prompt", "word " * 60], "leaves no room for text in 48 tokens"),
        (["--pooling", "mean,cls"], "2_Dense/config.json: Dense(32, 20, Tanh) takes 32 numbers, it is given 64"),
        (["--task", "classify", "--pooling", "cls"], "--pooling needs --task embed"),
        (["--task", "classify", "--no-normalize"], "--normalize needs --task embed"),
    ):
        assert cli.main([*common, *options]) == 1, options
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit):
        cli.main([*common, "--pooling", "median"])
    assert "'median' is none of mean, cls" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_that_a_cache_lacks_are_looked_for_on_the_hub(base, monkeypatch):
    """transformers alone fills a cache without modules.json."""
    asked = []

    def snapshot(name, *, allow_patterns, local_files_only=False):
        asked.append(local_files_only)
        assert "modules.json" in allow_patterns
        return str(base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "reachable", lambda url: True)
    assert find_model("some/model", sentence=True) == (base, "")
    assert asked == [True, False]
    monkeypatch.setattr(hub, "reachable", lambda url: False)
    folder, note = find_model("some/model", sentence=True)
    assert folder == base
    assert "no modules.json in the cache, and the hub cannot be reached" in note
