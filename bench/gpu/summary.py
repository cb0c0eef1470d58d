"""What a run amounts to: the bars, and tables that fit into 120 columns."""

from __future__ import annotations

from typing import Any

from contestants import CONTESTANTS
from models import time_of
from rich.console import Console
from rich.table import Table

from squeezebert_kernels.console import make_console

Row = dict[str, Any]


def best(rows: list[Row], metric: str, *names: str) -> float | None:
    """The least ``metric`` of right results of these contestants."""
    times = [r[metric] for r in rows if r["contestant"] in names and r["status"] == "ok" and r[metric] is not None]
    return min(times, default=None)


def names_of(family: str) -> tuple[str, ...]:
    return tuple(c.name for c in CONTESTANTS if c.family == family)


OURS, BERT = names_of("ours"), names_of("bert")
STOCK_COMPILED = tuple(c.name for c in CONTESTANTS if c.family == "stock" and c.compiled)


def bars(data: dict[str, Any]) -> list[Row]:
    """What was promised, and what came of it."""

    def at(shape: str, dtype: str) -> list[Row]:
        return [r for r in data["models"] if (r["shape"], r["dtype"]) == (shape, dtype)]

    def bar(name: str, value: float | None, needed: float) -> Row:
        status = "not measured" if value is None else "passed" if value >= needed else "failed"
        return {"key": f"bars/{name}", "name": name, "value": value, "needed": needed, "status": status}

    def ratio(rows: list[Row], metric: str, others: tuple[str, ...]) -> float | None:
        ours, other = best(rows, metric, *OURS), best(rows, metric, *others)
        return other / ours if ours and other else None

    batch, single = at("64x128", "bf16"), at("1x128", "bf16")
    shares = [r["percent_of_peak"] for r in batch if r["family"] == "ours" and r["status"] == "ok"]
    found = [
        bar("64x128 bf16, throughput: x best torch.compile of stock",
            ratio(batch, "throughput_ms", STOCK_COMPILED), 2.5),
        bar("64x128 bf16: % of the measured matrix peak",
            max((share for share in shares if share is not None), default=None), 55),
        bar("1x128 bf16, latency: x stock eager", ratio(single, "latency_ms", ("stock-eager",)), 4),
        bar("1x128 bf16, latency: x best torch.compile with graphs of stock",
            ratio(single, "latency_ms", ("stock-compile+graphs",)), 1.5),
    ]  # fmt: skip
    for dtype in data["settings"]["dtypes"]:
        shapes = [(shape, at(shape, dtype)) for shape in data["settings"]["shapes"]]
        ratios = {
            shape: ratio(rows, "latency_ms" if rows[0]["batch"] == 1 else "throughput_ms", BERT)
            for shape, rows in shapes
            if rows
        }
        measured = {shape: value for shape, value in ratios.items() if value is not None}
        row = bar(f"{dtype}, every shape: x best BERT-base, the least", min(measured.values(), default=None), 1)
        found.append(row | {"by_shape": measured})
    return found


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    time = time_of(row)
    if time is None:
        return {"left out": "–"}.get(row["status"], row["status"].upper())
    return f"{time:.3g}" + ("" if row["status"] == "ok" else "!")


def models_table(data: dict[str, Any], dtype: str) -> Table | None:
    """Milliseconds of every contestant at every shape, and what the best of ours amounts to."""
    rows = {(r["contestant"], r["shape"]): r for r in data["models"] if r["dtype"] == dtype}
    shapes = [s for s in data["settings"]["shapes"] if any(key[1] == s for key in rows)]
    if not shapes:
        return None
    table = Table(title=f"ms, {dtype}: latency at batch 1, per batch of back-to-back calls otherwise; ! is wrong",
                  title_justify="left", padding=(0, 1))  # fmt: skip
    table.add_column("")
    for shape in shapes:
        table.add_column(shape, justify="right")
    for contestant in CONTESTANTS:
        table.add_row(contestant.name, *(_cell(rows.get((contestant.name, shape))) for shape in shapes))
    table.add_section()
    for label, metric, form in (
        ("ours: sequences/s", "sequences_per_s", "{:.0f}"),
        ("ours: TFLOP/s", "tflops", "{:.1f}"),
        ("ours: % of peak", "percent_of_peak", "{:.1f}"),
    ):
        values = [
            [r[metric] for (_, s), r in rows.items() if s == shape and r["family"] == "ours" and r.get(metric)]
            for shape in shapes
        ]
        table.add_row(label, *(form.format(max(v)) if v else "–" for v in values))
    return table


