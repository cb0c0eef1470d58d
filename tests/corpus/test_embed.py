"""squeezebert-kernels embed: what is in its output, and what happens to it when things go wrong."""

from __future__ import annotations

import errno
import gzip
import importlib
import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from support.hf_models import TINY, stock

import squeezebert_kernels as sbk
from squeezebert_kernels import cli
from squeezebert_kernels.corpus.encoder import batches
from squeezebert_kernels.corpus.engines import RayWorker
from squeezebert_kernels.corpus.job import Job, Unit
from squeezebert_kernels.corpus.output import OutputFolder
from squeezebert_kernels.corpus.rows import ParquetRows, scan_lines

LABELS = {0: "good", 1: "bad", 2: "ugly"}
WORDS = ["the", "rain", "in", "spain", "stays", "mainly", "plain", "while", "we", "embed", "a", "billion", "documents"]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(30))) for _ in range(count)]


@pytest.fixture(scope="module")
def model(tmp_path_factory, bert_vocab) -> Path:
    """A tiny SqueezeBERT with a classifier."""
    folder = tmp_path_factory.mktemp("model")
    fields = {**TINY, "vocab_size": 30522, "max_position_embeddings": 24, "id2label": LABELS, "num_labels": 3}
    stock("SqueezeBertForSequenceClassification", **fields).save_pretrained(folder)
    sbk.SqueezeBertTokenizer(str(bert_vocab)).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Two files; row groups that fit no shard, an empty text and texts that are too long."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = ["", *texts(40, 1), "long " * 100]
    table = pa.table({"key": [f"k{i}" for i in range(42)], "text": pa.array(rows), "x": list(range(42))})
    pq.write_table(table, folder / "a.parquet", row_group_size=9)
    write_jsonl(folder / "b.jsonl", [{"key": f"j{i}", "text": text} for i, text in enumerate(texts(20, 2))])
    return folder


def embed(*args: object) -> int:
    return cli.main(["embed", *map(str, args), "--threads", "1"])


