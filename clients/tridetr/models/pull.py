"""From a catalogue entry, or any file, to an installed model that was verified."""

from __future__ import annotations

import hashlib
import shutil
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from tridetr.contract import INPUT
from tridetr.errors import ModelError
from tridetr.model_card import FrameColor
from tridetr.models.catalogue import Entry
from tridetr.models.download import MAX_BYTES, Checksum, Progress, download
from tridetr.models.export import export
from tridetr.models.fuse import fuse
from tridetr.models.installed_models import cache_dir, installed_path, installing
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
    """Fetch, check, export and fuse as the entry needs it, and install under its name.

    Args:
        entry: what to fetch.
        python: gives the interpreter of the export environment; called for checkpoints only.
        replace: whether an installed model of that name may be replaced.
        color: the meaning of the frames' bytes, baked into what is fused here.
        step: called with what is being done.
        progress: called while bytes arrive.

    Raises:
        ModelError: no network, a wrong checksum, or a file that is not what the entry says.
    """
    if installed_path(entry.name).exists() and not replace:
        raise ModelError(f"{entry.name} is installed already; --force fetches it again")
    file_name = entry.file or Path(urllib.parse.urlsplit(entry.url).path).name
    step(f"fetching {entry.url}")
    checksum = Checksum.parse(entry.checksum)
    fetched = download(
        entry.url,
        cache_dir() / "downloads" / checksum.hexdigest[:16] / file_name,
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

    ``kind`` None: seen from the file. The installed model has loaded and kept the contract.

    Raises:
        ModelError: the file is none of these.
    """
    if kind is None:
        kind = _kind_of(source)
    with installing(name, replace=replace) as target:
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
    return installed_path(name)


def fuse_file(
    source: Path,
    *,
    classes: Mapping[str, int] | None = None,
    color: FrameColor = FrameColor.BT601_LIMITED,
    default_score: float = 0.5,
    topk: int = 300,
    origin: str | None = None,
) -> onnx.ModelProto:
    """Fuse an export's file; class names are its own unless given.

    Raises:
        ModelError: no RF-DETR export, or one that does not tell its classes.
    """
    model = load_model(source)
    raw = RawExport.of(model)
    if classes is None:
        classes = raw.classes
    if classes is None:
        raise ModelError(
            f"{source} does not tell its class names (it was not made by `tridetr models export`): "
            "give them with --classes names.txt, or --classes coco for COCO's own numbering"
        )
    return fuse(
        model,
        classes=classes,
        class_ids=raw.column_ids(classes),
        topk=topk,
        default_score=default_score,
        source=origin or raw.source or source.name,
        color=color,
        checksum=hashlib.sha256(source.read_bytes()).hexdigest(),
    )


def _kind_of(source: Path) -> str:
    if not source.is_file():
        raise ModelError(f"{source}: no such file")
    if source.suffix in (".pth", ".pt", ".ckpt"):
        return "checkpoint"
    return "contract" if is_contract_model(source) else "export"


def is_contract_model(source: Path) -> bool:
    """Whether a model takes frames, as fused ones do.

    Raises:
        ModelError: the file cannot be read.
    """
    return INPUT in [value.name for value in load_model(source).graph.input]
