"""Rows of the input files: how they are cut into units, and the texts in them."""

from __future__ import annotations

import base64
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, BinaryIO

import numpy as np

from ..console import UserError
from .job import Bad, Job, Unit, need, one_line
from .lines import check_text, id_text, parse_line, reason_of
from .sources import Source, open_bytes, stream

TEXT_TYPES = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")
PROBED = 100  # lines of every file that are looked at for the text field before all lines are
CSV_BLOCK = 1 << 24  # bytes: the longest row that can be read

Text = str | ValueError  # or why there is none


def cut(sources: Sequence[Source], rows_per_shard: int, job: Job) -> tuple[list[Unit], str]:
    """The units of all files in order, and the type of ids for `Job.id_type`; fills ``rows`` of the sources.

    Raises:
        UserError: a file cannot be read, a column is missing or there twice, or ids are of types that do not convert.
    """
    pa = need("pyarrow", "corpus")
    id_types: dict[Any, str] = {}
    texts_seen = False
    for source in sources:
        try:
            if source.kind == "jsonl":
                with open_bytes(source.path, source.codec) as file:
                    source.rows, source.offsets = scan_lines(file, rows_per_shard)
                kind = pa.string()
            else:
                check = _check_parquet if source.kind == "parquet" else _check_csv
                kind, source.rows = check(source, job)
                texts_seen = True
        except OSError as error:
            raise UserError(f"{source.path}: cannot be read: {error.strerror or one_line(error)}") from None
        id_types.setdefault(kind, source.path)
    if not texts_seen:
        _find_field(sources, job.text_column)
    units = []
    for number, source in enumerate(sources):
        for i, first in enumerate(range(0, source.rows, rows_per_shard)):
            rows = min(rows_per_shard, source.rows - first)
            begin, end = source.offsets[i : i + 2] if source.offsets else (0, 0)
            unit = Unit(source.path, source.name, number, first, rows, source.kind, source.codec, begin, end - begin)
            units.append(unit)
    return units, _common_type(id_types, job.id_column) if job.id_column else ""


def _check_names(source: Source, job: Job, names: Sequence[str]) -> None:
    for option, column in (("--text-column", job.text_column), ("--id-column", job.id_column)):
        if column is not None and list(names).count(column) != 1:
            times = "no" if column not in names else "more than one"
            there = ", ".join(map(repr, names[:20]))
            raise UserError(f"{option}: {source.path} has {times} column {column!r}; it has {there}")


def _check_parquet(source: Source, job: Job) -> tuple[Any, int]:
    """The type of ids, and how many rows there are."""
    pa, parquet = need("pyarrow", "corpus"), need("pyarrow.parquet", "corpus")
    try:
        with parquet.ParquetFile(source.path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        _check_names(source, job, schema.names)
    except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter: names of columns
        raise UserError(f"{source.path}: no readable Parquet file: {one_line(error)}") from None
    kind = schema.field(job.text_column).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if str(value) not in TEXT_TYPES:
        raise UserError(f"--text-column: {job.text_column!r} in {source.path} is of type {kind}, not text")
    return schema.field(job.id_column).type if job.id_column else None, rows


def _check_csv(source: Source, job: Job) -> tuple[Any, int]:
    pa = need("pyarrow", "corpus")
    try:
        _check_names(source, job, CsvRows(source.path, source.kind, source.codec, []).names)
        columns = list(filter(None, (job.text_column, job.id_column)))
        with open_bytes(source.path, source.codec) as file:
            if sum(block.count(b'"') for block in iter(lambda: file.read(1 << 20), b"")) % 2:
                source.doubt = "an odd number of quotation marks: where one is not closed, a row holds those behind it"
        return pa.string(), CsvRows(source.path, source.kind, source.codec, columns).count()
    except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter: names of columns
        raise UserError(f"{source.path}: no readable CSV file: {one_line(error)}") from None


def _common_type(kinds: dict[Any, str], column: str) -> str:
    """The one type that ids of these types convert to, as text."""
    pa = need("pyarrow", "corpus")
    plain = [{"string_view": pa.string(), "binary_view": pa.binary()}.get(str(kind), kind) for kind in kinds]
    if len(set(plain)) > 1:
        plain = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in plain]
    try:
        common = pa.unify_schemas([pa.schema([("id", kind)]) for kind in plain], promote_options="permissive")
    except pa.ArrowException:
        found = "; ".join(f"{kind} in {path}" for kind, path in kinds.items())
        raise UserError(f"--id-column {column!r} is of different types: {found}") from None
    return base64.b64encode(common.serialize().to_pybytes()).decode()


