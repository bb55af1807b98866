"""Commands that manage installed models: pull, install, list, info, remove."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tridetr.cli.plain_text import plain
from tridetr.errors import ModelError
from tridetr.model_card import FrameColor
from tridetr.models.choices import Variant
from tridetr.models.cli import options
from tridetr.models.cli.show import console, downloading, export_python, packages, step


def pull(
    name: Annotated[
        str | None, typer.Argument(help="Name of the model; without it, the catalogue is listed.")
    ] = None,
    catalogue: Annotated[
        str | None, typer.Option(help="Another catalogue: a file or an https:// URL.")
    ] = None,
    color: options.Color = FrameColor.BT601_LIMITED,
    python: options.Python = None,
    with_: options.With = [],  # noqa: B006
    force: options.Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Download and install a model; interrupted downloads are resumed.

    The built-in catalogue contains Roboflow's COCO checkpoints. They are exported in a separate environment, which is
    created on first use, and then fused.
    """
    with packages():
        from tridetr.models.catalogue import load_catalogue
        from tridetr.models.pull import pull as run

    listed = load_catalogue(catalogue)
    if name is None and as_json:
        console.print_json(data=[entry.model_dump(mode="json") for entry in listed.models])
        return
    if name is None:
        table = Table("name", "kind", "note", "licence", "checksum")
        for entry in listed.models:
            table.add_row(
                plain(entry.name),
                entry.kind,
                plain(entry.note),
                plain(entry.license),
                entry.checksum[:14] + "…",
            )
        console.print(table)
        return
    entry = listed.find(name)
    with downloading(name) as progress:
        path = run(
            entry,
            python=lambda: export_python(python, with_, live=False),
            replace=force,
            color=color,
            step=step,
            progress=progress,
        )
    console.print(f"{path} is installed. Use it with `model: {{file: {entry.name}}}`.")


def install(
    source: Annotated[
        Path, typer.Argument(help="A contract model, an RF-DETR export or a checkpoint (.pth).")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the installed model; default: the name of the file.")
    ] = None,
    variant: Annotated[
        Variant | None, typer.Option(help="Variant of a checkpoint; default: as stored in it.")
    ] = None,
    color: options.Color = FrameColor.BT601_LIMITED,
    python: options.Python = None,
    with_: options.With = [],  # noqa: B006
    force: options.Force = False,
) -> None:
    """Install a model file; checkpoints are exported and fused, exports are fused."""
    with packages():
        from tridetr.models.pull import install as run

    path = run(
        source,
        name or source.stem,
        variant=variant.value if variant else None,
        python=lambda: export_python(python, with_),
        replace=force,
        color=color,
        step=step,
    )
    console.print(f"{path} is installed. Use it with `model: {{file: {path.stem}}}`.")


def list_models(as_json: options.AsJson = False) -> None:
    """List the installed models and TensorRT engines."""
    with packages():
        from tridetr.models.installed_models import installed, models_dir

    models = installed()
    if as_json:
        found = {
            "models": [{"name": name, **_facts(path)} for name, path in models.items()],
            "engines": [{"file": str(plan), "bytes": plan.stat().st_size} for plan in _plans()],
        }
        console.print_json(data=found)
        return
    if not models:
        console.print(f"no models are installed in {models_dir()}: see `tridetr models pull`")
    else:
        table = Table("name", "engine", "precision", "classes", "input", "frames", "size")
        for name, path in models.items():
            table.add_row(name, *_row(path))
        console.print(table)
    _list_engines()


def _row(path: Path) -> tuple[str | Text, ...]:
    from tridetr.models.onnx_file import read_card

    size = f"{path.stat().st_size / 1e6:.1f} MB"
    try:
        card = read_card(path)
    except ModelError:
        return "[red]broken[/]", "", "", "", "", size
    if not card.contract:
        return "onnx", "?", "COCO-91 assumed", "?", "?", size
    classes = ", ".join(list(card.classes)[:3]) + (" …" if len(card.classes) > 3 else "")
    side = f"{card.resolution} x {card.resolution}"
    return (
        "onnx", plain(card.precision), plain(f"{len(card.classes)} ({classes})"), side, card.color.value, size,
    )  # fmt: skip


def _facts(path: Path) -> dict[str, object]:
    """Return the facts about a model file for JSON output; ``card`` is None if the file has no card."""
    from tridetr.models.onnx_file import read_card

    facts: dict[str, object] = {"file": str(path), "bytes": path.stat().st_size}
    try:
        card = read_card(path)
    except ModelError as error:
        return facts | {"error": str(error)}
    target = card.quantized_for.value if card.quantized_for else None
    known = asdict(card) | {
        "color": card.color.value,
        "form": card.form.value,
        "quantized_for": target,
    }
    return facts | {"card": known if card.contract else None}


def _plans() -> list[Path]:
    from tridetr.models.engine_files import engines_dir

    files = sorted(engines_dir().glob("*.plan")) if engines_dir().is_dir() else []
    return [path for path in files if not path.is_symlink()]


def _list_engines() -> None:
    if plans := _plans():
        table = Table("TensorRT engine", "size")
        for plan in plans:
            table.add_row(plan.name, f"{plan.stat().st_size / 1e6:.1f} MB")
        console.print(table)


def info(model: options.Model, as_json: options.AsJson = False) -> None:
    """Show the tensors and the metadata of a model."""
    with packages():
        from tridetr.models.installed_models import resolve_model
        from tridetr.models.onnx_file import load_model, metadata_of

    path = resolve_model(model)
    loaded = load_model(path)
    tensors = {
        tensor.name: [dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
        for tensor in (*loaded.graph.input, *loaded.graph.output)
    }
    metadata = metadata_of(loaded)
    if as_json:
        console.print_json(data={"file": str(path), "tensors": tensors, "metadata": metadata})
        return
    table = Table(title=str(path), show_header=False)
    for name, dims in tensors.items():
        table.add_row(plain(name), plain(f"[{', '.join(map(str, dims))}]"))
    for key, value in metadata.items():
        table.add_row(plain(key), plain(value))
    console.print(table)


def remove(name: Annotated[str, typer.Argument(help="An installed model.")]) -> None:
    """Delete an installed model."""
    with packages():
        from tridetr.models.installed_models import remove as run

    run(name)
    console.print(f"{name} was removed")
