"""The programs in examples/: each reaches its metric on its small data, and runs on data like the real ones."""

import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from support.hf_models import TINY

import squeezebert_kernels as sbk

EXAMPLES = Path(__file__).parents[2] / "examples"

# Less than the programs' defaults, and so a lower metric to reach.
SHORT = {
    "text_classification": ["--epochs=3", "--at-least=0.65"],
    "token_classification": ["--epochs=3", "--at-least=0.65"],
    "question_answering": ["--epochs=3", "--rows=2200", "--at-least=0.3"],
    "masked_language_modeling": ["--epochs=2", "--at-least=0.15"],
    "multiple_choice": ["--epochs=2", "--at-least=0.6"],
    "distillation": ["--epochs=3", "--rows=2000", "--at-least=0.55"],
}


@pytest.fixture(autouse=True)
def _as_in_that_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    level = transformers.utils.logging.get_verbosity()
    yield
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.enable_progress_bar()


def run(name, *arguments):
    return importlib.import_module(name).main([str(argument) for argument in arguments])


def table(output):
    """{"baseline": metric, "float32": metric, "int8": metric} of what a program printed."""
    return {name: float(score) for name, score in re.findall(r"^(baseline|float32|int8) +([\d.]+)", output, re.M)}


def check(output):
    assert "2 of 2 parts on the kernels" in output
    shown = output.split("loaded back")[1].split("parts on the kernels")[0]
    assert shown.count("\n  ") >= 4
    scores = table(output)
    assert scores.keys() == {"baseline", "float32", "int8"}
    assert scores["baseline"] < scores["float32"] - 0.1
    assert abs(scores["int8"] - scores["float32"]) < 0.03


# The programs are alike, and share common.py: `make test` runs text_classification (below) and the least alike.
TRAINED = [
    pytest.param(name, marks=[] if name == "question_answering" else [pytest.mark.wide])
    for name in SHORT
    if name != "text_classification"
]


@pytest.mark.parametrize("name", TRAINED)
def test_reaches_its_metric_on_the_small_data(name, tmp_path, capsys):
    assert run(name, "--output", tmp_path, *SHORT[name]) == 0
    check(capsys.readouterr().out)
    assert {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"} <= {
        file.name for file in tmp_path.iterdir()
    }


def test_runs_as_a_program(tmp_path):
    command = [sys.executable, EXAMPLES / "text_classification.py", "--output", tmp_path, *SHORT["text_classification"]]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    check(done.stdout)


def test_a_metric_that_is_missed_is_said_and_is_an_exit_status(tmp_path, capsys):
    assert run("masked_language_modeling", "--rows=100", "--epochs=1", "--at-least=0.9", "--output", tmp_path) == 1
    assert "FAILED: accuracy in float32 is below 0.9" in capsys.readouterr().err


# --- data and checkpoints in the form of the real ones

BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
CHOICE = {f"ending{i}": [f"the end is {i}"] * 8 for i in range(4)}
CONTEXT = "SqueezeBERT was made at Berkeley in 2020. " + "It replaces dense layers by grouped convolutions. " * 40
CLASSES = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
TAGS = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]))
COLUMNS = {
    "glue": (
        {
            "premise": ["It rains."] * 8,
            "hypothesis": ["The sun shines.", "It is wet."] * 4,
            "label": [2, 0, 1, 2] * 2,
            "idx": list(range(8)),
        },
        {"label": CLASSES},
    ),
    "conll2003": (
        {
            "id": [str(i) for i in range(8)],
            "tokens": [["Ada", "Lovelace", "lived", "in", "London"]] * 8,
            "pos_tags": [[0] * 5] * 8,
            "ner_tags": [[1, 2, 0, 0, 3]] * 8,
        },
        {"ner_tags": TAGS},
    ),
    "squad": (
        {
            "id": [str(i) for i in range(8)],
            "title": ["SqueezeBERT"] * 8,
            "context": [CONTEXT] * 8,
            "question": [" Where was it made?", "When was it made?"] * 4,
            "answers": [
                {"text": [answer], "answer_start": [CONTEXT.index(answer)]} for answer in ("Berkeley", "2020") * 4
            ],
        },
        {},
    ),
    "swag": (
        {
            "video-id": ["x"] * 8,
            "startphrase": ["She sits down. She"] * 8,
            "sent1": ["She sits down."] * 8,
            "sent2": ["She"] * 8,
            **CHOICE,
            "label": [0, 1, 2, 3] * 2,
        },
        {"label": datasets.ClassLabel(names=["0", "1", "2", "3"])},
    ),
    "wikitext": ({"text": ["", " = Title = \n", " The tower is 324 metres tall . \n", "It stands in Paris ."] * 2}, {}),
}


@pytest.fixture(scope="module")
def checkpoint(bert_vocab, tmp_path_factory):
    """A headless SqueezeBERT with the published vocabulary, and its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    sbk.SqueezeBertModel(sbk.SqueezeBertConfig(**TINY | {"vocab_size": 30528})).save_pretrained(folder)
    sbk.SqueezeBertTokenizerFast(bert_vocab, model_max_length=512).save_pretrained(folder)
    return folder


def dataset(name):
    """Rows with the columns of the data set of that name; some of GLUE's labels are secret."""
    columns, special = COLUMNS[name]
    features = datasets.Dataset.from_dict(columns).features
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features({**features, **special}))
    if name == "glue":
        secret = rows.map(lambda row: {"label": -1})
        rows = datasets.concatenate_datasets([rows, secret.select([0])])
        return datasets.DatasetDict(train=rows, test=secret, validation_matched=rows, validation_mismatched=rows)
    return datasets.DatasetDict(train=rows, validation=rows)


