"""Plots of a report, as SVG inside the page."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams.update({"svg.fonttype": "none", "font.size": 9})
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
from matplotlib import pyplot  # noqa: E402

SHOWN = {
    "bare_model": "bare network", "fused_model": "graph as served", "taken_to_published": "taken → published",
    "frame_age_when_taken": "age of the frame when taken",
}  # fmt: skip


def _svg(figure: Any) -> str:
    drawn = io.StringIO()
    figure.savefig(
        drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    pyplot.close(figure)
    return drawn.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]


def samples(rows: dict[str, list[float]]) -> str:
    """Draw each frame's times in the order of the measurements."""
    figure, axis = pyplot.subplots(figsize=(9, 3.2), layout="constrained")
    for name, label in SHOWN.items():
        if name in rows:
            axis.plot(rows[name], label=label, linewidth=1.2)
    axis.set_yscale("log")
    axis.set_xlabel("frame")
    axis.set_ylabel("ms")
    axis.grid(visible=True, alpha=0.25, which="both")
    figure.legend(ncols=len(SHOWN), loc="outside upper center", frameon=False)
    return _svg(figure)


def scaling(result: dict[str, Any]) -> str:
    """Draw the CPU of cameras and viewers."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=False)
    cameras, viewers = result["cameras"], result["viewers"]
    roles = sorted({role for row in cameras.values() for role in row["cpu_percent"]})
    below = [0.0] * len(cameras)
    for role in roles:
        shares = [row["cpu_percent"].get(role, 0.0) for row in cameras.values()]
        if max(shares) >= 1:
            axes[0].bar(list(cameras), shares, bottom=below, label=role, width=0.6)
            below = [a + b for a, b in zip(below, shares, strict=True)]
    axes[0].set_xlabel("cameras")
    axes[0].set_ylabel("% of one core")
    if cameras:
        axes[0].legend(frameon=False, fontsize=7)
    if viewers:
        axes[1].bar(
            list(viewers), [row["cpu_percent"]["serve"] for row in viewers.values()], width=0.6
        )
    axes[1].set_xlabel("viewers")
    axes[1].set_ylabel("gateway, % of one core")
    if not viewers:
        axes[1].set_visible(False)
    return _svg(figure)
