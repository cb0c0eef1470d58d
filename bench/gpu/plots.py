"""Bar charts of a run: python bench/gpu/plots.py results.json DIR. Needs matplotlib, and nothing else of the suite."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

COLOURS = {"ours": "#4878a8", "stock": "#d98a3d", "bert": "#8c6bb1", "conv1d": "#d98a3d", "bmm": "#8c6bb1"}
LOG_RATIO = 12  # where the slowest takes this much longer than the fastest, bars are on a logarithmic axis
COLUMNS = 2

Row = dict[str, Any]


def draw(data: dict[str, Any], folder: Path) -> list[Path]:
    """Draws every chart that ``data`` has the numbers for; returns the files written."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "squeezebert-kernels", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    )
    matplotlib.rcParams["axes.spines.right"] = False
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for dtype in data["settings"]["dtypes"]:
        rows = [r for r in data["models"] if r["dtype"] == dtype and r["status"] == "ok"]
        panels = {shape: _models_panel(rows, shape) for shape in data["settings"]["shapes"]}
        written += _bars(data, folder, f"models-{dtype}", f"Whole models, {dtype}", panels)
    for dtype, shape in dict.fromkeys((r["dtype"], r["shape"]) for r in data["micro"]):
        rows = [r for r in data["micro"] if (r["dtype"], r["shape"], r["status"]) == (dtype, shape, "ok")]
        panels = {case: _micro_panel(rows, case) for case in dict.fromkeys(r["case"] for r in rows)}
        written += _bars(data, folder, f"ops-{dtype}-{shape}", f"Ops alone, {shape}, {dtype}", panels)
    return written


class Panel:
    """(label, family, value) of every bar, and what the value is."""

    def __init__(self, unit: str, bars: list[tuple[str, str, float, float | None]]) -> None:
        self.unit, self.bars = unit, bars


def _models_panel(rows: list[Row], shape: str) -> Panel:
    rows = [r for r in rows if r["shape"] == shape and r["throughput_ms"] is not None]
    single = any(r["latency_ms"] is not None for r in rows)
    key, unit = ("latency_ms", "ms of one call") if single else ("throughput_ms", "ms per batch, back to back")
    return Panel(unit, [(_label(r), r["family"], r[key], r["percent_of_peak"]) for r in rows if r[key] is not None])


def _label(row: Row) -> str:
    return row["label"] + (" (max-autotune)" if "autotune" in (row["mode"] or "") else "")


def _micro_panel(rows: list[Row], case: str) -> Panel:
    rows = [r for r in rows if r["case"] == case and r["us"] is not None]
    return Panel("us per call", [(r["contestant"], r["contestant"], r["us"], r["percent_of_peak"]) for r in rows])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _caption(data: dict[str, Any]) -> str:
    machine = data["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "triton", "transformers"))
    return f"{machine['device']}, {versions}, {machine['date'][:10]}"


def _bars(data: dict[str, Any], folder: Path, name: str, title: str, panels: dict[str, Panel]) -> list[Path]:
    """One panel per shape or op: ours with a dark edge, and behind every bar its share of the matrix peak."""
    import matplotlib.pyplot as plt

    panels = {key: panel for key, panel in panels.items() if panel.bars}
    if not panels:
        return []
    most = max(len(panel.bars) for panel in panels.values())
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.2 * columns, (0.9 + 0.26 * most) * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (key, panel) in zip(axes.flat, panels.items()):
        for y, (_, family, value, share) in enumerate(panel.bars):
            edge = "black" if family == "ours" else "none"
            axis.barh(y, value, color=COLOURS[family], edgecolor=edge, linewidth=1.2)
            text = f" {_number(value)}" + ("" if share is None else f"  ({share:.0f} %)")
            axis.annotate(text, (value, y), va="center", fontsize=7)
        axis.set_yticks(range(len(panel.bars)), [label for label, *_ in panel.bars], fontsize=7)
        axis.invert_yaxis()
        values = [value for _, _, value, _ in panel.bars]
        if max(values) > LOG_RATIO * min(values):
            axis.set_xscale("log")
        axis.margins(x=0.2)
        axis.set_title(key, fontsize=9)
        axis.set_xlabel(f"{panel.unit}; in brackets: % of the measured matrix peak", fontsize=7)
    figure.suptitle(f"{title}\n{_caption(data)}", fontsize=9)
    figure.tight_layout()
    paths = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
    return paths


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
