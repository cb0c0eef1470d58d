"""sbk-run beside transformers, for every head, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from support.hf_models import stock
from support.programs import ROOT, answer, command, run, shared_library
from transformers import pipeline

import squeezebert_kernels as sbk
from squeezebert_kernels.export.sbk_file import export

FIELDS = {
    "vocab_size": 30522, "hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 512, "q_groups": 2, "k_groups": 2, "v_groups": 2,
    "post_attention_groups": 1, "intermediate_groups": 4, "output_groups": 2,
}  # fmt: skip
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXT = "Angela Merkel besuchte Zürich — untranslatable naïveté, “quoted”, 我能吞下玻璃, and 1,234.5 kilometres more."
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def tokenizer(bert_vocab):
    return sbk.SqueezeBertTokenizer(str(bert_vocab), model_max_length=512)


def labels(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory):
    """Makes (transformers' model, its .sbk file) by the class's name; weights large enough for decided answers."""
    made = {}

    def make(name, key="", dtype="float32", **fields):
        if (name, key) not in made:
            model = stock(name, **FIELDS, **fields)
            with torch.no_grad():
                for part in ("classifier", "qa_outputs"):
                    if hasattr(model, part):
                        getattr(model, part).weight.mul_(20)
            file = tmp_path_factory.mktemp("model") / f"{name}{key}.sbk"
            export(model, file, tokenizer=tokenizer, dtype=dtype)
            made[name, key] = model, file
        return made[name, key]

    return make


@pytest.fixture(scope="module")
def classifier(exported):
    return exported("SqueezeBertForSequenceClassification", **labels("good", "bad", "“ugly”"))


def logits_of(model, tokenizer, *texts):
    with torch.inference_mode():
        return model(**tokenizer(*texts, return_tensors="pt")).logits[0]


# Heads


@pytest.mark.parametrize("texts", [("It rains.",), (TEXT,), ("It rains.", TEXT), ("", ""), ("",)])
def test_sequence_classification(classifier, tokenizer, texts):
    model, file = classifier
    want = torch.softmax(logits_of(model, tokenizer, *texts), -1)
    got = answer(file, *texts)
    assert got["head"] == "sequence_classification"
    order = want.argsort(descending=True)
    assert [item["label"] for item in got["labels"]] == [model.config.id2label[int(i)] for i in order]
    np.testing.assert_allclose([item["probability"] for item in got["labels"]], want[order], **CLOSE)
    assert got["num_tokens"] == len(tokenizer(*texts)["input_ids"])


def test_sequence_classification_as_the_pipeline_and_in_text(classifier, tokenizer):
    model, file = classifier
    want = pipeline("text-classification", model=model, tokenizer=tokenizer)(TEXT, top_k=None)
    got = answer(file, TEXT)["labels"]
    assert [item["label"] for item in got] == [item["label"] for item in want]
    lines = run("sbk-run", file, TEXT, "--top", "2").stdout.splitlines()
    assert lines == [f"{item['probability']:.4f}  {item['label']}" for item in got[:2]]
    several = answer(file, TEXT, options=["--multi-label"])["labels"]
    want = torch.sigmoid(logits_of(model, tokenizer, TEXT)).sort(descending=True).values
    np.testing.assert_allclose([item["probability"] for item in several], want, **CLOSE)


def test_one_label_is_a_score(exported, tokenizer):
    model, file = exported("SqueezeBertForSequenceClassification", "score", num_labels=1)
    want = float(logits_of(model, tokenizer, TEXT)[0])
    assert answer(file, TEXT)["score"] == pytest.approx(want, rel=1e-4)
    assert run("sbk-run", file, TEXT).stdout == f"{answer(file, TEXT)['score']:.6f}  score\n"


def test_token_classification_as_the_pipeline(exported, tokenizer):
    model, file = exported("SqueezeBertForTokenClassification", **labels(*TAGS))
    reference = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")
    seen = set()
    for text in (TEXT, "Unaffable people, écoles & Wolfeschlegelsteinhausenbergerdorff live in Ljubljana."):
        want, got = reference(text), answer(file, text)
        assert [span["label"] for span in got["spans"]] == [span["entity_group"] for span in want]
        np.testing.assert_allclose([s["score"] for s in got["spans"]], [s["score"] for s in want], rtol=1e-3)
        assert [span["text"] for span in got["spans"]] == [text[span["start"] : span["end"]] for span in want]
        for span in got["spans"] + got["words"]:
            assert text.encode()[span["begin"] : span["end"]].decode() == span["text"]
        seen |= {word["label"] for word in got["words"]}
    assert len(seen) > 2
    lines = run("sbk-run", file, TEXT).stdout.splitlines()
    assert len(lines) == len(answer(file, TEXT)["spans"])


def test_without_an_outside_every_word_is_shown(exported):
    _, file = exported("SqueezeBertForTokenClassification", "pos", **labels("NOUN", "VERB"))
    lines = run("sbk-run", file, "Dogs chase untranslatable cats").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["Dogs", "chase", "untranslatable", "cats"]


@pytest.mark.parametrize("text", ["The capital of France is [MASK].", "[MASK] is the [MASK] of Zürich"])
def test_masked_lm_as_the_pipeline(exported, tokenizer, text):
    model, file = exported("SqueezeBertForMaskedLM")
    want = pipeline("fill-mask", model=model, tokenizer=tokenizer)(text, top_k=7)
    got = answer(file, text, options=["--top=7"])["masks"]
    for mine, theirs in zip(got, want if text.count("[MASK]") > 1 else [want], strict=True):
        assert [item["id"] for item in mine] == [item["token"] for item in theirs]
        assert [item["token"] for item in mine] == [item["token_str"] for item in theirs]
        np.testing.assert_allclose(
            [item["probability"] for item in mine], [item["score"] for item in theirs], rtol=1e-3
        )
    lines = run("sbk-run", file, text).stdout.splitlines()
    assert len(lines) == (5 if len(got) == 1 else 12)


def test_multiple_choice(exported, tokenizer):
    model, file = exported("SqueezeBertForMultipleChoice")
    question, choices = "What falls from clouds?", ["rain", "a very long answer indeed, untranslatable", "Zürich"]
    encoded = tokenizer([question] * 3, choices, padding=True, return_tensors="pt")
    with torch.inference_mode():
        want = torch.softmax(model(**{k: v[None] for k, v in encoded.items()}).logits[0], -1)
    got = answer(file, question, *choices)["choices"]
    order = want.argsort(descending=True)
    assert [item["choice"] for item in got] == order.tolist()
    assert [item["text"] for item in got] == [choices[i] for i in order]
    np.testing.assert_allclose([item["probability"] for item in got], want[order], **CLOSE)


def best_answers(model, tokenizer, question, context, k, window=384, stride=128, longest=15):
    """The computation of transformers' question-answering pipeline: [(score, begin, end)] in characters."""
    encoded = tokenizer(
        question, context, truncation="only_second", max_length=window, stride=stride,
        return_overflowing_tokens=True, return_token_type_ids=True, return_attention_mask=True,
    )  # fmt: skip
    best = {}
    for i, ids in enumerate(encoded["input_ids"]):
        kinds = torch.tensor(encoded["token_type_ids"][i])
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([ids]), token_type_ids=kinds[None])
        context_tokens = torch.tensor([s == 1 for s in encoded.sequence_ids(i)])
        hidden = ~context_tokens
        hidden[0] = False
        start = torch.softmax(out.start_logits[0].masked_fill(hidden, -10000.0), -1) * context_tokens
        end = torch.softmax(out.end_logits[0].masked_fill(hidden, -10000.0), -1) * context_tokens
        scores = torch.tril(torch.triu(start[:, None] * end[None]), longest - 1)
        for flat in scores.flatten().argsort(descending=True)[: 50 * k].tolist():
            first, last = divmod(flat, len(ids))
            if scores[first, last] == 0:
                break
            begin = encoded.word_to_chars(i, encoded.token_to_word(i, first), 1)[0]
            stop = encoded.word_to_chars(i, encoded.token_to_word(i, last), 1)[1]
            best[begin, stop] = max(best.get((begin, stop), 0.0), float(scores[first, last]))
    return sorted(((score, *span) for span, score in best.items()), reverse=True)[:k], len(encoded["input_ids"])


