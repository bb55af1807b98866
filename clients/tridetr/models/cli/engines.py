"""The command that builds TensorRT engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tridetr.errors import ModelError
from tridetr.models.choices import EnginePrecision
from tridetr.models.cli import options
from tridetr.models.cli.show import console, packages, step

if TYPE_CHECKING:
    from tridetr.config import Config

UNKNOWN_SIZES = ((1920, 1080), (320, 240), (3840, 2160))
"""Frame sizes to assume if the size of a camera is not configured: optimum, minimum and maximum."""


def build_engine(
    model: Annotated[
        str | None,
        typer.Argument(help="A file or an installed model; default: the model of --config."),
    ] = None,
    size: Annotated[
        list[str],
        typer.Option(help="Frame size such as 1920x1080; repeat it for each camera size."),
    ] = [],  # noqa: B006
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Largest batch; default: the number of cameras, or 4."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration to take the model, sizes and batch from.")
    ] = None,
    precision: Annotated[
        EnginePrecision,
        typer.Option(
            help="fp16: FP16 products, for a float32 file; keep: the data types of the file."
        ),
    ] = EnginePrecision.FP16,
    output: Annotated[
        Path | None, typer.Option(help="File to write; default: in the engine cache.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the engine cache; default: this machine's.")
    ] = None,
    workspace_mib: Annotated[
        int, typer.Option(min=64, help="Scratch memory for TensorRT on the GPU, in MiB.")
    ] = 4096,
    force: options.Force = False,
) -> None:
    """Build a TensorRT engine on the GPU that will run it (TensorRT 10 or newer).

    Engines are cached by GPU, TensorRT version, model checksum, precision and sizes. The model entry
    rfdetr_trt serves the engine that was built last from its model file.
    """
    with packages():
        from tridetr.models.engine import build, parse_size
        from tridetr.models.engine_files import Profile
        from tridetr.models.installed_models import configured_model, resolve_model

    sizes = [parse_size(text) for text in size]
    path = resolve_model(model) if model else None
    if config is not None:
        from tridetr.config import load_config

        loaded = load_config(config)
        path = path or configured_model(loaded.model.file)
        sizes = sizes or camera_sizes(loaded)
        max_batch = max_batch or min(len(loaded.cameras), 8)
    if path is None:
        raise ModelError("no model: specify MODEL, or a configuration with --config")
    plan = build(
        path,
        profile=Profile.of(sizes, max_batch or 4),
        precision=precision,
        output=output,
        cache=cache,
        workspace_mib=workspace_mib,
        force=force,
        step=step,
    )
    console.print(f"{plan}: {plan.stat().st_size / 1e6:.1f} MB")


def camera_sizes(config: Config) -> list[tuple[int, int]]:
    """Return the frame sizes of the cameras, plus `UNKNOWN_SIZES` if the size of a camera is not configured."""
    known = config.frame_sizes
    unknown = UNKNOWN_SIZES if known.total() < len(config.cameras) else ()
    return list(dict.fromkeys([*known, *unknown]))
