"""Install a model from a catalogue entry or a file: download, export, fuse and check it as needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from tridetr.contract import INPUT
from tridetr.errors import ModelError
from tridetr.files import checksum_of
from tridetr.model_card import FrameColor
from tridetr.models.catalogue import Entry
from tridetr.models.download import MAX_BYTES, Checksum, Progress, download
from tridetr.models.export import export
from tridetr.models.fuse import fuse
from tridetr.models.installed_models import cache_dir, installed_path, replacing
from tridetr.models.onnx_file import load_model
from tridetr.models.raw_export import RawExport
from tridetr.models.runtime import open_session, require_contract

Step = Callable[[str], None]


def pull(
    entry: Entry,
    *,
    python: Callable[[], Path],
    replace: bool = False,
    color: FrameColor = FrameColor.BT601_LIMITED,
    step: Step = lambda text: None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Download the model of a catalogue entry, install it under the entry's name, and return the installed file.

    The arguments are those of `install` and `download`.

    Raises:
        ModelError: the download failed, the checksum is wrong, or the file is not of the entry's kind.
    """
    if installed_path(entry.name).exists() and not replace:
        raise ModelError(f"{entry.name} is installed already; use --force to download it again")
    step(f"downloading {entry.url}")
    checksum = Checksum.parse(entry.checksum)
    fetched = download(
        entry.url,
        cache_dir() / "downloads" / checksum.hexdigest[:16] / entry.file_name,
        checksum,
        progress,
        limit=entry.size or MAX_BYTES,
    )
    return install(
        fetched,
        entry.name,
        kind=entry.kind,
        variant=entry.variant,
        python=python,
        replace=replace,
        color=color,
        step=step,
    )


def install(
    source: Path,
    name: str,
    *,
    kind: str | None = None,
    variant: str | None = None,
    python: Callable[[], Path],
    replace: bool = False,
    color: FrameColor = FrameColor.BT601_LIMITED,
    step: Step = lambda text: None,
) -> Path:
    """Install a contract model, an RF-DETR export or a checkpoint under ``name``.

    The model is loaded and checked against the contract before it is installed.

    Args:
        source: the file.
        name: name of the installed model.
        kind: `contract`, `export` or `checkpoint`; None = detected from the file.
        variant: variant of a checkpoint; None = as stored in it.
        python: returns the interpreter of the export environment; called for checkpoints only.
        replace: whether to replace an installed model of that name.
        color: colour matrix and range of the frames, for models that are fused here.
        step: called with a description of each step.

    Returns:
        The installed file.

    Raises:
        ModelError: the file is none of these kinds, or the name is in use.
    """
    if kind is None:
        kind = _kind_of(source)
    final = installed_path(name)
    if final.exists() and not replace:
        raise ModelError(
            f"a model named {name!r} is installed already: choose another name, or use --force"
        )
    with replacing(final) as target:
        if kind == "contract":
            shutil.copyfile(source, target)
        else:
            exported = source
            if kind == "checkpoint":
                exported = target.with_name("export.onnx")
                interpreter = python()
                export(
                    exported, python=interpreter, weights=str(source), variant=variant, step=step
                )
            step("fusing pre- and post-processing into the graph")
            onnx.save(fuse_file(exported, color=color), target)
        step("loading the model")
        require_contract(open_session(target), str(source))
    return final


def fuse_file(
    source: Path,
    *,
    classes: Mapping[str, int] | None = None,
    color: FrameColor = FrameColor.BT601_LIMITED,
    default_score: float = 0.5,
    topk: int = 300,
) -> onnx.ModelProto:
    """Fuse the export in a file; the arguments are those of `fuse`, with None for the class names in the file.

    Raises:
        ModelError: the file is not an RF-DETR export, or contains no class names.
    """
    model = load_model(source)
    raw = RawExport.of(model)
    if classes is None:
        classes = raw.classes
    if classes is None:
        raise ModelError(
            f"{source} contains no class names (it was not made by `tridetr models export`). Remedy: "
            "set them with --classes names.txt, or --classes coco for COCO's numbering"
        )
    return fuse(
        model,
        classes=classes,
        class_ids=raw.column_ids(classes),
        topk=topk,
        default_score=default_score,
        source=raw.source or source.name,
        color=color,
        checksum=checksum_of(source),
    )


def _kind_of(source: Path) -> str:
    if not source.is_file():
        raise ModelError(f"{source}: no such file")
    if source.suffix in (".pth", ".pt", ".ckpt"):
        return "checkpoint"
    return "contract" if is_contract_model(source) else "export"


def is_contract_model(source: Path) -> bool:
    """Return whether a model has the contract's input `frame`.

    Raises:
        ModelError: the file cannot be read.
    """
    return INPUT in [value.name for value in load_model(source).graph.input]