def check_answers(model, file, tokenizer, question, context, k=3, options=(), **settings):
    want, windows = best_answers(model, tokenizer, question, context, k, **settings)
    got = answer(file, question, context, options=["--top", str(k), *options])
    assert got["windows"] == windows
    assert [item["answer"] for item in got["answers"]] == [context[begin:end] for _, begin, end in want]
    np.testing.assert_allclose([item["score"] for item in got["answers"]], [score for score, *_ in want], rtol=1e-3)
    for item in got["answers"]:
        assert context.encode()[item["begin"] : item["end"]].decode() == item["answer"]
    return windows


@pytest.fixture(scope="module")
def reader(exported):
    return exported("SqueezeBertForQuestionAnswering")


@pytest.mark.parametrize("context", [TEXT, "one", "  naïveté  ", "untranslatable " * 3])
def test_question_answering(reader, tokenizer, context):
    model, file = reader
    check_answers(model, file, tokenizer, "Wer besuchte Zürich?", context, k=3 if len(context) > 50 else 1)
    best = answer(file, "Wer besuchte Zürich?", context)["answers"]
    assert run("sbk-run", file, "Wer besuchte Zürich?", context).stdout == (
        f"{best[0]['score']:.4f}  {best[0]['answer']}\n"
    )


def test_question_answering_reads_long_contexts_in_windows(reader, tokenizer):
    """Every word is a token, so that windows begin where the tokenizers library lets them begin."""
    model, file = reader
    words = ["water", "house", "green", "people", "seven", "music", "north", "paper"]
    generator = np.random.default_rng(0)
    context = " ".join(generator.choice(words, 1200))
    assert check_answers(model, file, tokenizer, "where is water?", context) == 5
    settings = {"window": 100, "stride": 30, "longest": 4}
    options = ["--window", "100", "--stride", "30", "--max-answer", "4"]
    assert check_answers(model, file, tokenizer, "where is water?", context, options=options, **settings) > 15


