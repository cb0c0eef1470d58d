"""Bar charts and a roofline, from the JSON document of a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ..console import UserError
from .contestants import EXTRA
from .workload import MODELS

COLOURS = {"fp32": "#4878a8", "bf16": "#d98a3d", "fp16": "#8c6bb1", "int8": "#5aa469"}
LOG_RATIO = 12  # where the slowest takes this much longer than the fastest, bars are on a logarithmic axis


def check(folder: Path) -> None:
    """UserError unless matplotlib is installed and ``folder`` can be used."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"--plot needs matplotlib: {EXTRA}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--plot: {folder} cannot be used: {error.strerror}") from None


def draw(data: dict[str, Any], folder: Path) -> list[Path]:
    """Draws every chart that ``data`` has the numbers for; returns the files written."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "squeezebert-kernels", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    )
    matplotlib.rcParams["axes.spines.right"] = False
    check(folder)
    written = []
    for model in data["settings"]["models"]:
        for threads in data["settings"]["threads"]:
            written += _bars(data, folder, model, threads)
            written += _roofline(data, folder, model, threads)
    return written


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    paths = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata=metadata)
    import matplotlib.pyplot as plt

    plt.close(figure)
    return paths


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _caption(data: dict[str, Any]) -> str:
    machine = data["machine"]
    return f"{machine['cpu']}, ISA {machine['isa']}, torch {machine['versions']['torch']}, {machine['date'][:10]}"


def _results(data: dict[str, Any], model: str, threads: int) -> list[dict[str, Any]]:
    return [
        r
        for r in data["results"]
        if r["model"] == model and r["threads"] == threads and r["scope"] == "model" and r["median_ms"] is not None
    ]


def _bars(data: dict[str, Any], folder: Path, model: str, threads: int) -> list[Path]:
    """One panel per shape: medians with quartiles, ours with a dark edge, the floor of each dtype as a tick."""
    import matplotlib.pyplot as plt

    results = _results(data, model, threads)
    shapes = [name for name in data["settings"]["shapes"] if any(r["shape"] == name for r in results)]
    if not shapes:
        return []
    most = max(sum(r["shape"] == name for r in results) for name in shapes)
    columns = min(2, len(shapes))
    rows = -(-len(shapes) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.2 * columns, (0.9 + 0.26 * most) * rows), squeeze=False)
    for axis in axes.flat[len(shapes) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, shapes):
        part = [r for r in results if r["shape"] == name]
        for y, r in enumerate(part):
            ours = r["contestant"].startswith("ours-")
            spread = [[r["median_ms"] - r["q1_ms"]], [r["q3_ms"] - r["median_ms"]]]
            axis.barh(y, r["median_ms"], xerr=spread, color=COLOURS[r["dtype"]], edgecolor="black" if ours else "none",
                      linewidth=1.2, error_kw={"linewidth": 0.8})  # fmt: skip
            axis.annotate(f" {_milliseconds(r['median_ms'])}", (r["q3_ms"], y), va="center", fontsize=7)
            if r["floor_ms"] is not None:
                axis.plot([r["floor_ms"]] * 2, [y - 0.4, y + 0.4], color="black", linewidth=1, linestyle=":")
        axis.set_yticks(range(len(part)), [r["label"].split(" (")[0] for r in part], fontsize=7)
        axis.invert_yaxis()
        medians = [r["median_ms"] for r in part]
        if max(medians) > LOG_RATIO * min(medians):
            axis.set_xscale("log")
        axis.margins(x=0.12)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("ms, median and quartiles; dotted: FLOPs over the measured peak", fontsize=7)
    figure.suptitle(f"{MODELS[model]}, {threads} thread{'s' * (threads > 1)}\n{_caption(data)}", fontsize=9)
    figure.tight_layout()
    return _save(figure, folder, f"bars-{model}-{threads}t")


def _roofline(data: dict[str, Any], folder: Path, model: str, threads: int) -> list[Path]:
    """Rate over arithmetic intensity: the roofs of every dtype as measured in the run, ours filled, peers hollow."""
    import matplotlib.pyplot as plt

    results = [r for r in _results(data, model, threads) if r["bytes"] and r["contestant"] != "bert-base-fp32"]
    peaks: dict[str, list[float]] = {}
    for row in data["peaks"]:
        if row["model"] == model and row["threads"] == threads:
            for dtype, rate in row["operations_per_second"].items():
                peaks.setdefault(dtype, []).append(rate)
    slope = next((row["bytes_per_second"] for row in data["bandwidth"] if row["threads"] == threads), None)
    if not results or not peaks or not slope:
        return []
    figure, axis = plt.subplots(figsize=(7.2, 4.6))
    intensities = [r["flops"] / r["bytes"] for r in results]
    roofs = {dtype: sorted(rates)[len(rates) // 2] for dtype, rates in peaks.items()}
    low = min(min(intensities), min(roofs.values()) / slope) / 2
    high = 2 * max(*intensities, max(roofs.values()) / slope)
    for dtype, peak in roofs.items():
        axis.plot([low, max(low, peak / slope), high], [min(peak, low * slope) / 1e9, peak / 1e9, peak / 1e9],
                  color=COLOURS[dtype], linewidth=1.2, label=f"{dtype} peak, {peak / 1e9:.0f} G/s")  # fmt: skip
    for r in results:
        ours = r["contestant"].startswith("ours-")
        x, y = r["flops"] / r["bytes"], r["flops"] / r["median_ms"] / 1e6
        axis.plot(x, y, marker="o" if ours else "v", color=COLOURS[r["dtype"]], linestyle="none",
                  fillstyle="full" if ours else "none", markersize=6)  # fmt: skip
        if ours:
            axis.annotate(r["shape"], (x, y), textcoords="offset points", xytext=(5, -9), fontsize=6)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(f"FLOP per byte of weights and hidden states (memory: {slope / 1e9:.1f} GB/s read)")
    axis.set_ylabel("GFLOP/s (int8: GOP/s)")
    axis.legend(fontsize=7, loc="lower right", title="● ours  ▽ others", title_fontsize=7)
    axis.set_title(f"{MODELS[model]}, {threads} thread{'s' * (threads > 1)}\n{_caption(data)}", fontsize=9)
    return _save(figure, folder, f"roofline-{model}-{threads}t")