def one_error(capsys) -> str:
    """What is on standard error, which must be one line."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("squeezebert-kernels embed: error: ")
    return error


def files(out: Path) -> dict[str, bytes]:
    """Every result of a run, without what belongs to a machine or a moment."""
    return {
        str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix in (".parquet", ".jsonl")
    }  # fmt: skip


def of_transformers(model: Path, name: str, rows: list[str]):
    """What transformers makes of each text alone."""
    net = getattr(transformers, name).from_pretrained(model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    with torch.inference_mode():
        return [net(**tokenizer(row, truncation=True, max_length=24, return_tensors="pt")) for row in rows]


@pytest.mark.parametrize(
    "options, dtype, tolerance",
    [
        ((), pa.float32(), 1e-5),
        (("--pooling", "cls", "--no-normalize", "--float16"), pa.float16(), 2e-3),
        (("--dtype", "int8"), pa.float32(), 0.05),
    ],
)
def test_embeddings_are_those_of_transformers(model, corpus, tmp_path, options, dtype, tolerance):
    out = tmp_path / "out"
    common = ["--model", model, "--rows-per-shard", 16, "--id-column", "key", "--batch-tokens", 100]
    assert embed(corpus, out, *common, *options) == 0
    shards = sorted(out.glob("*.parquet"))
    assert [pq.read_metadata(shard).num_rows for shard in shards] == [16, 16, 10, 16, 4]
    table = pa.concat_tables(map(pq.read_table, shards))
    assert table.schema.field("embedding").type == pa.list_(dtype, 32)
    assert table["file"].to_pylist() == ["a.parquet"] * 42 + ["b.jsonl"] * 20
    assert table["row"].to_pylist() == [*range(42), *range(20)]
    assert table["id"].to_pylist() == [f"k{i}" for i in range(42)] + [f"j{i}" for i in range(20)]
    assert pq.read_table(out).num_rows == 62, "readers of folders must pass over what else is in it"

    rows = ["", *texts(40, 1), "long " * 100, *texts(20, 2)]
    hidden = [output.last_hidden_state[0] for output in of_transformers(model, "SqueezeBertModel", rows)]
    want = torch.stack([h[0] if "cls" in options else h.mean(0) for h in hidden])
    if "--no-normalize" not in options:
        want = torch.nn.functional.normalize(want, dim=1)
    got = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(got, want.numpy(), atol=tolerance * want.abs().max().item())


def test_classes_are_those_of_transformers(model, tmp_path, capsys):
    rows = texts(30)
    source = write_jsonl(tmp_path / "in.jsonl", [{"body": text} for text in rows])
    assert embed(source, tmp_path / "out", "--model", model, "--task", "classify", "--text-column", "body") == 0
    assert "3 of 3 parts on the kernels" in capsys.readouterr().out
    table = pq.read_table(tmp_path / "out")
    outputs = of_transformers(model, "SqueezeBertForSequenceClassification", rows)
    scores = torch.cat([output.logits for output in outputs]).softmax(1)
    assert table["label"].to_pylist() == [LABELS[i] for i in scores.argmax(1).tolist()]
    np.testing.assert_allclose(table["score"].to_numpy(), scores.amax(1).numpy(), atol=1e-5)


BAD = {
    b"{": "not JSON", b"\xff\xfe": "not UTF-8", b"": "blank", b"[1]": "a list", b'{"other": 1}': "no field 'text'",
    b'{"text": null}': "null", b'{"text": 3}': "of type int", b'{"text": "\\ud800"}': "not Unicode",
    b'{"text": "a", "text": "b"}': "twice", b"[" * 100000: "nested", b'{"text": "x", "n": ' + b"1" * 5000 + b"}": "",
    b'{"text": "x", "key": "\\udfff"}': "not Unicode",
}  # fmt: skip


def test_bad_rows_are_named_and_do_no_harm(model, tmp_path, capsys):
    good = texts(6)
    rows: list = [{"text": text, "key": i} for i, text in enumerate(good)]
    lines = [row for bad, one in zip(BAD, rows * 2) for row in (bad, one)]
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [b"\xef\xbb\xbf" + json.dumps(rows[0]).encode(), *lines])
    bytes_column = pa.array([b"fine", None, b"\xc3\x28", "größer".encode()])
    pq.write_table(pa.table({"text": bytes_column, "key": list("abcd")}), folder / "b.parquet")
    common = [folder, tmp_path / "out", "--model", model, "--id-column", "key", "--rows-per-shard", 8]
    assert embed(*common) == 0
    told = capsys.readouterr().err
    assert "a.jsonl row 1: not JSON" in told
    assert f"{len(BAD) + 2} bad rows" in told
    table = pq.read_table(tmp_path / "out")
    # Bad rows are the odd ones.
    assert table["row"].to_pylist() == [*range(0, 2 * len(BAD) + 1, 2), 0, 3]
    assert table["id"].to_pylist() == ["0", *[str(i % 6) for i in range(len(BAD))], "a", "d"]
    listed = [json.loads(s) for p in sorted((tmp_path / "out/_errors").iterdir()) for s in p.read_text().splitlines()]
    assert [(one["file"], one["row"]) for one in listed] == [
        *(("a.jsonl", 2 * i + 1) for i in range(len(BAD))), ("b.parquet", 1), ("b.parquet", 2),
    ]  # fmt: skip
    for one, reason in zip(listed, [*BAD.values(), "null", "not UTF-8"], strict=True):
        assert reason in one["reason"]
    before = files(tmp_path / "out")
    assert embed(*common, "--strict") == 1, "bad rows of an earlier run count"
    assert files(tmp_path / "out") == before


def test_without_a_good_row_the_run_has_failed(model, tmp_path, capsys):
    source = write_jsonl(tmp_path / "in.jsonl", [b"{", {"text": None}])
    for _ in ("the run", "and one that finds everything finished"):
        assert embed(source, tmp_path / "out", "--model", model) == 1
        assert "no row of 2 has a result" in capsys.readouterr().err
    write_jsonl(source, [])
    assert embed(source, tmp_path / "empty", "--model", model) == 0


def test_what_is_left_out_is_shown(model, corpus, tmp_path, capsys):
    (corpus / "notes.txt").write_text("")
    (tmp_path / "more").mkdir()
    write_jsonl(tmp_path / "more/c.jsonl", [{"text": "one"}])
    os.symlink("../more", corpus / "more")
    assert embed(corpus, tmp_path / "out", "--model", model) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == ["linked folders are read too (1): more", "left out: 1 files .txt: notes.txt"]
    assert "3 files (2 .jsonl, 1 .parquet), 63 rows" in told.out
    assert embed(corpus, tmp_path / "more/out", "--model", model) == 1
    assert "must not lie in one another" in one_error(capsys)


KILLED = """
import os, signal, sys
from squeezebert_kernels import cli
replace, files = os.replace, []
def last(*args):
    files.append(args)
    if len(files) == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*args)
