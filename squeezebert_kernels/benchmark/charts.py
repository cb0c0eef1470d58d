"""Bar charts of times, as SVG and PNG: what plots.py of this folder and of bench/gpu draw with.

Only the standard library and matplotlib are imported, here and by bench/gpu/plots.py, which uses this file without the
package and its torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG_RATIO = 12  # where the slowest takes this much longer than the fastest, bars are on a logarithmic axis
COLUMNS = 2


@dataclass(frozen=True)
class Bar:
    """One contestant. ``quartiles`` and ``floor``, a dotted tick, are in the unit of ``value``."""

    label: str
    value: float
    colour: str
    ours: bool  # with a dark edge
    quartiles: tuple[float, float] | None = None
    floor: float | None = None
    note: str = ""  # behind the number


@dataclass(frozen=True)
class Panel:
    """Bars that are compared with one another; ``axis`` says what they measure."""

    axis: str
    bars: Sequence[Bar]


def begin() -> None:
    """Settings of every chart: no window, and the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "squeezebert-kernels", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    )
    matplotlib.rcParams["axes.spines.right"] = False


def save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Writes NAME.svg and NAME.png into ``folder``, and returns them."""
    import matplotlib.pyplot as plt

    paths = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
    return paths


def bars(folder: Path, name: str, title: str, panels: Mapping[str, Panel]) -> list[Path]:
    """Draws ``panels`` by their titles, two in a row, those without bars left out; returns the files written."""
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
        _draw(axis, key, panel)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    return save(figure, folder, name)


def _draw(axis: Any, title: str, panel: Panel) -> None:
    for y, bar in enumerate(panel.bars):
        low, high = bar.quartiles or (bar.value, bar.value)
        spread = None if bar.quartiles is None else [[bar.value - low], [high - bar.value]]
        axis.barh(y, bar.value, xerr=spread, color=bar.colour, edgecolor="black" if bar.ours else "none",
                  linewidth=1.2, error_kw={"linewidth": 0.8})  # fmt: skip
        axis.annotate(f" {_number(bar.value)}{bar.note}", (high, y), va="center", fontsize=7)
        if bar.floor is not None:
            axis.plot([bar.floor] * 2, [y - 0.4, y + 0.4], color="black", linewidth=1, linestyle=":")
    axis.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars], fontsize=7)
    axis.invert_yaxis()
    values = [bar.value for bar in panel.bars]
    if max(values) > LOG_RATIO * min(values):
        axis.set_xscale("log")
    axis.margins(x=0.2 if any(bar.note for bar in panel.bars) else 0.12)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(panel.axis, fontsize=7)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
