"""Commands that check models: verify, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tridetr.errors import ModelError
from tridetr.model_card import FrameColor
from tridetr.models.choices import Engine, EnginePrecision
from tridetr.models.cli import options
from tridetr.models.cli.show import console, counting, packages


def verify(
    model: options.Model,
    data: Annotated[Path, typer.Option(help="Folder of pictures.")],
    limit: options.Limit = 16,
    against: Annotated[
        Path | None,
        typer.Option(help="The export that was fused; default: the network inside the model."),
    ] = None,
    engine: options.EngineChoice = Engine.CPU,
    precision: Annotated[
        EnginePrecision,
        typer.Option(
            help="fp16: verify the graph that `build-engine` passes to TensorRT; keep: the file."
        ),
    ] = EnginePrecision.KEEP,
    max_input: Annotated[
        float, typer.Option(help="Largest accepted difference of the network's normalised input.")
    ] = 0.005,
    max_box: Annotated[
        float, typer.Option(help="Largest accepted difference of box coordinates, in pixels.")
    ] = 0.5,
    max_score: Annotated[
        float, typer.Option(help="Largest accepted difference of scores.")
    ] = 0.005,
    least_score: Annotated[
        float, typer.Option(min=0, max=1, help="Minimum score of detections to compare end to end.")
    ] = 0.1,
    threads: options.Threads = 0,
) -> None:
    """Compare a fused model with a reference on real pictures; exit with 1 if a difference is too large.

    The reference is plain numpy: resize without antialiasing, normalisation, the bare network, and RF-DETR's own
    post-processing.
    """
    with packages():
        from tridetr.models.installed_models import resolve_model
        from tridetr.models.picture_files import find_pictures
        from tridetr.models.verify import Verifier

    pictures = find_pictures(data, limit)
    verifier = Verifier(
        resolve_model(model),
        engine=engine,
        against=against,
        precision=precision,
        least_score=least_score,
        threads=threads,
    )
    with counting("comparing", len(pictures)) as advance:
        found = []
        for picture in pictures:
            found.append(verifier.compare(picture))
            advance()
    rows = [
        ("network input", max(d.input for d in found), max_input, ""),
        ("boxes, same raw outputs", max(d.box_px for d in found), max_box, " px"),
        ("scores, same raw outputs", max(d.score for d in found), max_score, ""),
        ("boxes, end to end", max(d.end_box_px for d in found), max_box, " px"),
        ("scores, end to end", max(d.end_score for d in found), max_score, ""),
    ]
    table = Table(title=f"{model}: worst of {len(found)} pictures, {engine.value}")
    for heading in ("difference", "worst", "bound", ""):
        table.add_column(heading, justify="left" if heading == "difference" else "right")
    for name, worst, bound, unit in rows:
        verdict = "[green]ok[/]" if worst <= bound else "[red]too far[/]"
        table.add_row(name, f"{worst:.2g}{unit}", f"{bound:g}{unit}", verdict)
    console.print(table)
    compared = sum(d.compared for d in found)
    i420 = max(d.i420_score for d in found)
    console.print(
        f"{compared} detections compared end to end. The conversion to I420 alone (8-bit 4:2:0 instead of "
        f"RGB) changes a confident score by up to {i420:.3f}."
    )
    if any(worst > bound for _, worst, bound, _ in rows):
        raise typer.Exit(1)


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…", help="Files or installed models; the first is the baseline."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Folder of labelled pictures in YOLO or COCO layout.")],
    engine: Annotated[
        list[Engine], typer.Option(help="Engine that runs the models; several are compared.")
    ] = [Engine.CPU],  # noqa: B006
    limit: options.Limit = None,
    frame_color: Annotated[
        FrameColor | None,
        typer.Option(
            help="Colour matrix and range of the frames, to measure the cost of a mismatch."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Plot the comparison to this file (.png, .svg, .pdf).")
    ] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="Show AP by class as well.")] = False,
    threads: options.Threads = 0,
) -> None:
    """Measure COCO mAP and speed of models on your labelled pictures.

    Labels and model are matched by class name. To measure the cost of INT8:
    `tridetr models evaluate model.onnx int8.onnx --data DIR --engine openvino-bf16`.
    """
    with packages():
        from tridetr.models.evaluate import evaluate as run
        from tridetr.models.evaluation_report import class_table, comparison_table
        from tridetr.models.evaluation_report import plot as draw
        from tridetr.models.installed_models import resolve_model
        from tridetr.models.labelled import load_labelled

    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise ModelError(f"{plot}: unsupported format; use .png, .svg or .pdf")
    pictures = load_labelled(data, limit)
    found = []
    for name in models:
        path = resolve_model(name)
        for one in engine:
            with counting(f"{path.name} {one.value}", len(pictures)) as advance:
                found.append(
                    run(
                        path,
                        pictures,
                        engine=one,
                        frame_color=frame_color,
                        threads=threads,
                        progress=advance,
                    )
                )
    console.print(comparison_table(found))
    if by_class:
        console.print(class_table(found))
    if plot is not None:
        draw(found, plot)
        console.print(f"{plot} written")
