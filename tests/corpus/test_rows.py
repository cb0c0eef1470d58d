"""Rows of compressed JSON lines and CSV in any order, ids of several types, and fields that come late."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from squeezebert_kernels.console import UserError
from squeezebert_kernels.corpus.job import Job, Unit
from squeezebert_kernels.corpus.rows import Reader, cut
from squeezebert_kernels.corpus.sources import find_sources

JOB = Job("unused", "unused")


def prepared(given: Path, step: int = 4096, **options: Any) -> tuple[list[Unit], Reader]:
    job = dataclasses.replace(JOB, **options)
    units, id_type = cut(find_sources(str(given)).sources, step, job)
    return units, Reader(dataclasses.replace(job, id_type=id_type))


def everything(given: Path, step: int = 4096, **options: Any) -> tuple[list[str], list[Any], list[tuple[int, str]]]:
    """Texts, ids, and numbers and reasons of the bad rows."""
    units, reader = prepared(given, step, **options)
    read = [reader(unit) for unit in units]
    ids = [value for rows in read if rows.ids is not None for value in rows.ids.to_pylist()]
    bad = [(one.row, one.reason) for rows in read for one in rows.bad]
    return [text for rows in read for text in rows.texts], ids, bad


def refused(given: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        everything(given, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path: Path, data: bytes, codec: str | None) -> Path:
    with pa.output_stream(str(path), compression=codec) as file:
        file.write(data)
    return path


@pytest.mark.parametrize(
    "end, codec", [("", None), (".gz", "gzip"), (".zst", "zstd"), (".bz2", "bz2"), (".lz4", "lz4")]
)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_units_are_read_in_any_order(tmp_path, kind, end, codec):
    texts = [f"row {i} " + "x" * (i % 7) for i in range(50)]
    lines = [json.dumps({"text": text}) if kind == "jsonl" else f'{i},"{text}"' for i, text in enumerate(texts)]
    data = "\n".join([*(["n,text"] if kind == "csv" else []), *lines]).encode()
    units, reader = prepared(write(tmp_path / f"a.{kind}{end}", data, codec), 8)
    assert [unit.rows for unit in units] == [8] * 6 + [2]
    draw = random.Random(0)
    for order in (units, units[::-1], draw.sample(units, 7), units[::2]):
        for unit in order:
            rows = reader(unit)
            assert rows.texts == texts[unit.first : unit.first + unit.rows]
            assert rows.numbers == [*range(unit.first, unit.first + unit.rows)]


def test_a_link_may_have_another_name_than_its_file(tmp_path):
    write(tmp_path / "blob", b'{"text": "one"}\n', "gzip")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl.gz").symlink_to(tmp_path / "blob")
    assert everything(tmp_path / "in")[0] == ["one"]


def test_gzip_in_parts_and_damaged_gzip(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    lines = [json.dumps({"text": str(i)}).encode() + b"\n" for i in range(3)]
    file.write_bytes(b"".join(map(gzip.compress, lines)))
    assert everything(file)[0] == ["0", "1", "2"]
    whole = gzip.compress(b"".join(lines) * 100)
    for damaged in (whole[:-9], whole + b"garbage", b"plain", whole[:30] + b"\0" * 40 + whole[70:]):
        file.write_bytes(damaged)
        assert "a.jsonl.gz: cannot be read" in refused(file)


CSV = (
    b'\xef\xbb\xbftext,id\r\n"two\nlines",1\r\n\r\nx,\r\n"a ""quote""",NULL\r\n'
    b"\xff,5\r\ntoo,many,fields\r\nfew\r\n007,8\r\n,9\r\n"
)


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_csv(tmp_path, step):
    (tmp_path / "a.csv").write_bytes(CSV)
    texts, ids, bad = everything(tmp_path / "a.csv", step, id_column="id")
    assert texts == ["two\nlines", "x", 'a "quote"', "007", ""]
    assert ids == ["1", "", "NULL", "8", "9"]
    assert [row for row, _ in bad] == [3, 4, 5]
    assert "not UTF-8" in bad[0][1]
    assert bad[1][1] == "3 fields, not 2"
    assert bad[2][1] == "1 fields, not 2"


