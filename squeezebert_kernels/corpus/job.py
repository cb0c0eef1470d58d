"""What the parts of the command hand to each other: plain values that can be sent to other processes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from ..console import UserError

TASKS = ("embed", "classify")


@dataclass(frozen=True)
class Job:
    """How rows are turned into results."""

    model: str  # an absolute folder, or a name on the hub
    out: str  # an absolute folder
    task: str = "embed"
    dtype: str = "float32"
    sentence_files: bool = True  # whether the checkpoint's files of sentence-transformers count
    pooling: tuple[str, ...] | None = None  # None, here and below: what the checkpoint says
    normalize: bool | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    max_length: int | None = None  # tokens of a row
    half_output: bool = False
    batch_tokens: int = 4096
    text_column: str = "text"
    id_column: str | None = None
    id_type: str = ""  # of ids, for all files: an Arrow schema in base64
    threads: int = 1
    identity: str = ""  # of the model; "": not checked


@dataclass(frozen=True)
class Unit:
    """Rows of one input file that become one output file: the piece of work that is done wholly or not at all."""

    path: str
    name: str  # of the file, relative to the input
    number: int  # of the file in the order of the input
    first: int  # row
    rows: int
    kind: str  # as in `Source`
    codec: str | None = None
    offset: int = 0  # where the first row begins and how many bytes the rows take, uncompressed: JSON lines only
    size: int = 0


@dataclass(frozen=True)
class Bad:
    """A row that has no result."""

    file: str
    row: int
    reason: str


@dataclass
class Done:
    """The outcome of a unit."""

    rows: int  # with a result
    bad: list[Bad]
    tokens: int
    longest: int  # rows that have as many tokens as a row may have: they may have been cut
    size: int  # bytes that were written
    isa: str
    cpu_seconds: float  # used by this process
    seconds: dict[str, float] = field(default_factory=dict)  # of reading, tokenizing, the model, writing


def need(package: str, extra: str) -> Any:
    """The module ``package``; UserError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"this needs {package.partition('.')[0]}, which is not installed ({error}): "
            f"pip install 'squeezebert-kernels[{extra}]'"
        ) from None


def one_line(error: BaseException) -> str:
    """The first line of an error, with its type where that says more than the line."""
    text = str(error).strip().split("\n", 1)[0]
    return text if text and isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"