os.replace = last
cli.main(sys.argv[1:])
"""


def test_killed_and_continued_is_as_if_never_killed(model, tmp_path):
    rows = [b"bad" if i % 50 == 7 else {"text": text} for i, text in enumerate(texts(300))]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    common = ["--model", model, "--rows-per-shard", 16]
    assert embed(source, tmp_path / "whole", *common) == 0
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, "embed", source, out, *common, "--threads", 1]
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = {p: p.stat().st_mtime_ns for p in out.glob("*.parquet")}
    assert 5 < len(finished) < 10
    assert list((out / "_tmp").iterdir()), "it was to be killed while it wrote"
    assert embed(source, out, *common) == 0
    assert files(out) == files(tmp_path / "whole")
    assert {p: p.stat().st_mtime_ns for p in finished} == finished, "what was finished must not be done again"
    assert not list((out / "_tmp").iterdir())


def test_ray_gives_the_same_files(model, corpus, tmp_path):
    with (corpus / "b.jsonl").open("a") as file:
        file.write("bad\n")
    with gzip.open(corpus / "c.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text, "key": i}) + "\n" for i, text in enumerate(texts(20, 3)))
    (corpus / "d.csv").write_text("key,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(texts(20, 4))))
    common = ["--model", model, "--id-column", "key", "--rows-per-shard", 16]
    assert embed(corpus, tmp_path / "local", *common) == 0
    command = [
        "-m",
        "squeezebert_kernels",
        "embed",
        corpus,
        tmp_path / "ray",
        *common,
        "--engine",
        "ray",
        "--workers",
        1,
    ]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "b.jsonl row 20: not JSON" in done.stderr
    assert "102 rows" in done.stdout
    assert len(files(tmp_path / "ray")) == 10
    assert files(tmp_path / "ray") == files(tmp_path / "local")


def test_a_worker_of_ray_says_what_is_wrong(model, tmp_path):
    # Whatever an actor raises, Ray tries again for ever.
    unit = Unit(str(tmp_path / "gone.jsonl"), "gone.jsonl", 0, 0, 1, "jsonl", None, 0, 9)
    for job, message in (
        (Job(str(model), str(tmp_path)), "gone.jsonl: rows 0 to 0 cannot be read"),
        (Job(str(model), str(tmp_path), identity="other"), "is not the model with which the run was begun"),
        (Job(str(tmp_path), str(tmp_path)), "no config.json"),
    ):
        assert message in RayWorker(job)({"unit": json.dumps(asdict(unit))})["failure"]


def test_only_the_same_run_can_be_continued(model, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    common = [corpus, out, "--model", model, "--rows-per-shard", 16]
    assert embed(*common) == 0
    before = files(out)
    capsys.readouterr()
    for option, message in (
        (("--dtype", "bfloat16"), "dtype was 'float32', now 'bfloat16'"),
        (("--max-length", 8), "max_length was 24, now 8"),
        (("--id-column", "key"), "id_column was None, now 'key'"),
    ):
        assert embed(*common, *option) == 1
        assert message in one_error(capsys)
    lock = OutputFolder(out, json.loads((out / "_manifest.json").read_text()), {}, overwrite=False)
    assert embed(*common) == 1
    assert "another run" in one_error(capsys)
    lock.close()
    write_jsonl(corpus / "b.jsonl", [{"text": "changed"}])
    assert embed(*common) == 1
    assert "'b.jsonl' has changed" in one_error(capsys)
    assert files(out) == before
    (out / "mine.txt").write_text("not ours")
    assert embed(*common, "--overwrite") == 0
    assert [pq.read_metadata(p).num_rows for p in sorted(out.glob("*.parquet"))] == [16, 16, 10, 1]
    assert (out / "mine.txt").exists()
    old = json.loads((out / "_manifest.json").read_text())
    (out / "_manifest.json").write_text(json.dumps({**old, "format": 1}))
    capsys.readouterr()
    assert embed(*common) == 1
    assert "is of format 1, this version writes 2: --overwrite begins anew" in one_error(capsys)
    (out / "_manifest.json").write_text("{")
    capsys.readouterr()
    assert embed(*common) == 1
    assert "is damaged" in one_error(capsys)


def test_another_model_cannot_continue(model, corpus, tmp_path, capsys):
    assert embed(corpus, tmp_path / "out", "--model", model) == 0
    other = tmp_path / "other"
    stock("SqueezeBertModel", **{**TINY, "vocab_size": 30522, "max_position_embeddings": 24}).save_pretrained(other)
    for file in model.glob("*token*"):
        (other / file.name).write_bytes(file.read_bytes())
    capsys.readouterr()
    assert embed(corpus, tmp_path / "out", "--model", other) == 1
    assert "identity was" in one_error(capsys)
    assert embed(corpus, tmp_path / "new", "--model", other, "--task", "classify") == 1
    assert "is no classifier: it has no classifier.bias" in one_error(capsys)


def test_a_full_disk_loses_nothing(model, corpus, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    common = [corpus, out, "--model", model, "--rows-per-shard", 16]
    calls = []

    def fsync(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            return
        calls.append(file)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert embed(*common) == 1
    assert "the output cannot be written: No space left on device" in one_error(capsys)
    assert len(list(out.glob("*.parquet"))) == 2
    assert not list((out / "_tmp").iterdir())
    assert embed(*common) == 0
    assert len(list(out.glob("*.parquet"))) == 5


def test_what_a_user_gets_wrong_is_one_line(model, corpus, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    (tmp_path / "cut.parquet").write_bytes((corpus / "a.parquet").read_bytes()[:500])
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("")
    out = tmp_path / "out"
    for args, message in (
        ((tmp_path / "no.parquet", out), "there is no such file"),
        ((tmp_path / "empty", out), "there is no such file"),
        ((tmp_path / "file", out), "neither Parquet, JSON lines nor CSV by its name"),
        ((tmp_path / "twice.parquet", out), "more than one column 'text'"),
        ((tmp_path / "cut.parquet", out), "no readable Parquet file"),
        ((corpus / "a.parquet", out, "--text-column", "words"), "no column 'words'; it has 'key', 'text', 'x'"),
        ((corpus / "b.jsonl", out, "--text-column", "words"), "no field 'words'"),
        ((corpus / "a.parquet", out, "--text-column", "x"), "of type int64, not text"),
        ((corpus, out, "--id-column", "x"), "different types: int64"),
        ((corpus, tmp_path / "file"), "is a file"),
        ((corpus, tmp_path / "mine"), "holds files, but no _manifest.json"),
        ((corpus, corpus / "out"), "must not lie in one another"),
        ((corpus, out, "--max-length", 25), "the model takes 24 tokens"),
        ((corpus, out, "--batch-tokens", 0), "--batch-tokens must be at least 1, got 0"),
        ((corpus, out, "--workers", 2), "--workers needs --engine ray"),
        ((corpus, out, "--model", tmp_path / "empty"), "no config.json"),
        ((corpus, out, "--model", "no/such-model"), "the hub is switched off"),
    ):
        assert embed(*args[:2], "--model", model, *args[2:]) == 1, message
        assert message in one_error(capsys)
    assert not out.exists()


@pytest.mark.parametrize("package, extra", [("pyarrow", "corpus"), ("ray", "ray")])
def test_a_missing_package_is_one_line(model, corpus, tmp_path, capsys, monkeypatch, package, extra):
    ours = ("squeezebert_kernels.cli", "squeezebert_kernels.commands", "squeezebert_kernels.corpus")
    for name in [n for n in sys.modules if n.startswith(ours) or n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    main = importlib.import_module("squeezebert_kernels.cli").main  # must not need it
    assert main(["embed", str(corpus), str(tmp_path / "out"), "--model", str(model), "--engine", "ray"]) == 1
    assert f"pip install 'squeezebert-kernels[{extra}]'" in one_error(capsys)


def test_rows_are_found_in_any_order(tmp_path):
    table = pa.table({"text": [str(i) for i in range(100)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    units = [(first, min(16, 100 - first)) for first in range(0, 100, 16)]
    for order in (units, units[::-1], units[::2] + units[1::2], units * 2):
        reader = ParquetRows(str(tmp_path / "a.parquet"), ["text"])
        for first, rows in order:
            assert reader.read(first, rows).equals(table.slice(first, rows))
    draw = random.Random(0)
    for _ in range(200):
        data = b"".join(draw.choices([b"a", b"\n"], k=draw.randrange(12)))
        step = draw.randrange(1, 5)
        lines = data.splitlines(keepends=True)
        want = [len(b"".join(lines[:i])) for i in range(0, len(lines), step)]
        assert scan_lines(io.BytesIO(data), step) == (len(lines), [*want, len(data)])


def test_batches_hold_what_they_may():
    lengths = [random.Random(i).randrange(40) for i in range(200)] + [500]
    found = batches(lengths, 128)
    assert sorted(i for batch in found for i in batch) == list(range(201))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 128 for batch in found)
    assert len(found) < 2 * sum(lengths) / 128