def test_tsv_and_csv_that_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"text\tid\none, two\t1\n")
    assert everything(tmp_path / "a.tsv", id_column="id")[:2] == (["one, two"], ["1"])
    for data, message in (
        (b"", "no readable CSV file: Empty CSV file"),
        (b"a,b\n1,2\n", "has no column 'text'; it has 'a', 'b'"),
        (b"text,text\n1,2\n", "more than one column 'text'"),
        ("text\nx\n".encode("utf-16"), "no readable CSV file"),
    ):
        (tmp_path / "a.csv").write_bytes(data)
        assert message in refused(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"text\n")
    assert everything(tmp_path / "a.csv") == ([], [], [])


def test_a_quotation_mark_that_is_not_closed_is_told(tmp_path):
    for name, data, odd in (("a.csv", b'id,text\n1,"two\n2,b\n', True), ("b.csv", b'text\n"two ""words"""\n', False)):
        (tmp_path / name).write_bytes(data)
        found = find_sources(str(tmp_path / name))
        cut(found.sources, 8, JOB)
        assert any("an odd number of quotation marks" in note for note in found.notes()) == odd


def test_a_text_field_that_comes_late(tmp_path):
    late = [b'{"other": 1}\n'] * 150 + [b'{"text": "here"}\n']
    for name, codec in (("a.jsonl", None), ("b.jsonl.gz", "gzip")):
        texts, _, bad = everything(write(tmp_path / name, b"".join(late), codec))
        assert texts == ["here"]
        assert len(bad) == 150
    (tmp_path / "in").mkdir()
    for name, lines in (("a.jsonl", late[:150]), ("b.jsonl", late)):
        (tmp_path / "in" / name).write_bytes(b"".join(lines))
    assert everything(tmp_path / "in")[0] == ["here"]
    (tmp_path / "in/b.jsonl").unlink()
    assert "no field 'text' in any line of" in refused(tmp_path / "in")
    (tmp_path / "in/a.jsonl").write_bytes(b"bad\n")
    assert everything(tmp_path / "in")[0] == [], "not one line is an object: they are bad rows"


@pytest.mark.parametrize(
    "first, second, common",
    [
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), pa.string_view(), pa.string()),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int32(), pa.int32()),
        (pa.dictionary(pa.int32(), pa.string()), pa.string(), pa.string()),
        (pa.null(), pa.int16(), pa.int16()),
    ],
)
def test_ids_of_types_that_convert(tmp_path, first, second, common):
    values = ["1", "2"] if pa.types.is_string(common) or pa.types.is_large_string(common) else [1, 2]
    for name, kind in (("a", first), ("b", second)):
        ids = pa.array([None, None] if kind == pa.null() else values).cast(kind)
        pq.write_table(
            pa.table(
                {
                    "text": pa.array(["x", "y"], second if name == "b" and pa.types.is_large_string(second) else None),
                    "id": ids,
                }
            ),
            tmp_path / f"{name}.parquet",
        )
    units, reader = prepared(tmp_path, id_column="id")
    read = [reader(unit).ids for unit in units]
    assert [ids.type for ids in read] == [common, common]
    assert read[1].to_pylist() == values


def test_ids_of_types_that_do_not_convert(tmp_path):
    for name, ids in (("a", [1, 2]), ("b", ["x", "y"])):
        pq.write_table(pa.table({"text": ["x", "y"], "id": ids}), tmp_path / f"{name}.parquet")
    assert "--id-column 'id' is of different types: int64 in" in refused(tmp_path, id_column="id")
    big = pa.array([2**64 - 1, 1], pa.uint64())
    pq.write_table(pa.table({"text": ["x", "y"], "id": big}), tmp_path / "b.parquet")
    assert "b.parquet: rows 0 to 1 cannot be read" in refused(tmp_path, id_column="id")


def test_a_unit_is_not_read_from_a_file_that_has_changed(tmp_path):
    for name, codec in (("a.csv", None), ("a.csv.gz", "gzip")):
        units, reader = prepared(write(tmp_path / name, b"text\none\ntwo\n", codec))
        write(tmp_path / name, b"text\none\n", codec)
        with pytest.raises(UserError, match="has changed since its rows were counted"):
            reader(units[0])
