"""Rows of Parquet and JSONL files: which there are, how they are cut into units, and the texts in them."""

from __future__ import annotations

import glob
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np

from ..console import UserError
from .job import Bad, Job, Unit, need, one_line

FORMATS = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
TEXT_TYPES = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")
PROBED = 100  # lines in which a JSONL file must show the text field


@dataclass
class Source:
    """One input file."""

    path: str
    name: str
    kind: str
    size: int
    mtime_ns: int
    rows: int = 0
    offsets: list[int] = field(default_factory=list)  # JSONL: where each unit begins, and the end of the file


def find_sources(given: str) -> list[Source]:
    """The files that ``given`` (a file, a folder or a glob) stands for, sorted by name; UserError if there are none."""
    path = Path(given)
    if path.is_dir():
        root = path
        found = [p for p in path.rglob("*") if p.suffix.lower() in FORMATS and p.is_file() and not _hidden(p, path)]
    elif path.exists():
        root, found = path.parent, [path]
    else:
        found = [Path(p) for p in glob.glob(given, recursive=True) if os.path.isfile(p)]
        root = Path(os.path.commonpath([p.parent for p in found])) if found else path
    if not found:
        raise UserError(f"INPUT {given!r}: there is no such file, and no {', '.join(FORMATS)} in such a folder or glob")
    sources = []
    for file in found:
        if file.suffix.lower() not in FORMATS:
            raise UserError(f"{file}: neither Parquet nor JSON lines by its name ({', '.join(FORMATS)})")
        kind, status = FORMATS[file.suffix.lower()], file.stat()
        name = file.relative_to(root).as_posix()
        sources.append(Source(str(file.resolve()), name, kind, status.st_size, status.st_mtime_ns))
    return sorted(sources, key=lambda source: source.name)


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith((".", "_")) for part in file.relative_to(root).parts)


def cut(sources: Sequence[Source], rows_per_shard: int, job: Job) -> list[Unit]:
    """The units of all files in order; fills ``rows`` and ``offsets`` of the sources.

    Raises:
        UserError: a file cannot be read, a column is missing or there twice, or ids are of different types.
    """
    pa = need("pyarrow", "corpus")
    id_types: dict[Any, str] = {}
    fields: set[str] | None = None
    texts_seen = False
    for source in sources:
        try:
            if source.kind == "parquet":
                schema, source.rows = _check_parquet(source, job)
                texts_seen = True
                kind = id_type(schema, job.id_column) if job.id_column else None
            else:
                source.rows, source.offsets = scan_lines(source.path, rows_per_shard)
                seen = _fields(source.path)
                texts_seen |= seen is None or job.text_column in seen
                fields = fields or seen
                kind = pa.string()
        except OSError as error:
            raise UserError(f"{source.path}: cannot be read: {error.strerror or one_line(error)}") from None
        if job.id_column:
            id_types.setdefault(kind, source.path)
    if not texts_seen:
        raise UserError(
            f"--text-column: no field {job.text_column!r} in the first {PROBED} lines of {sources[0].path} "
            f"or of any other file; the first row has {', '.join(map(repr, sorted(fields or ())))}"
        )
    if len(id_types) > 1:
        kinds = "; ".join(f"{kind} in {path}" for kind, path in id_types.items())
        raise UserError(f"--id-column {job.id_column!r} is of different types: {kinds}")
    units = []
    for number, source in enumerate(sources):
        for i, first in enumerate(range(0, source.rows, rows_per_shard)):
            rows = min(rows_per_shard, source.rows - first)
            begin, end = source.offsets[i : i + 2] if source.offsets else (0, 0)
            units.append(Unit(source.path, source.name, number, first, rows, begin, end - begin))
    return units


