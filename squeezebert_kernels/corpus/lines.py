"""A line of JSON: the object on it, the text and the id in that, or what is wrong."""

from __future__ import annotations

import json
from typing import Any


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


def id_text(value: dict[str, Any], column: str | None) -> str | None:
    """The id in a row as text: JSON where it is no string; None without one."""
    row_id = None if column is None else value.get(column)
    row_id = row_id if row_id is None or isinstance(row_id, str) else json.dumps(row_id)
    (row_id or "").encode("utf-8", "strict")
    return row_id


def reason_of(error: ValueError) -> str:
    """Why a row is bad, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start}"
    if isinstance(error, UnicodeEncodeError):
        return f"not Unicode: {error.reason} at character {error.start}"
    return str(error)
