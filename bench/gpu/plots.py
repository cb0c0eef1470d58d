"""Bar charts of a run: python bench/gpu/plots.py results.json DIR. Needs matplotlib, and no torch."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

# The file itself: importing the package would import torch, which drawing does not need.
sys.path.append(str(Path(__file__).resolve().parents[2] / "squeezebert_kernels" / "benchmark"))
import charts

COLOURS = {"ours": "#4878a8", "stock": "#d98a3d", "bert": "#8c6bb1", "conv1d": "#d98a3d", "bmm": "#8c6bb1"}

Row = dict[str, Any]


def draw(data: dict[str, Any], folder: Path) -> list[Path]:
    """Draws every chart that ``data`` has the numbers for; returns the files written."""
    charts.begin()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for dtype in data["settings"]["dtypes"]:
        rows = [r for r in data["models"] if r["dtype"] == dtype and r["status"] == "ok"]
        panels = {shape: _models_panel(rows, shape) for shape in data["settings"]["shapes"]}
        written += charts.bars(folder, f"models-{dtype}", f"Whole models, {dtype}\n{_caption(data)}", panels)
    for dtype, shape in dict.fromkeys((r["dtype"], r["shape"]) for r in data["micro"]):
        rows = [r for r in data["micro"] if (r["dtype"], r["shape"], r["status"]) == (dtype, shape, "ok")]
        panels = {case: _micro_panel(rows, case) for case in dict.fromkeys(r["case"] for r in rows)}
        written += charts.bars(folder, f"ops-{dtype}-{shape}", f"Ops alone, {shape}, {dtype}\n{_caption(data)}", panels)
    return written


def _models_panel(rows: list[Row], shape: str) -> charts.Panel:
    rows = [r for r in rows if r["shape"] == shape and r["throughput_ms"] is not None]
    single = any(r["latency_ms"] is not None for r in rows)
    key, unit = ("latency_ms", "ms of one call") if single else ("throughput_ms", "ms per batch, back to back")
    return _panel(unit, [_bar(_label(r), r["family"], r[key], r) for r in rows if r[key] is not None])


def _label(row: Row) -> str:
    return row["label"] + (" (max-autotune)" if "autotune" in (row["mode"] or "") else "")


def _micro_panel(rows: list[Row], case: str) -> charts.Panel:
    rows = [r for r in rows if r["case"] == case and r["us"] is not None]
    return _panel("us per call", [_bar(r["contestant"], r["contestant"], r["us"], r) for r in rows])


def _bar(label: str, family: str, value: float, row: Row) -> charts.Bar:
    share = row["percent_of_peak"]
    note = "" if share is None else f"  ({share:.0f} %)"
    return charts.Bar(label, value, COLOURS[family], family == "ours", note=note)


def _panel(unit: str, bars: list[charts.Bar]) -> charts.Panel:
    return charts.Panel(f"{unit}; in brackets: % of the measured matrix peak", bars)


def _caption(data: dict[str, Any]) -> str:
    machine = data["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "triton", "transformers"))
    return f"{machine['device']}, {versions}, {machine['date'][:10]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bar charts, SVG and PNG, of a run of the GPU suite.")
    parser.add_argument("results", type=Path, help="results.json of run.py")
    parser.add_argument("folder", type=Path, metavar="DIR", help="for the charts")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        print("plots: error: matplotlib is needed: pip install 'squeezebert-kernels[bench]'", file=sys.stderr)
        return 2
    try:
        written = draw(json.loads(args.results.read_text(encoding="utf-8")), args.folder)
    except (OSError, ValueError) as error:
        print(f"plots: error: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, written)) or "nothing in it to draw")
    return 0


if __name__ == "__main__":
    sys.exit(main())