def micro_table(data: dict[str, Any]) -> Table | None:
    """Microseconds of every op."""
    rows = data["micro"]
    if not rows:
        return None
    timers = ", ".join(sorted({r["timer"] for r in rows if r["timer"]}))
    table = Table(title=f"Ops alone, us per call (% of the matrix peak); timed by {timers}", title_justify="left")
    names = list(dict.fromkeys(r["contestant"] for r in rows))
    for column in ("", "", *names, "ours: TFLOP/s", "GB/s"):
        table.add_column(column, justify="right" if column else "left")
    for dtype, shape, case in dict.fromkeys((r["dtype"], r["shape"], r["case"]) for r in rows):
        found = {r["contestant"]: r for r in rows if (r["dtype"], r["shape"], r["case"]) == (dtype, shape, case)}
        cells = [_micro_cell(found.get(name)) for name in names]
        ours = found.get("ours")
        rates = ["", ""] if ours is None or ours["us"] is None else [f"{ours['tflops']:.1f}", f"{ours['gbs']:.0f}"]
        table.add_row(f"{dtype} {shape}", case, *cells, *rates)
    return table


def _micro_cell(row: Row | None) -> str:
    if row is None or row["us"] is None:
        return "" if row is None else row["status"].upper()
    share = row["percent_of_peak"]
    wrong = "" if row["status"] == "ok" else "!"
    return f"{row['us']:.1f}{wrong}" + ("" if share is None else f" ({share:.0f})")


def print_bars(console: Console, rows: list[Row]) -> None:
    for row in rows:
        value = "" if row["value"] is None else f"{row['value']:.2f}, needed {row['needed']:g}"
        console.print(f"{row['status'].upper():12}  {row['name']}  {value}".rstrip(), markup=False, soft_wrap=True)


def print_summary(data: dict[str, Any]) -> None:
    """Everything, in few lines: the end of a log may be all that is seen of it."""
    console = make_console()
    counts: dict[str, int] = {}
    for row in data["correctness"]:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    peaks = data["peaks"]
    if peaks:
        rates = ", ".join(f"{name} {rate:.4g} TFLOP/s" for name, rate in peaks["matmul_tflops"].items())
        console.print(f"Peak: {rates}; copying {peaks['bandwidth_gbs']:.0f} GB/s.")
    for table in (*(models_table(data, dtype) for dtype in data["settings"]["dtypes"]), micro_table(data)):
        if table is not None:
            console.print(table)
    failures: dict[str, list[str]] = {}
    for row in data["models"] + data["micro"]:
        if row["status"] in ("failed", "wrong"):
            failures.setdefault(row["reason"][:160], []).append(row["key"])
    for reason, keys in failures.items():
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        console.print(f"{keys[0]}{more}: {reason}", markup=False, soft_wrap=True)
    console.print("Correctness: " + (", ".join(f"{n} {status}" for status, n in counts.items()) or "not checked"))
    for row in data["correctness"]:
        if row["status"] == "failed":
            what = row["reason"] or f"relative error {row['error']:.1e}, bar {row['bar']:.1e}"
            console.print(f"FAILED  {row['key']}: {what[:160]}", markup=False, soft_wrap=True)
    print_bars(console, data["bars"])
