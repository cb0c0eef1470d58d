"""Bar charts and a roofline, from the JSON document of a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ..console import UserError
from . import charts
from .contestants import EXTRA
from .workload import MODELS

COLOURS = {"fp32": "#4878a8", "bf16": "#d98a3d", "fp16": "#8c6bb1", "int8": "#5aa469"}


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
    charts.begin()
    check(folder)
    written = []
    for model in data["settings"]["models"]:
        for threads in data["settings"]["threads"]:
            written += _bars(data, folder, model, threads)
            written += _roofline(data, folder, model, threads)
    return written


def _title(data: dict[str, Any], model: str, threads: int) -> str:
    machine = data["machine"]
    where = f"{machine['cpu']}, ISA {machine['isa']}, torch {machine['versions']['torch']}, {machine['date'][:10]}"
    return f"{MODELS[model]}, {threads} thread{'s' * (threads > 1)}\n{where}"


def _results(data: dict[str, Any], model: str, threads: int) -> list[dict[str, Any]]:
    return [
        r
        for r in data["results"]
        if r["model"] == model and r["threads"] == threads and r["scope"] == "model" and r["median_ms"] is not None
    ]


def _bars(data: dict[str, Any], folder: Path, model: str, threads: int) -> list[Path]:
    """One panel per shape: medians with quartiles, the floor of each dtype as a tick."""
    results = _results(data, model, threads)
    panels = {
        shape: charts.Panel(
            "ms, median and quartiles; dotted: FLOPs over the measured peak",
            [_bar(r) for r in results if r["shape"] == shape],
        )
        for shape in data["settings"]["shapes"]
    }
    return charts.bars(folder, f"bars-{model}-{threads}t", _title(data, model, threads), panels)


def _bar(r: dict[str, Any]) -> charts.Bar:
    return charts.Bar(
        label=r["label"].split(" (")[0],
        value=r["median_ms"],
        colour=COLOURS[r["dtype"]],
        ours=r["contestant"].startswith("ours-"),
        quartiles=(r["q1_ms"], r["q3_ms"]),
        floor=r["floor_ms"],
    )


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
    axis.set_title(_title(data, model, threads), fontsize=9)
    return charts.save(figure, folder, f"roofline-{model}-{threads}t")