def test_question_answering_with_words_of_many_tokens_across_windows(reader):
    _, file = reader
    context = "untranslatable Wolfeschlegelsteinhausenbergerdorff, 我能 naïveté! " * 60
    got = answer(file, "who?", context, options=["--window", "64", "--stride", "16", "--top", "5"])
    assert got["windows"] > 10
    assert len(got["answers"]) == 5
    for item in got["answers"]:
        assert context.encode()[item["begin"] : item["end"]].decode() == item["answer"]
    assert answer(file, "who?", "x" * 3000 + " y", options=["--window", "16"])["answers"]
    assert answer(file, "who?", "untranslatable" * 20, options=["--window", "16"])["answers"]


def test_without_a_head(exported, tokenizer):
    model, file = exported("SqueezeBertModel")
    with torch.inference_mode():
        out = model(**tokenizer(TEXT, return_tensors="pt"))
    got = answer(file, TEXT)
    hidden, pooled = out.last_hidden_state[0], out.pooler_output[0]
    for name, want in (("first", hidden[0]), ("mean", hidden.mean(0)), ("pooled", pooled)):
        np.testing.assert_allclose(got[name], want, rtol=1e-3, atol=1e-5)
    embedding = json.loads(run("sbk-run", "--embedding", file, TEXT).stdout)
    np.testing.assert_allclose(embedding, hidden.mean(0), rtol=1e-3, atol=1e-5)
    assert len(run("sbk-run", file, TEXT).stdout.splitlines()) == 4


# Options


def test_other_heads_embeddings_and_tokens(classifier, tokenizer):
    model, file = classifier
    with torch.inference_mode():
        want = model.transformer(**tokenizer(TEXT, return_tensors="pt")).last_hidden_state[0].mean(0)
    for options in (["--embedding"], ["--head", "none", "--embedding"]):
        got = json.loads(run("sbk-run", *options, file, TEXT).stdout)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    assert answer(file, TEXT, options=["--head=none"])["head"] == "none"
    tokens = answer(file, TEXT, "pair", options=["--tokens"])["tokens"]
    encoded = tokenizer(TEXT, "pair")
    assert [token["id"] for token in tokens] == encoded["input_ids"]
    assert [token["type"] for token in tokens] == encoded["token_type_ids"]
    assert [token["text"] for token in tokens] == tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert len(run("sbk-run", "--tokens", file, TEXT).stdout.splitlines()) > len(tokens) - 2


def test_standard_input(classifier):
    _, file = classifier
    assert answer(file, "-", text=TEXT + "\n") == answer(file, TEXT)
    assert answer(file, "It rains.", "-", text="pair\r\n") == answer(file, "It rains.", "pair")
    done = run("sbk-run", "--lines", "--json", file, text=f"{TEXT}\r\nIt rains.\tpair\n\nno line end")
    got = [json.loads(line) for line in done.stdout.splitlines()]
    assert got == [answer(file, *texts) for texts in ((TEXT,), ("It rains.", "pair"), ("",), ("no line end",))]
    lines = run("sbk-run", "--lines", file, "-", text="one\ntwo\n").stdout.splitlines()
    assert [line for line in lines if line.startswith(">")] == ["> one", "> two"]
    assert run("sbk-run", "--lines", file, text="").returncode == 0


def test_bytes_that_are_no_text(classifier):
    _, file = classifier
    got = answer(file, "-", text=b"\xff\xfe broken \xc3", options=["--tokens"])
    assert got["num_tokens"] > 2
    done = run("sbk-run", "--json", "--lines", file, text=b"nul \x00 inside\n\xed\xa0\x80\n")
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2