def scan_lines(file: BinaryIO, step: int) -> tuple[int, list[int]]:
    """(number of lines, where every ``step``-th one begins and where the file ends), without parsing."""
    rows = position = 0
    offsets, last = [0], 10
    while block := file.read(1 << 24):
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
        offsets += (position + 1 + ends[step - 1 - rows % step :: step]).tolist()
        rows += len(ends)
        position += len(block)
        last = block[-1]
    rows += last != 10
    return rows, [*offsets[: -(-rows // step)], position]


def _find_field(sources: Sequence[Source], column: str) -> None:
    """UserError if there are objects in the lines of the files, and none of them has the field."""
    fields: set[str] = set()
    some = False
    for lines in (PROBED, None):  # the field is nearly always in the first line, and else it may be anywhere
        for source in sources:
            with open_bytes(source.path, source.codec) as file:
                for line in islice(file, lines):
                    try:
                        value = parse_line(line)
                    except ValueError:
                        continue
                    if column in value:
                        return
                    some, fields = True, fields or set(value)
    if some:
        raise UserError(
            f"--text-column: no field {column!r} in any line of {sources[0].path} or of any other file; "
            f"the first row has {', '.join(map(repr, sorted(fields)))}"
        )


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
        self.open: ParquetRows | CsvRows | LineBytes | None = None

    def __call__(self, unit: Unit) -> Rows:
        """The rows of ``unit``; UserError where the file has changed or is damaged."""
        pa = need("pyarrow", "corpus")
        texts, numbers, ids, bad = [], [], [], []
        found: Any = None
        read = {"jsonl": self._lines, "parquet": self._parquet}.get(unit.kind, self._csv)
        try:
            for i, (text, row_id) in enumerate(read(unit)):
                if isinstance(text, ValueError):
                    bad.append(Bad(unit.name, unit.first + i, reason_of(text)))
                    continue
                texts.append(text)
                numbers.append(unit.first + i)
                ids.append(row_id)
            if self.job.id_column is not None:
                kept = pa.array(np.asarray(numbers, np.int64) - unit.first)
                found = self.ids.take(kept) if unit.kind == "parquet" else pa.array(ids, pa.string())
                found = found.cast(self._id_type())
        except (OSError, pa.ArrowException) as error:
            where = f"rows {unit.first} to {unit.first + unit.rows - 1}"
            raise UserError(f"{unit.path}: {where} cannot be read: {one_line(error)}") from None
        if len(texts) + len(bad) != unit.rows:
            raise UserError(f"{unit.path}: has changed since its rows were counted")
        return Rows(numbers, texts, found, bad)

    def _id_type(self) -> Any:
        pa = need("pyarrow", "corpus")
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.job.id_type))).field("id").type

    def _lines(self, unit: Unit) -> Iterator[tuple[Text, str | None]]:
        if not isinstance(self.open, LineBytes) or self.open.path != unit.path:
            self.open = LineBytes(unit.path, unit.codec)
        data = self.open.read(unit.offset, unit.size)
        if unit.first == 0:
            data = data.removeprefix(b"\xef\xbb\xbf")
        for line in data.removesuffix(b"\n").split(b"\n"):
            try:
                value = parse_line(line)
                yield check_text(value, self.job.text_column), id_text(value, self.job.id_column)
            except ValueError as error:
                yield error, None

    def _columns(self) -> list[str]:
        return list(filter(None, (self.job.text_column, self.job.id_column)))

    def _csv(self, unit: Unit) -> Iterator[tuple[Text, str | None]]:
        if not isinstance(self.open, CsvRows) or self.open.path != unit.path or self.open.position > unit.first:
            self.open = CsvRows(unit.path, unit.kind, unit.codec, self._columns())
        skip = unit.first - self.open.position
        for row in islice(self.open, skip, skip + unit.rows):
            if isinstance(row, ValueError):
                yield row, None
                continue
            try:
                text, *row_id = (_decoded(data, name) for data, name in zip(row, self._columns()))
                yield text, row_id[0] if row_id else None
            except ValueError as error:
                yield error, None

    def _parquet(self, unit: Unit) -> Iterator[tuple[Text, None]]:
        pa = need("pyarrow", "corpus")
        if not isinstance(self.open, ParquetRows) or self.open.path != unit.path:
            self.open = ParquetRows(unit.path, self._columns())
        table = self.open.read(unit.first, unit.rows).combine_chunks()
        if self.job.id_column:
            self.ids = table.column(self.job.id_column).combine_chunks()
            if str(self.ids.type).endswith("_view"):  # with which Arrow can do little
                self.ids = self.ids.cast({"string_view": pa.string()}.get(str(self.ids.type), pa.binary()))
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