def _check_parquet(source: Source, job: Job) -> tuple[Any, int]:
    pa, parquet = need("pyarrow", "corpus"), need("pyarrow.parquet", "corpus")
    try:
        with parquet.ParquetFile(source.path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except pa.ArrowException as error:
        raise UserError(f"{source.path}: no readable Parquet file: {one_line(error)}") from None
    for option, column in (("--text-column", job.text_column), ("--id-column", job.id_column)):
        if column is not None and schema.names.count(column) != 1:
            times = "no" if column not in schema.names else "more than one"
            names = ", ".join(map(repr, schema.names[:20]))
            raise UserError(f"{option}: {source.path} has {times} column {column!r}; it has {names}")
    kind = schema.field(job.text_column).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if str(value) not in TEXT_TYPES:
        raise UserError(f"--text-column: {job.text_column!r} in {source.path} is of type {kind}, not text")
    return schema, rows


def id_type(schema: Any, column: str) -> Any:
    """The type of ids from a Parquet column: its own, except that views, with which Arrow can do little, are copied."""
    pa = need("pyarrow", "corpus")
    kind = schema.field(column).type
    return {"string_view": pa.string(), "binary_view": pa.binary()}.get(str(kind), kind)


def scan_lines(path: str, step: int) -> tuple[int, list[int]]:
    """(number of lines, where every ``step``-th one begins and where the file ends), without parsing."""
    rows = position = 0
    offsets, last = [0], 10
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
            offsets += (position + 1 + ends[step - 1 - rows % step :: step]).tolist()
            rows += len(ends)
            position += len(block)
            last = block[-1]
    rows += last != 10
    return rows, [*offsets[: -(-rows // step)], position]


def _fields(path: str) -> set[str] | None:
    """The fields of the objects in the first lines; None where no line is an object."""
    seen: set[str] | None = None
    with open(path, "rb") as file:
        for line in islice(file, PROBED):
            try:
                value = parse_line(line)
            except ValueError:
                continue
            seen = (seen or set()) | set(value)
    return seen


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return result


def parse_line(line: bytes) -> dict[str, Any]:
    """The object on a line of JSONL; ValueError that says what is wrong with it."""
    text = line.decode("utf-8", "strict") if line.strip() else ""
    if not text:
        raise ValueError("the line is blank")
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("not readable JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"the line holds a {type(value).__name__}, not an object")
    return value


@dataclass
class Rows:
    """The rows of a unit."""

    numbers: list[int]  # of the good rows, in the file
    texts: list[str]  # likewise
    ids: Any  # Arrow array of the good rows' ids, or None
    bad: list[Bad]


class Reader:
    """Reads units; quickest where they come in the order of the rows."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.open: ParquetRows | None = None

    def __call__(self, unit: Unit) -> Rows:
        """The rows of ``unit``; UserError where the file has changed or is damaged."""
        pa = need("pyarrow", "corpus")
        texts, numbers, ids, bad = [], [], [], []
        found: Any = None
        try:
            for i, (text, row_id) in enumerate(self._lines(unit) if unit.size else self._parquet(unit)):
                if isinstance(text, ValueError):
                    bad.append(Bad(unit.name, unit.first + i, _reason(text)))
                    continue
                texts.append(text)
                numbers.append(unit.first + i)
                ids.append(row_id)
            if self.job.id_column is not None:
                kept = pa.array(np.asarray(numbers, np.int64) - unit.first)
                found = pa.array(ids, pa.string()) if unit.size else self.ids.take(kept)
        except (OSError, pa.ArrowException) as error:
            where = f"rows {unit.first} to {unit.first + unit.rows - 1}"
            raise UserError(f"{unit.path}: {where} cannot be read: {one_line(error)}") from None
        if len(texts) + len(bad) != unit.rows:
            raise UserError(f"{unit.path}: has changed since its rows were counted")
        return Rows(numbers, texts, found, bad)

    def _lines(self, unit: Unit) -> Iterator[tuple[str | ValueError, str | None]]:
        with open(unit.path, "rb") as file:
            file.seek(unit.offset)
            data = file.read(unit.size)
        if unit.first == 0:
            data = data.removeprefix(b"\xef\xbb\xbf")
        for line in data.removesuffix(b"\n").split(b"\n"):
            try:
                value = parse_line(line)
                yield check_text(value, self.job.text_column), _id_text(value, self.job.id_column)
            except ValueError as error:
                yield error, None

    def _parquet(self, unit: Unit) -> Iterator[tuple[str | ValueError, None]]:
        pa = need("pyarrow", "corpus")
        if self.open is None or self.open.path != unit.path:
            self.open = ParquetRows(unit.path, list(filter(None, (self.job.text_column, self.job.id_column))))
        table = self.open.read(unit.first, unit.rows).combine_chunks()
        if self.job.id_column:
            self.ids = table.column(self.job.id_column).combine_chunks().cast(id_type(table.schema, self.job.id_column))
        for chunk in table.column(self.job.text_column).chunks:
            # As bytes: Arrow does not look whether the bytes of a string are UTF-8.
            plain = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
            for data in plain.cast(pa.large_binary()).to_pylist():
                try:
                    yield _decoded(data, self.job.text_column), None
                except ValueError as error:
                    yield error, None


def _decoded(data: bytes | None, column: str) -> str:
    if data is None:
        raise ValueError(f"{column!r} is null")
    return data.decode("utf-8", "strict")


def check_text(value: dict[str, Any], column: str) -> str:
    """The text in a row; ValueError that says why there is none."""
    if column not in value:
        raise ValueError(f"no field {column!r}")
    text = value[column]
    if not isinstance(text, str):
        kind = "null" if text is None else f"of type {type(text).__name__}, not text"
        raise ValueError(f"{column!r} is {kind}")
    text.encode("utf-8", "strict")  # JSON can hold half a character, "\ud800", which no tokenizer takes
    return text


def _id_text(value: dict[str, Any], column: str | None) -> str | None:
    row_id = None if column is None else value.get(column)
    row_id = row_id if row_id is None or isinstance(row_id, str) else json.dumps(row_id)
    (row_id or "").encode("utf-8", "strict")
    return row_id


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start}"
    if isinstance(error, UnicodeEncodeError):
        return f"not Unicode: {error.reason} at character {error.start}"
    return str(error)


class ParquetRows:
    """Rows of a Parquet file by number, with little memory however large its row groups are."""

    def __init__(self, path: str, columns: list[str]) -> None:
        self.path = path
        self.columns = columns
        self.file = need("pyarrow.parquet", "corpus").ParquetFile(path)
        groups = self.file.metadata.num_row_groups
        self.starts = [0, *accumulate(self.file.metadata.row_group(i).num_rows for i in range(groups))][:groups]
        self.batches: Iterator[Any] = iter(())
        self.rest: Any = None  # of the last batch
        self.position = self.file.metadata.num_rows + 1  # of the next row that batches give

    def read(self, first: int, rows: int) -> Any:
        """A table of ``rows`` rows; fewer if the file ends before."""
        group = bisect_right(self.starts, first) - 1
        if first < self.position or self.starts[group] > self.position:
            groups = list(range(group, len(self.starts)))
            self.batches = self.file.iter_batches(rows, row_groups=groups, columns=self.columns)
            self.position, self.rest = self.starts[group], None
        parts: list[Any] = []
        missing = rows
        while missing:
            batch = next(self.batches, None) if self.rest is None else self.rest
            if batch is None:
                break
            skipped = min(first - self.position if not parts else 0, batch.num_rows)
            taken = min(missing, batch.num_rows - skipped)
            parts += [batch.slice(skipped, taken)] if taken else []
            missing -= taken
            self.position += skipped + taken
            left = batch.num_rows - skipped - taken
            self.rest = batch.slice(skipped + taken) if left else None
        return need("pyarrow", "corpus").Table.from_batches(parts, self._schema())

    def _schema(self) -> Any:
        schema = self.file.schema_arrow
        return need("pyarrow", "corpus").schema([schema.field(name) for name in dict.fromkeys(self.columns)])
