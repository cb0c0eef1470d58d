"""The output folder: one Parquet file per unit, complete or absent; what could not be read; and what made it all."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import _native, files
from ..console import UserError
from ..models.sentence_config import SentenceConfig
from .job import Bad, Job, Unit, need
from .sources import Source

MANIFEST, ERRORS, PARTIAL, LOCK = "_manifest.json", "_errors", "_tmp", "_lock"
"""Readers of Parquet folders pass over names that begin with an underscore."""

FORMAT = 2


def shard_name(unit: Unit) -> str:
    """The output file of a unit; sorted by name, files are in the order of the input."""
    stem = re.sub(r"[^A-Za-z0-9.-]+", "_", unit.name)[-80:].strip("._-")
    return f"{unit.number:05d}-{stem}-{unit.first:012d}.parquet"


_SHARD = re.compile(r"\d{5,}-.*-\d{12,}\.parquet")


def write_file(out: Path, name: str, data: bytes | memoryview) -> None:
    """``out/name`` with these contents: complete or absent, even after a crash."""
    files.write_file(out / name, data, beside=out / PARTIAL)


def write_unit(job: Job, unit: Unit, numbers: Sequence[int], ids: Any, values: Any, bad: Iterable[Bad]) -> int:
    """Writes the bad rows of a unit, then its results, with which the unit is done. Returns the results' bytes."""
    pa, parquet = need("pyarrow", "corpus"), need("pyarrow.parquet", "corpus")
    columns = {
        "file": pa.array([unit.name] * len(numbers), pa.string()),
        "row": pa.array(np.asarray(numbers, np.int64)),
    }
    if ids is not None:
        columns["id"] = ids
    if job.task == "embed":
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    else:
        columns["label"] = pa.array(values[0], pa.string())
        columns["score"] = pa.array(values[1], pa.float32())
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink, use_dictionary=["file", "label"])
    data = sink.getvalue()
    lines = "".join(json.dumps(asdict(one)) + "\n" for one in bad)
    out = Path(job.out)
    errors = f"{ERRORS}/{shard_name(unit)}.jsonl"
    if lines:
        write_file(out, errors, lines.encode())
    write_file(out, shard_name(unit), memoryview(data))
    return int(data.size)


class OutputFolder:
    """An output folder that this process alone writes to, or hands out to its workers.

    Args:
        out: the folder; made if it is not there.
        manifest: options and input, as JSON has them: what a run must share with those that it continues.
        about: what is written down besides, but may differ.
        overwrite: begin anew.

    Raises:
        UserError: the folder belongs to a run with other options or input, to another run that still goes on, or to
            something else altogether.
    """

    def __init__(self, out: Path, manifest: dict[str, Any], about: dict[str, Any], *, overwrite: bool) -> None:
        self.out = out
        if out.exists() and not out.is_dir():
            raise UserError(f"OUT {str(out)!r} is a file; it must be a folder, or not exist")
        there = out / MANIFEST
        if out.is_dir() and not there.exists() and any(p.name not in (PARTIAL, LOCK, ERRORS) for p in out.iterdir()):
            raise UserError(f"OUT {str(out)!r} holds files, but no {MANIFEST}: it is not the output of this command")
        try:
            for folder in (out, out / ERRORS, out / PARTIAL):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            for leftover in (out / PARTIAL).iterdir():
                leftover.unlink()
            if there.exists() and not overwrite:
                _compare(there, manifest)
                return
            for old in (*out.iterdir(), *(out / ERRORS).iterdir()):
                if _SHARD.fullmatch(old.name.removesuffix(".jsonl")):
                    old.unlink()
            text = json.dumps({"format": FORMAT, **manifest, "about": about}, indent=1) + "\n"
            write_file(out, MANIFEST, text.encode())
        except OSError as error:
            raise UserError(f"OUT {str(out)!r} cannot be written to: {error.strerror}") from None

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        self.lock = (self.out / LOCK).open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"OUT {str(self.out)!r} is being written to by another run") from None
        except OSError:
            pass  # a file system without locks

    def unfinished(self, units: Iterable[Unit]) -> list[Unit]:
        """The units that have no file yet."""
        there = set(os.listdir(self.out))
        return [unit for unit in units if shard_name(unit) not in there]

    def bad_rows(self) -> int:
        """How many bad rows all runs together have met."""
        return sum(file.read_bytes().count(b"\n") for file in (self.out / ERRORS).iterdir())

    def close(self) -> None:
        """Lets other runs in."""
        if hasattr(self, "lock"):
            self.lock.close()


def _compare(file: Path, manifest: dict[str, Any]) -> None:
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
        if old["format"] != FORMAT:
            raise UserError(
                f"{file} is of format {old['format']}, this version writes {FORMAT}: --overwrite begins anew"
            )
        changes = [
            f"{name} was {old['options'].get(name)!r}, now {value!r}"
            for name, value in manifest["options"].items()
            if old["options"].get(name) != value
        ]
        files, now = ({one["name"]: one for one in m["input"]} for m in (old, manifest))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error!r}): --overwrite begins anew") from None
    changes += [f"input {name!r} is gone" for name in files if name not in now]
    changes += [f"input {name!r} is new" for name in now if name not in files]
    changes += [f"input {name!r} has changed" for name in now if name in files and files[name] != now[name]]
    if changes:
        more = f"; ... ({len(changes)} differences)" if len(changes) > 3 else ""
        raise UserError(
            f"OUT {str(file.parent)!r} was begun with other options or input: {'; '.join(changes[:3])}{more}. "
            "Give what it was begun with, another OUT, or --overwrite to begin anew"
        )


def manifest(job: Job, config: SentenceConfig, sources: Sequence[Source], rows_per_shard: int) -> dict[str, Any]:
    """What a run and its continuations must share: everything that decides a byte of the results.

    ``chosen_by`` says which file or option decided how vectors are made; that may differ.
    """
    names = ("task", "dtype", "half_output", "batch_tokens", "text_column", "id_column", "identity", "max_length")
    options = {name: getattr(job, name) for name in names}
    if job.task == "embed":
        options |= config.chosen()
    files = [{"name": s.name, "size": s.size, "mtime_ns": s.mtime_ns, "rows": s.rows} for s in sources]
    chosen_by = dict(config.why) if job.task == "embed" else {}
    return {"options": {**options, "rows_per_shard": rows_per_shard}, "chosen_by": chosen_by, "input": files}


def about() -> dict[str, str]:
    """The versions and the machine of a run. Others may continue it; their last bits may differ."""
    packages = ("squeezebert-kernels", "torch", "transformers", "tokenizers", "pyarrow")
    return {"isa": _native.isa(), **{name: importlib.metadata.version(name) for name in packages}}