@pytest.mark.parametrize(
    ("name", "data", "more"),
    [
        ("text_classification", "glue", ["--bf16"]),
        ("token_classification", "conll2003", []),
        ("question_answering", "squad", ["--rows=4"]),
        ("multiple_choice", "swag", []),
        ("masked_language_modeling", "wikitext", ["--mask=0.5"]),
        ("distillation", "glue", ["--teacher"]),
    ],
)
def test_runs_on_data_and_checkpoints_in_the_form_of_the_real_ones(
    name, data, more, checkpoint, bert_vocab, tmp_path, capsys
):
    dataset(data).save_to_disk(tmp_path / "data")
    if more == ["--teacher"]:
        config = transformers.BertConfig(**BERT, vocab_size=30522, num_labels=3)
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "teacher")
        sbk.SqueezeBertTokenizerFast(bert_vocab).save_pretrained(tmp_path / "teacher")
        more = ["--teacher", tmp_path / "teacher"]
    arguments = ["--dataset", tmp_path / "data", "--model", checkpoint, "--output", tmp_path / "output"]
    assert run(name, *arguments, "--epochs=1", "--batch-size=4", *more) == 0
    output = capsys.readouterr().out
    rows = 4 if data == "squad" else 8
    assert f"{rows} rows to train on, {rows} to test on" in output
    assert "3 of 3 parts on the kernels" in output
    assert table(output).keys() == {"baseline", "float32", "int8"}
    model = sbk.SqueezeBertConfig.from_pretrained(tmp_path / "output")
    names = {"glue": CLASSES.names, "conll2003": TAGS.feature.names}.get(data)
    assert names is None or list(model.id2label.values()) == names


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("glue", ("nyu-mll/glue", "sst2")),
        ("glue/mnli", ("nyu-mll/glue", "mnli")),
        ("squad", ("rajpurkar/squad", None)),
        ("stanfordnlp/imdb", ("stanfordnlp/imdb", None)),
        ("google/xtreme/PAN-X.de", ("google/xtreme", "PAN-X.de")),
    ],
)
def test_names_of_the_hub(name, asked, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments: arguments)
    assert importlib.import_module("common")._read_dataset(name) == asked


def test_what_cannot_work_ends_with_a_message(checkpoint, tmp_path, monkeypatch, capsys):
    def message(name, *arguments):
        with pytest.raises(SystemExit) as stopped:
            run(name, *arguments)
        return f"{stopped.value} {capsys.readouterr().err}"

    dataset("wikitext").save_to_disk(tmp_path / "text")
    wikitext = ["--dataset", tmp_path / "text"]
    assert "no column 'label'; it has ['text']" in message("text_classification", *wikitext)
    dataset("wikitext")["train"].save_to_disk(tmp_path / "one")
    assert "no split 'train'" in message("masked_language_modeling", "--dataset", tmp_path / "one")
    assert "FileNotFoundError" in message("masked_language_modeling", "--dataset", tmp_path)
    assert "no column 'tokens'" in message("token_classification", *wikitext)
    assert "the model has 512 positions" in message(
        "masked_language_modeling", *wikitext, "--model", checkpoint, "--max-length=513"
    )
    assert "--rows must be above 0, got 0" in message("multiple_choice", "--rows=0")
    assert "are not enough" in message("multiple_choice", "--rows=1")
    teacher = transformers.BertForSequenceClassification(transformers.BertConfig(**BERT, vocab_size=30522))
    teacher.save_pretrained(tmp_path / "t")
    sbk.SqueezeBertTokenizerFast.from_pretrained(checkpoint).save_pretrained(tmp_path / "t")
    assert "another vocabulary" in message("distillation", "--rows=300", "--teacher", tmp_path / "t")

    def offline(*_):
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    assert "--dataset squad: ConnectionError: no network" in message("question_answering", "--dataset=squad")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in message("question_answering", "--dataset=squad")


# --- the metrics


def test_f1_counts_whole_entities():
    token_classification = importlib.import_module("token_classification")
    right = [["B-A", "I-A", "O", "B-B", "B-B"]]
    assert token_classification.spans(right[0]) == {(0, 2, "A"), (3, 4, "B"), (4, 5, "B")}
    assert token_classification.spans(["I-A", "I-B", "I-B", "O", "I-B"]) == {(0, 1, "A"), (1, 3, "B"), (4, 5, "B")}
    assert token_classification.f1(right, right) == 1
    assert token_classification.f1([["B-A", "O", "O", "B-B", "B-B"]], right) == pytest.approx(2 / 3)
    assert token_classification.f1([["O"] * 5], right) == 0


def test_right_positions_give_right_answers_in_every_part_of_a_long_context(bert_vocab):
    question_answering = importlib.import_module("question_answering")
    tokenizer = sbk.SqueezeBertTokenizerFast(bert_vocab)
    context = " ".join(f"Room {i} has {i + 1} chairs, (of oak)." for i in range(60))
    rows = [
        {"question": "?", "context": context, "answers": {"text": [text], "answer_start": [context.index(text)]}}
        for text in ("Room 0", "31 chairs", "60 chairs, (of oak)", "of oak")
    ]
    asked = question_answering.Answers(tokenizer, rows, max_length=64)
    features = asked.features()
    assert len(features) > 4 * 5
    length = max(len(feature["input_ids"]) for feature in features)
    scores = np.zeros((2, len(features), length))
    for i, feature in enumerate(features):
        found = feature["start_positions"] > 0
        for which, name in enumerate(("start_positions", "end_positions")):
            scores[which, i, feature[name]] = 5 if found else 9  # [CLS]: it is not here
    assert asked.texts(*scores) == [row["answers"]["text"][0] for row in rows]
    assert question_answering.exact_match(["the Room 0.", "31", "60 chairs of oak", "oak"], rows) == 0.5