class LineBytes:
    """Bytes of a file by their place, uncompressed; a compressed one is read from its beginning to go back."""

    def __init__(self, path: str, codec: str | None) -> None:
        self.path = path
        self.codec = codec
        self._open()

    def _open(self) -> None:
        self.file = open_bytes(self.path, self.codec)
        self.position = 0

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes; fewer if the file ends before."""
        if self.codec is None:
            self.file.seek(offset)
        else:
            if offset < self.position:
                self._open()
            while self.position < offset and (skipped := self.file.read(min(offset - self.position, 1 << 24))):
                self.position += len(skipped)
        data = self.file.read(size)
        self.position = offset + len(data)
        return data


class CsvRows:
    """Rows of a CSV file in their order: the fields of ``columns`` as bytes, or a ValueError for a row with too many or
    too few fields. The first row has the names of the columns. Blank lines are no rows.
    """

    def __init__(self, path: str, kind: str, codec: str | None, columns: list[str]) -> None:
        pa, csv = need("pyarrow", "corpus"), need("pyarrow.csv", "corpus")
        self.path = path
        self.position = 0  # of the next row
        self.bad: dict[int, ValueError] = {}
        options = {
            "read_options": csv.ReadOptions(
                use_threads=False, block_size=CSV_BLOCK
            ),  # rows have numbers without threads
            "parse_options": csv.ParseOptions(
                delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True, invalid_row_handler=self._refuse
            ),
        }
        # Texts as bytes: one that is not UTF-8 is a bad row, and no reason to stop.
        types = dict.fromkeys(columns, pa.large_binary())
        convert = csv.ConvertOptions(column_types=types, include_columns=columns or None, strings_can_be_null=False)
        self.batches = csv.open_csv(stream(path, codec), convert_options=convert, **options)
        self.names: list[str] = self.batches.schema.names
        self.rows = self._rows()

    def _refuse(self, row: Any) -> str:
        # Row 1 is that of the names.
        wrong = ValueError(f"{row.actual_columns} fields, not {row.expected_columns}")
        self.bad[row.number - 2] = wrong
        return "skip"

    def _rows(self) -> Iterator[tuple[bytes, ...] | ValueError]:
        for batch in self.batches:
            for value in zip(*(column.to_pylist() for column in batch.columns)):
                yield from self._bad_rows()
                yield value
        yield from self._bad_rows()

    def _bad_rows(self) -> Iterator[ValueError]:
        while (error := self.bad.pop(self.position, None)) is not None:
            yield error

    def count(self) -> int:
        """How many rows are left."""
        return sum(batch.num_rows for batch in self.batches) + len(self.bad)

    def __iter__(self) -> CsvRows:
        return self

    def __next__(self) -> tuple[bytes, ...] | ValueError:
        row = next(self.rows)
        self.position += 1
        return row


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
