"""What a run leaves behind: JSON, tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..console import UserError
from ..files import check_target, write_file
from .runner import Heat, Result
from .workload import MODELS, Shape

SCHEMA = 1


def document(machine: dict[str, Any], settings: dict[str, Any], heats: Iterable[Heat]) -> dict[str, Any]:
    """The JSON document of a run; the caller fills in "bandwidth" and "memory"."""
    heats = list(heats)
    return {
        "schema": SCHEMA,
        "machine": machine,
        "settings": settings,
        "results": [result.to_json() for heat in heats for result in heat.results],
        "peaks": [
            {"model": r.model, "shape": r.shape, "threads": r.threads, "operations_per_second": heat.peaks}
            for heat in heats
            for r in heat.results[:1]
        ],
        "bandwidth": [],
        "memory": [],
    }


def check_json(path: Path) -> None:
    """UserError where write_json() could not write ``path``."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"--json: the folder {path.absolute().parent} does not exist")
    try:
        check_target(path)
    except OSError as error:
        raise UserError(f"--json: {path} cannot be written: {error.strerror}") from None


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Writes ``data``; UserError where that cannot be done."""
    try:
        write_file(path, json.dumps(data, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def heat_table(heat: Heat, shape: Shape, origin: str) -> Table:
    """The table of one heat."""
    first = heat.results[0]
    padding = "" if shape.tokens == shape.batch * shape.length else f", {shape.tokens} real tokens"
    title = (
        f"{MODELS[first.model]} ({origin}), {shape.batch}x{shape.length}{padding}, "
        f"{first.threads} thread{'s' * (first.threads > 1)}, one interleaved run"
    )
    if heat.peaks:
        title += ". Peak: " + ", ".join(f"{dtype} {rate / 1e9:.0f} G/s" for dtype, rate in heat.peaks.items())
    table = Table(title=title, title_justify="left")
    for column in ("", "runs", "median ms", "quartiles ms", "ratio to ours", "% of floor", "error"):
        table.add_column(column, justify="right" if column else "left")
    for scope in ("model", "encoder"):
        for result in heat.results:
            if result.scope == scope and result.status != "left out":
                table.add_row(*_cells(result))
        table.add_section()
    return table


def _cells(r: Result) -> list[str]:
    if r.status != "ok" or r.median_ms is None:
        return [r.label, "", r.status.upper() if r.status == "failed" else r.status]
    return [
        r.label,
        str(r.runs),
        f"{r.median_ms:.2f}",
        f"{r.q1_ms:.2f}-{r.q3_ms:.2f}",
        _number(r.ratio_to_ours, ".2f"),
        _number(r.percent_of_floor, ".0f"),
        _number(r.error, ".1e"),
    ]


def print_heat(console: Console, heat: Heat, shape: Shape, origin: str) -> None:
    """The table, what was not timed and why, and the sentences that a table cannot say."""
    console.print(heat_table(heat, shape, origin))
    reasons: dict[tuple[str, str], list[str]] = {}
    for result in heat.results:
        if result.reason:
            reasons.setdefault((result.status, result.reason), []).append(result.contestant)
    for (status, reason), keys in reasons.items():
        console.print(f"{status} ({reason}): {', '.join(keys)}", markup=False, soft_wrap=True)
    median = {r.contestant: r.median_ms for r in heat.results if r.median_ms}
    for dtype in ("fp32", "bf16", "int8"):
        whole, encoder = median.get(f"ours-{dtype}"), median.get(f"ours-{dtype}-encoder")
        if whole and encoder:
            share = 100 * (whole - encoder) / whole
            console.print(f"Around the encoder (embeddings, mask, pooler), ours {dtype}: {share:.1f} % of the time.")
    bert = median.get("bert-base-fp32")
    if bert:
        ratios = [f"{d} {bert / median[f'ours-{d}']:.1f}" for d in ("fp32", "bf16", "int8") if f"ours-{d}" in median]
        console.print(f"BERT-base in transformers fp32 / SqueezeBERT on our kernels: {', '.join(ratios)}.")
    console.print()


def memory_table(rows: list[dict[str, Any]], labels: dict[str, str]) -> Table:
    """Peak memory per contestant."""
    table = Table(title="Memory at 1x128, MiB, each in a process of its own", title_justify="left")
    for column in ("model", "contestant", "after imports", "after two runs", "highest ever"):
        table.add_column(column, justify="left" if column in ("model", "contestant") else "right")
    for row in rows:
        names = [MODELS[row["model"]], labels[row["contestant"]]]
        if "error" in row:
            table.add_row(*names, "FAILED", row["error"])
        else:
            table.add_row(*names, *(f"{row[k]:.0f}" for k in ("imports_mib", "resident_mib", "peak_mib")))
    return table
