"""Show evaluations as tables and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from tridetr.models.evaluate import Evaluation

_MOST_CLASSES = 20


def comparison_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return a table with one row per model; differences to the first model are in points (hundredths)."""
    first = evaluations[0]
    table = Table(title=f"COCO AP on {first.pictures} pictures, {len(first.ap_by_class)} classes")
    table.add_column("model")
    table.add_column("engine")
    for heading in ("AP", "AP50", "AP points", "AP50 points", "ms", "speed"):
        table.add_column(heading, justify="right")
    for one in evaluations:
        is_first = one is first
        table.add_row(
            one.model.name,
            one.engine.value,
            f"{one.ap:.4f}",
            f"{one.ap50:.4f}",
            "" if is_first else f"{100 * (one.ap - first.ap):+.2f}",
            "" if is_first else f"{100 * (one.ap50 - first.ap50):+.2f}",
            f"{one.median_ms:.1f}",
            "" if is_first else f"{first.median_ms / one.median_ms:.2f}x",
        )
    return table


def class_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return a table of AP by class, one column per model, with the best classes of the first model."""
    table = Table(title="AP by class")
    table.add_column("class")
    for one in evaluations:
        table.add_column(f"{one.model.stem}\n{one.engine.value}", justify="right")
    first = evaluations[0]
    names = sorted(first.ap_by_class, key=lambda name: -first.ap_by_class[name])[:_MOST_CLASSES]
    for name in names:
        table.add_row(name, *(f"{one.ap_by_class.get(name, 0.0):.3f}" for one in evaluations))
    return table


def plot(evaluations: Sequence[Evaluation], output: Path) -> None:
    """Plot the AP of each model and the precision-recall curves at IoU 0.50; the suffix determines the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(evaluations[0].curves)
    shown = "person" if "person" in names else names[0]
    figure, (bars, curve) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    ticks = [f"{one.model.stem}\n{one.engine.value}" for one in evaluations]
    places = range(len(evaluations))
    for offset, (label, values) in enumerate(
        (("AP", [one.ap for one in evaluations]), ("AP50", [one.ap50 for one in evaluations]))
    ):
        drawn = bars.bar([p + 0.4 * offset for p in places], values, width=0.38, label=label)
        bars.bar_label(drawn, fmt="%.3f")
    bars.set_xticks([p + 0.2 for p in places], ticks)
    bars.set_ylabel(f"average precision, {evaluations[0].pictures} pictures")
    bars.legend()
    for one in evaluations:
        if shown in one.curves:
            recalls = [step / 100 for step in range(101)]
            curve.plot(recalls, one.curves[shown], label=f"{one.model.stem} ({one.engine.value})")
    curve.set(xlabel="recall", ylabel="precision", title=f"{shown}, IoU 0.50", ylim=(0, 1.02))
    curve.legend()
    figure.savefig(output)
    pyplot.close(figure)
