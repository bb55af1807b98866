"""Commands that make models: export, fuse, recolor, quantize."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tridetr.errors import ModelError
from tridetr.files import read_text
from tridetr.model_card import Form, FrameColor, Target
from tridetr.models.choices import Variant
from tridetr.models.cli import options
from tridetr.models.cli.show import console, counting, export_python, packages, step


def export(
    output: Annotated[
        Path | None, typer.Argument(help="ONNX file to write; without it, the model is installed.")
    ] = None,
    variant: Annotated[
        Variant | None, typer.Option(help="Size of RF-DETR; default: as stored in the checkpoint.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="A checkpoint (.pth), `pretrained` or `random`.")
    ] = "pretrained",
    resolution: Annotated[
        int | None,
        typer.Option(min=32, help="Side of the input in pixels; default: the variant's."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the installed model; default: rfdetr-VARIANT.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the bare network without fusing it.")
    ] = False,
    default_score: options.DefaultScore = 0.5,
    color: options.Color = FrameColor.BT601_LIMITED,
    python: options.Python = None,
    with_: options.With = [],  # noqa: B006
    force: options.Force = False,
) -> None:
    """Export an RF-DETR, pretrained or your own fine-tuned checkpoint, ready to run.

    Uses the exporter of the rfdetr package, in a separate environment that is created on first use
    (about 2 GB with PyTorch). Class names come from the checkpoint.
    """
    with packages():
        import tempfile

        from tridetr.models import export as exporting
        from tridetr.models.installed_models import installed_path
        from tridetr.models.onnx_file import save_model
        from tridetr.models.pull import fuse_file

    if raw and output is None:
        raise ModelError("--raw requires an OUTPUT file")
    target = output
    if target is None:
        target = installed_path(
            name or f"rfdetr-{variant.value if variant else Path(weights).stem}"
        )
    _refuse_existing(target, force)
    interpreter = export_python(python, with_)
    with tempfile.TemporaryDirectory() as folder:
        exported = target if raw else Path(folder) / "export.onnx"
        made = exporting.export(
            exported,
            python=interpreter,
            weights=weights,
            variant=variant.value if variant else None,
            resolution=resolution,
            step=step,
        )
        if not raw:
            step("fusing pre- and post-processing into the graph")
            save_model(fuse_file(exported, color=color, default_score=default_score), target)
    classes = list(made.classes or {})
    names = ", ".join(classes[:8]) + (" …" if len(classes) > 8 else "")
    console.print(f"{target}: {made.source}; {len(classes)} classes: {names}")
    if output is None:
        console.print(f"Use it with `model: {{file: {target.stem}}}` in the configuration.")


def fuse(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="An RF-DETR export.")],
    output: options.OutModel,
    classes: Annotated[
        str | None,
        typer.Option(
            help="File with one class name per line (line 1 = id 0, empty line = unused id), or `coco` for "
            "COCO's ids; default: as stored in the file by `tridetr models export`."
        ),
    ] = None,
    color: options.Color = FrameColor.BT601_LIMITED,
    default_score: options.DefaultScore = 0.5,
    topk: Annotated[int, typer.Option(min=1, max=3840, help="Detections per frame.")] = 300,
    target: Annotated[
        Form,
        typer.Option(
            help="Engine to write the model for: any engine (portable); OpenVINO on a CPU (the node converts "
            "portable models automatically); or ONNX Runtime on an NVIDIA GPU (joined kernels, FP16)."
        ),
    ] = Form.PORTABLE,
    force: options.Force = False,
) -> None:
    """Wrap an RF-DETR export as a contract model: I420 frame in, detections out."""
    with packages():
        from tridetr.models.gathering import gather_pixels
        from tridetr.models.onnx_file import load_model, save_model
        from tridetr.models.pull import fuse_file, is_contract_model

    _refuse_existing(output, force)
    if target is not Form.PORTABLE and is_contract_model(source):
        model = load_model(source)
    else:
        model = fuse_file(
            source,
            classes=read_classes(classes) if classes else None,
            color=color,
            default_score=default_score,
            topk=topk,
        )
    if target is Form.OPENVINO and not gather_pixels(model):
        raise ModelError(
            f"cannot rewrite {source} for {target.value}: it is not a portable model of `tridetr models fuse`"
        )
    if target is Form.CUDA:
        from tridetr.models.cuda_form import for_cuda

        rewritten = for_cuda(model)
        model = rewritten.model
        kernels = ", ".join(f"{count} {name}" for name, count in sorted(rewritten.kernels.items()))
        console.print(f"{'FP16' if rewritten.half else 'FP32'}; joined: {kernels or 'nothing'}")
        for text in rewritten.refused:
            console.print(f"discarded: {text}")
    save_model(model, output)
    console.print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB. Check it with `tridetr models verify`."
    )


def recolor(
    model: options.Model,
    output: options.OutModel,
    color: Annotated[FrameColor, typer.Option(help="Colour matrix and range of the frames.")],
    force: options.Force = False,
) -> None:
    """Make a copy of a model for frames of another colour matrix or range."""
    with packages():
        from tridetr.models.fuse import recolor as change
        from tridetr.models.installed_models import resolve_model
        from tridetr.models.onnx_file import load_model, save_model

    _refuse_existing(output, force)
    save_model(change(load_model(resolve_model(model)), color), output)
    console.print(f"{output}: for {color.value} frames")


def quantize(
    model: options.Model,
    output: options.OutModel,
    data: Annotated[
        Path, typer.Option(help="Folder of pictures that resemble the cameras' pictures.")
    ],
    limit: options.Limit = 64,
    target: Annotated[Target, typer.Option(help="Engines that the file is made for.")] = Target.CPU,
    keep_float: Annotated[
        str | None, typer.Option(help="Regular expression for names of nodes to keep in float.")
    ] = None,
    force: options.Force = False,
) -> None:
    """Quantise a model to INT8 (explicit Q/DQ), calibrated on real pictures.

    To measure the effect on accuracy and speed: `tridetr models evaluate MODEL OUT.onnx --data FOLDER`.
    """
    with packages():
        from tridetr.models.installed_models import resolve_model
        from tridetr.models.picture_files import find_pictures
        from tridetr.models.quantize import quantize as run

    _refuse_existing(output, force)
    pictures = find_pictures(data, limit)
    with counting("calibrating", len(pictures)) as advance:
        source = resolve_model(model)
        layers = run(
            source, output, pictures, target=target, keep_float=keep_float, progress=advance
        )
    before, after = source.stat().st_size / 1e6, output.stat().st_size / 1e6
    console.print(f"{output}: {layers} layers in INT8, {before:.1f} -> {after:.1f} MB")


def _refuse_existing(output: Path, force: bool) -> None:
    if output.exists() and not force:
        raise ModelError(f"{output} exists: --force replaces it")


def read_classes(text: str) -> dict[str, int]:
    """Return class name -> id, from a file with one name per line, or COCO's for ``coco``.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
        ModelError: the file contains no names, a name twice, or invisible characters.
    """
    from tridetr.contract import COCO_91

    if text == "coco":
        return COCO_91
    classes: dict[str, int] = {}
    # Not `splitlines`: other control characters must not shift the ids
    for index, line in enumerate(re.split(r"\r\n|\r|\n", read_text(Path(text)))):
        name = line.strip()
        if not name.isprintable():
            raise ModelError(
                f"{text}, line {index + 1}: {name!r} contains invisible characters; remove them, or the class "
                "cannot be configured by its name"
            )
        if name in classes:
            raise ModelError(
                f"{text}: line {index + 1} repeats the class {name!r} of line {classes[name] + 1}. Class names must be "
                "unique; use an empty line for an unused id"
            )
        if name:
            classes[name] = index
    if not classes:
        raise ModelError(f"{text} contains no class names (one per line)")
    return classes
