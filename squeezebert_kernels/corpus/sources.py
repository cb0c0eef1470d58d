"""The input files: which there are, what is in them by their names, and what is left out."""

from __future__ import annotations

import glob
import io
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..console import UserError
from .job import need, one_line
from .lines import parse_line

KINDS = {
    ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".jsonlines": "jsonl", ".ndjson": "jsonl",
    ".json": "jsonl", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip
CODECS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
"""Behind the others, except behind Parquet's, which is compressed inside."""

SHOWN = 3  # names of what is left out
LONGEST_FIRST_LINE = 1 << 24  # bytes


@dataclass
class Source:
    """One input file."""

    path: str  # without links
    name: str  # relative to the input
    kind: str  # "parquet", "jsonl", "csv" or "tsv"
    codec: str | None  # of pyarrow, for a file that is compressed as a whole
    size: int
    mtime_ns: int
    rows: int = 0
    offsets: list[int] = field(default_factory=list)  # JSON lines: where each unit begins, and the end, uncompressed
    doubt: str = ""  # what may be wrong with it


@dataclass
class Found:
    """What an input stands for."""

    sources: list[Source] = field(default_factory=list)  # sorted by name
    folders: set[Path] = field(default_factory=set)  # that were looked into, without links
    linked: list[str] = field(default_factory=list)  # folders that were reached through a link
    left_out: dict[str, list[str]] = field(default_factory=dict)  # names by reason

    def notes(self) -> list[str]:
        """What a user may not expect: linked folders, compressed files, and everything that is not read, by name."""
        result = [f"linked folders are read too ({len(self.linked)}): {_some(self.linked)}"] if self.linked else []
        if packed := [source.name for source in self.sources if source.codec]:
            result.append(f"compressed files are read from their beginning ({len(packed)}): {_some(packed)}")
        result += [f"{source.path}: {source.doubt}" for source in self.sources if source.doubt]
        for reason, names in sorted(self.left_out.items()):
            result.append(f"left out: {len(names)} {reason}: {_some(names)}")
        return result

    def counted(self) -> str:
        """Files by the ends of their names."""
        ends = Counter("".join(_ends(source.name)) for source in self.sources)
        return ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _ends(name: str) -> tuple[str, str]:
    """The parts of a name that say what is in a file: its format and its compression."""
    stem, end = os.path.splitext(name.lower())
    return (os.path.splitext(stem)[1], end) if end in CODECS else (end, "")


def _format(name: str) -> tuple[str, str | None] | None:
    end, codec = _ends(name)
    kind = KINDS.get(end)
    return None if kind is None or (codec and kind == "parquet") else (kind, CODECS.get(codec))


FORMATS = f"{', '.join(KINDS)}, all but Parquet also with {', '.join(CODECS)}"


def find_sources(given: str) -> Found:
    """What ``given`` (a file, a folder or a glob) stands for.

    Raises:
        UserError: there is no file, one that was named cannot be read, or a link in a folder leads nowhere.
    """
    path, found = Path(given), Found()
    if path.is_dir():
        _walk(path, path, found)
    elif os.path.lexists(path):
        found.sources.append(_named(path, path.parent))
    else:
        matches = [Path(name) for name in glob.glob(given, recursive=True)]
        files = [match for match in matches if not match.is_dir()]
        root = Path(os.path.commonpath([file.parent for file in files])) if files else path
        found.sources = [_named(file, root) for file in files]
        found.left_out |= {"folders that the glob names": names} if (names := _names(matches, files)) else {}
    if not found.sources:
        notes = "".join(f"; {note}" for note in found.notes())
        raise UserError(f"INPUT {given!r}: there is no such file, and no {FORMATS} in such a folder or glob{notes}")
    found.sources.sort(key=lambda source: source.name)
    return found


def _names(matches: list[Path], files: list[Path]) -> list[str]:
    return [str(match) for match in matches if match not in files]


def _named(file: Path, root: Path) -> Source:
    """A file that was named, which must be one that can be read."""
    known = _format(file.name)
    if not file.exists():
        raise UserError(f"{file}: is a link to {os.readlink(file)!r}, which does not exist")
    if known is None:
        raise UserError(f"{file}: neither Parquet, JSON lines nor CSV by its name ({FORMATS})")
    if not file.is_file():
        raise UserError(f"{file}: is no regular file, and has to be read more than once")
    source = _source(file, root, *known)
    if _only_json(source):
        raise UserError(f"{file}: its first line is no JSON object: it must have one on each line")
    return source


def _source(file: Path, root: Path, kind: str, codec: str | None) -> Source:
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    name = file.relative_to(root).as_posix()
    return Source(str(file.resolve()), name, kind, codec, status.st_size, status.st_mtime_ns)


def _walk(folder: Path, root: Path, found: Found) -> None:
    """Everything in a folder; folders behind links come last, and none is looked into twice."""
    found.folders.add(folder.resolve())
    try:
        entries = sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path.name))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    linked = []
    for path in entries:
        name = path.relative_to(root).as_posix()
        reason = ""
        if path.name.startswith((".", "_")):
            reason = "names that begin with . or _"
        elif not path.exists():
            raise UserError(f"{path}: is a link to {os.readlink(path)!r}, which does not exist")
        elif path.is_dir():
            if path.is_symlink():
                linked.append(path)
            else:
                _walk(path, root, found)
        elif not path.is_file():
            reason = "that are no regular files"
        elif (known := _format(path.name)) is None:
            reason = f"files {''.join(_ends(path.name)) or 'without an end of the name'}"
        elif _only_json(source := _source(path, root, *known)):
            reason = "JSON files whose first line is no object"
        else:
            found.sources.append(source)
        if reason:
            found.left_out.setdefault(reason, []).append(name)
    for path in linked:
        name = path.relative_to(root).as_posix()
        if path.resolve() in found.folders:
            found.left_out.setdefault("links to folders that are read already", []).append(name)
        else:
            found.linked.append(name)
            _walk(path, root, found)


def _only_json(source: Source) -> bool:
    """Whether a file named .json is something else than JSON lines; an empty one is no lines of JSON."""
    if _ends(source.name)[0] != ".json" or source.size == 0:
        return False
    try:
        with open_bytes(source.path, source.codec) as file:
            line = b""
            while not line.strip() and (read := file.readline(LONGEST_FIRST_LINE)):
                line = read.removeprefix(b"\xef\xbb\xbf")
        parse_line(line)
    except OSError as error:
        raise UserError(f"{source.path}: cannot be read: {error.strerror or one_line(error)}") from None
    except ValueError:
        return True
    return False


def open_bytes(path: str, codec: str | None) -> BinaryIO:
    """A file to read from, uncompressed."""
    return open(path, "rb") if codec is None else io.BufferedReader(stream(path, codec), 1 << 20)


def stream(path: str, codec: str | None) -> Any:
    """A stream of pyarrow's; UserError where pyarrow was built without the codec."""
    pa = need("pyarrow", "corpus")
    if codec is not None and not pa.Codec.is_available(codec):
        raise UserError(f"{path}: this pyarrow has no {codec}")
    return pa.input_stream(path, compression=codec)
