"""Which files an input stands for: every format, links, and what is left out and told."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from squeezebert_kernels.console import UserError
from squeezebert_kernels.corpus.sources import CODECS, KINDS, Found, find_sources

LINE = b'{"text": "one"}\n'


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def names(found: Found) -> list[str]:
    return [source.name for source in found.sources]


def refused(given: object) -> str:
    with pytest.raises(UserError) as error:
        find_sources(str(given))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_format_has_its_names(folder):
    pq.write_table(pa.table({"text": ["one"]}), folder / "a.parquet")
    want = {"a.parquet": ("parquet", None)}
    for end, kind in KINDS.items():
        if kind != "parquet":
            for codec_end, codec in {"": None, **CODECS}.items():
                with pa.output_stream(str(folder / f"x{end}{codec_end}"), compression=codec) as file:
                    file.write(LINE)
                want[f"x{end}{codec_end}"] = kind, codec
    (folder / "UPPER.JSONL").write_bytes(LINE)
    want["UPPER.JSONL"] = "jsonl", None
    found = find_sources(str(folder))
    assert {source.name: (source.kind, source.codec) for source in found.sources} == want
    assert names(found) == sorted(want)
    assert "1 .csv.gz" in found.counted()
    assert "compressed files are read from their beginning (30)" in found.notes()[0]


def test_what_is_left_out_is_told_by_name(folder):
    for name in (
        "a.jsonl",
        "README.md",
        "x.txt",
        "y.txt",
        "z.txt",
        "w.txt",
        "LICENSE",
        ".hidden",
        "_SUCCESS",
        "b.parquet.gz",
    ):
        (folder / name).write_bytes(LINE)
    (folder / "list.json").write_text('[{"text": "one"}]')
    (folder / "pretty.json").write_text('{\n "text": "one"\n}\n')
    (folder / "lines.json").write_bytes(b"\xef\xbb\xbf\n" + LINE * 2)
    (folder / "empty.json").write_bytes(b"")
    (folder / "_tmp").mkdir()
    (folder / "_tmp/c.jsonl").write_bytes(LINE)
    os.mkfifo(folder / "pipe.jsonl")
    found = find_sources(str(folder))
    assert names(found) == ["a.jsonl", "empty.json", "lines.json"]
    assert found.left_out == {
        "names that begin with . or _": [".hidden", "_SUCCESS", "_tmp"],
        "files .txt": ["w.txt", "x.txt", "y.txt", "z.txt"],
        "files .md": ["README.md"],
        "files .parquet.gz": ["b.parquet.gz"],
        "files without an end of the name": ["LICENSE"],
        "JSON files whose first line is no object": ["list.json", "pretty.json"],
        "that are no regular files": ["pipe.jsonl"],
    }
    assert "left out: 4 files .txt: w.txt, x.txt, y.txt, ..." in found.notes()


def test_linked_folders_are_read_once(folder, tmp_path):
    (folder / "a.jsonl").write_bytes(LINE)
    (folder / "sub").mkdir()
    (folder / "sub/b.jsonl").write_bytes(LINE)
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/c.jsonl").write_bytes(LINE)
    for link, target in {
        "0-inside": "sub", "more": "../disk", "again": "../disk", "sub/up": "..", "sub/self": ".",
        "d.jsonl": "../disk/c.jsonl",
    }.items():  # fmt: skip
        os.symlink(target, folder / link)
    os.symlink("../in", tmp_path / "disk/back")
    found = find_sources(str(folder))
    assert names(found) == ["a.jsonl", "again/c.jsonl", "d.jsonl", "sub/b.jsonl"]
    assert found.linked == ["again"]
    assert sorted(found.left_out["links to folders that are read already"]) == [
        "0-inside", "again/back", "more", "sub/self", "sub/up",
    ]  # fmt: skip
    assert found.folders == {folder.resolve(), (folder / "sub").resolve(), (tmp_path / "disk").resolve()}


@pytest.mark.parametrize("name", ["part-1.parquet", "more", "sub/part-2.jsonl"])
def test_a_link_that_leads_nowhere_ends_the_run(folder, name):
    (folder / "a.jsonl").write_bytes(LINE)
    (folder / "sub").mkdir()
    os.symlink("/no/such/thing", folder / name)
    for given in (folder, folder / "**/*"):
        if given == folder or name != "more":
            assert f"{name}: is a link to '/no/such/thing', which does not exist" in refused(given)
    (folder / name).unlink()
    os.symlink(Path(name).name, folder / name)  # to itself
    assert "which does not exist" in refused(folder)


def test_what_is_named_must_be_readable(folder):
    os.mkfifo(folder / "pipe.jsonl")
    assert "is no regular file" in refused(folder / "pipe.jsonl")
    assert "neither Parquet, JSON lines nor CSV by its name" in refused("/dev/null")
    os.symlink("/dev/null", folder / "null.jsonl")
    assert "is no regular file" in refused(folder / "null.jsonl")
    (folder / "list.json").write_text("[1]")
    assert "its first line is no JSON object" in refused(folder / "list.json")
    assert "its first line is no JSON object" in refused(folder / "*.json")
    (folder / "bad.json.gz").write_text("not gzip")
    assert "bad.json.gz: cannot be read" in refused(folder / "bad.json.gz")
    assert "no such file" in refused(folder / "absent.jsonl")
    (folder / "sub").mkdir()
    (folder / "sub/a.txt").write_text("")
    assert "left out: 1 files .txt: a.txt" in refused(folder / "sub")
    (folder / "sub.d").mkdir()
    (folder / "sub.jsonl").write_bytes(LINE)
    found = find_sources(str(folder / "sub*"))
    assert names(found) == ["sub.jsonl"]
    assert len(found.left_out["folders that the glob names"]) == 2