def test_a_terminal_obeys_nothing_that_is_shown(exported):
    evil = "a\x1b]0;title\x07\x7f\x9b31m\rb\nc"
    _, file = exported("SqueezeBertForSequenceClassification", "evil", **labels(evil, "good"))
    for done in (
        run("sbk-run", file, "text"), run("sbk-run", "--lines", file, text=f"{evil}\n"), run("sbk-run", "--info", file),
        run("sbk-run", "--json", file, evil), run("sbk-run", f"{evil}.sbk", "text"), run("sbk-run", f"--{evil}", file),
    ):  # fmt: skip
        said = done.stdout + done.stderr
        assert r"a\u001b]0;title\u0007\u007f\u009b31m\u000db" in said or done.args[1] == "--json"
        assert not [char for char in said if char != "\n" and (ord(char) < 32 or 0x7F <= ord(char) < 0xA0)]


def test_long_texts_are_cut_with_a_note(classifier, tokenizer):
    model, file = classifier
    text = "water " * 600
    done = run("sbk-run", "--json", file, text)
    assert done.stderr == "sbk-run: note: the text is longer than the model takes: cut to 512 tokens\n"
    got = json.loads(done.stdout)
    assert (got["num_tokens"], got["truncated"]) == (512, True)
    with torch.inference_mode():
        want = torch.softmax(model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0], -1)
    np.testing.assert_allclose(got["labels"][0]["probability"], float(want.max()), **CLOSE)


@pytest.mark.parametrize("options", [["--threads=1"], ["--threads=3"], ["--isa=scalar"], ["--verify"], ["--no-verify"]])
def test_threads_tiers_and_checksums_change_nothing(classifier, options):
    _, file = classifier
    want, got = answer(file, TEXT)["labels"], answer(file, TEXT, options=options)["labels"]
    assert [item["label"] for item in got] == [item["label"] for item in want]
    np.testing.assert_allclose([i["probability"] for i in got], [i["probability"] for i in want], **CLOSE)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_dtypes(exported, classifier, dtype):
    _, file = exported("SqueezeBertForSequenceClassification", dtype, dtype=dtype, **labels("good", "bad", "“ugly”"))
    want = {item["label"]: item["probability"] for item in answer(classifier[1], TEXT)["labels"]}
    got = {item["label"]: item["probability"] for item in answer(file, TEXT)["labels"]}
    assert got == pytest.approx(want, abs=0.01 if dtype == "float16" else 0.1)
    assert json.loads(run("sbk-run", "--info", file).stdout)["dtype"] == dtype


def test_info(classifier):
    info = json.loads(run("sbk-run", "--info", classifier[1]).stdout)
    assert info["labels"] == ["good", "bad", "“ugly”"]
    assert (info["architecture"], info["head"], info["dtype"]) == ("squeezebert", "sequence_classification", "float32")
    assert (info["hidden_size"], info["max_length"], info["has_tokenizer"]) == (32, 512, True)


def test_help_and_version():
    assert run("sbk-run", "--help").stdout.startswith("usage: sbk-run ")
    assert run("sbk-run", "--version").stdout == f"sbk-run {sbk.__version__}\n"


# Errors


def failure(status, *arguments, **environment):
    done = run("sbk-run", *arguments, **environment)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("sbk-run: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no MODEL is given"),
        (["model"], "no TEXT is given"),
        (["--frobnicate", "model", "text"], "unknown option '--frobnicate'"),
        (["model", "text", "--top"], "--top needs a value"),
        (["model", "text", "--top", "0"], "--top must be a whole number from 1 to 1048576, got '0'"),
        (["model", "text", "--threads=many"], "--threads must be a whole number from 1 to 1024, got 'many'"),
        (["model", "text", "--json=1"], "--json takes no value"),
        (["model", "text", "--head", "tail"], "--head 'tail' is none of none, masked_lm, "),
        (["model", "text", "--lines"], "--lines reads the standard input"),
        (["model", "-", "-"], "'-' is given more than once"),
        (["model", "text", "--info"], "--info takes no TEXT"),
        (["model", "text", "--verify", "--no-verify"], "--verify and --no-verify are given"),
        (["model", "text", "--isa", "mmx"], "SBK_ISA='mmx' is not possible on this machine"),
    ],
)
def test_bad_usage(arguments, message):
    assert message in failure(2, *arguments)


