"""sbk-run's windows over a long context: they always end, every one goes on, and none is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.hf_models import stock
from support.programs import answer, run

import squeezebert_kernels as sbk
from squeezebert_kernels.export.sbk_file import export

FIELDS = {
    "vocab_size": 30522, "hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 512, "q_groups": 2, "k_groups": 2, "v_groups": 2,
    "post_attention_groups": 1, "intermediate_groups": 4, "output_groups": 2,
}  # fmt: skip
LIGATURE = "\ufdfa"  # one character that the tokenizer turns into 18
WORDS = ["water", "house", "green", "people", "seven", "music", "north", "paper"]


@pytest.fixture(scope="module")
def tokenizer(bert_vocab):
    return sbk.SqueezeBertTokenizer(str(bert_vocab), model_max_length=512)


@pytest.fixture(scope="module")
def reader(tokenizer, tmp_path_factory):
    model = stock("SqueezeBertForQuestionAnswering", **FIELDS)
    with torch.no_grad():
        model.qa_outputs.weight.mul_(20)
    file = tmp_path_factory.mktemp("reader") / "reader.sbk"
    export(model, file, tokenizer=tokenizer)
    return file


def windows(reader, question, context, *options):
    """How many there are; every answer is where it is said to be."""
    got = answer(reader, question, "-", text=context, options=["--top", "200", *options])
    for item in got["answers"]:
        assert context.encode()[item["begin"] : item["end"]].decode() == item["answer"]
    scores = [item["score"] for item in got["answers"]]
    assert scores == sorted(scores, reverse=True)
    assert len({(item["begin"], item["end"]) for item in got["answers"]}) == len(scores)
    return got["windows"]


def question_of(tokenizer, tokens):
    text = "water " * (tokens - 2)
    assert len(tokenizer(text)["input_ids"]) == tokens
    return text


@pytest.mark.parametrize("room", [1, 2, 3, 5])
@pytest.mark.parametrize("character", ["각", "가", LIGATURE, "a", "é", "中", "½", "a각", " 각", "ﬃx"])
def test_windows_that_are_smaller_than_a_character(reader, tokenizer, room, character):
    """Each begins behind the one before, at least one character further."""
    context = character * 40
    question = question_of(tokenizer, 383 - room)
    count = windows(reader, question, context)
    assert 1 <= count <= len(context)


def test_every_small_window(reader):
    context = "untranslatable 각각 ﷺ naïve 中文 " * 2
    for window in range(8, 24):
        for stride in range(0, window, 3):
            options = ["--window", str(window), "--stride", str(stride)]
            assert 2 <= windows(reader, "why", context, *options) <= len(context)


@pytest.mark.parametrize("window", [20, 50, 384])
def test_without_overlap_every_token_is_in_one_window(reader, tokenizer, window):
    context = " ".join(np.random.default_rng(0).choice(WORDS, 1000))
    question = "where is water?"
    room = window - len(tokenizer(question)["input_ids"]) - 1
    count = windows(reader, question, context, "--stride", "0", "--window", str(window))
    assert count == -(-1000 // room)
    got = answer(reader, question, context, options=["--stride=0", f"--window={window}", "--top=1048576"])
    starts = {item["begin"] for item in got["answers"]}
    assert {i for i in range(len(context)) if i == 0 or context[i - 1] == " "} <= starts


def test_a_stride_that_is_no_overlap_is_refused(reader):
    done = run("sbk-run", "--window", "50", "--stride", "50", reader, "a", "b")
    assert (done.returncode, done.stderr) == (
        2, "sbk-run: error: --stride 50 is not less than the 50 tokens of --window\n",
    )  # fmt: skip


@pytest.mark.wide
@pytest.mark.parametrize("options", [(), ("--lines",)])
def test_a_text_that_is_too_long_is_refused(reader, options):
    done = run("sbk-run", *options, reader, *([] if options else ["a", "-"]), text=b"a" * ((256 << 20) + 4))
    assert done.returncode == 1
    assert "a text of the standard input has more than 268435456 bytes" in done.stderr


def test_a_window_does_not_look_at_all_of_the_rest(reader):
    """Two hundred windows before 3 MB of white space: reading all of it in each would take a minute."""
    words = "water house " * 400
    assert 100 < windows(reader, "where?", words + " " * 3_000_000 + words, "--window=16", "--stride=4") < 400