def test_texts_that_do_not_fit_the_head(classifier, reader, exported):
    assert "takes one text, or two as a pair" in failure(2, classifier[1], "a", "b", "c")
    assert "takes a question and a context" in failure(2, reader[1], "a")
    assert "at least two choices" in failure(2, exported("SqueezeBertForMultipleChoice")[1], "a", "b")
    assert "has no [MASK]" in failure(2, exported("SqueezeBertForMaskedLM")[1], "a")
    assert "the context has no tokens" in failure(1, reader[1], "a", " ")
    assert "the question is too long" in failure(1, reader[1], "water " * 400, "a")
    done = run("sbk-run", "--lines", exported("SqueezeBertForMaskedLM")[1], text="a [MASK]\nno mask\nb [MASK]\n")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "sbk-run: error: line 2: the text has no [MASK] to fill",
        "sbk-run: error: 1 line was not answered",
    ]
    assert "> b [MASK]" in done.stdout  # the next one is answered


def test_bad_files(classifier, exported, tmp_path):
    assert "cannot read" in failure(1, tmp_path / "missing.sbk", "text")
    whole = classifier[1].read_bytes()
    (tmp_path / "text.sbk").write_text("this is no model")
    (tmp_path / "half.sbk").write_bytes(whole[: len(whole) // 2])
    for name in ("text.sbk", "half.sbk"):
        assert str(tmp_path / name) in failure(1, tmp_path / name, "text")
    damaged = bytearray(whole)
    damaged[-200] ^= 1
    (tmp_path / "damaged.sbk").write_bytes(damaged)
    for options in ([], ["--verify"]):  # the default: it is small
        assert "damaged.sbk" in failure(1, *options, tmp_path / "damaged.sbk", "text")
    assert run("sbk-run", "--no-verify", tmp_path / "damaged.sbk", "text").returncode == 0
    export(exported("SqueezeBertModel")[0], tmp_path / "mute.sbk")
    assert "the model has no tokenizer" in failure(1, tmp_path / "mute.sbk", "text")
    missing = failure(1, "--head", "question_answering", classifier[1], "a", "b")
    assert "no weights for the head question_answering" in missing


def test_a_full_disk_is_a_failure(classifier):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command("sbk-run"), str(classifier[1]), "text"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "sbk-run: error: cannot write to the standard output\n"


# Programs in C


def compiled(source, folder):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library, program = shared_library(), folder / source.stem
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{ROOT / 'csrc' / 'include'}"]
    subprocess.run(
        [compiler, *flags, source, f"-L{library}", f"-Wl,-rpath,{library}", "-lsqueezebert_kernels", "-o", program],
        check=True,
    )
    return program


def test_the_minimal_example(classifier, exported, tokenizer, tmp_path):
    program = compiled(ROOT / "examples" / "minimal" / "minimal.c", tmp_path)

    def lines(*arguments):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines(), done.stderr

    version = f"squeezebert_kernels {sbk.__version__}"
    assert lines() == (0, [version], "")
    model, file = classifier
    logits = logits_of(model, tokenizer, TEXT)
    status, (first, best), _ = lines(file, TEXT)
    assert (status, first) == (0, version)
    label, value = best.rsplit(": ", 1)
    assert label == model.config.id2label[int(logits.argmax())]
    assert float(value) == pytest.approx(float(logits.max()), rel=1e-4)
    assert len(lines(exported("SqueezeBertModel")[1], TEXT)[1]) == 5
    status, _, error = lines("missing.sbk", TEXT)
    assert (status, "missing.sbk" in error) == (1, True)


def test_the_program_in_the_documentation(classifier, exported, tokenizer, tmp_path):
    (code,) = re.findall(r"^```c\n(.*?)^```", (ROOT / "docs" / "phone.md").read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "pairs.c").write_text(code, encoding="utf-8")
    program = compiled(tmp_path / "pairs.c", tmp_path)
    model, file = classifier
    done = subprocess.run([program, file], capture_output=True, text=True, check=True)
    pairs = [("It rains.", "The sun shines."), ("A cat sleeps on the sofa.", "An animal rests.")]
    want = [(str(i), model.config.id2label[k], float(x)) for i, pair in enumerate(pairs)
            for k, x in enumerate(logits_of(model, tokenizer, *pair))]  # fmt: skip
    got = [line.split("  ") for line in done.stdout.splitlines()]
    assert [line[:2] for line in got] == [[number, label] for number, label, _ in want]
    np.testing.assert_allclose([float(line[2]) for line in got], [x for *_, x in want], rtol=1e-3, atol=1e-5)
    assert subprocess.run([program, exported("SqueezeBertModel")[1]], check=False).returncode == 2
