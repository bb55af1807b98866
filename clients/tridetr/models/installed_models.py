"""The models that are installed on this machine: one folder with one file per model."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tridetr.errors import ModelError
from tridetr.paths import model_repository_dir

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SUFFIX = ".onnx"


def models_dir() -> Path:
    """Return the folder of installed models: ``$XDG_DATA_HOME/tridetr/models``."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "tridetr" / "models"


def cache_dir() -> Path:
    """Return the cache folder, whose content can be created or downloaded again: ``$XDG_CACHE_HOME/tridetr``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tridetr"


def installed_path(name: str) -> Path:
    """Return the path of the installed model ``name``, which may not exist.

    Raises:
        ModelError: the name is invalid.
    """
    if not _NAME.fullmatch(name) or name.endswith(SUFFIX):
        raise ModelError(
            f"{name!r} is not a valid model name: use letters, digits, '.', '_' and '-' (at most 64), without {SUFFIX}"
        )
    return models_dir() / f"{name}{SUFFIX}"


def resolve_model(name_or_path: str | Path) -> Path:
    """Find a model by its path or its installed name.

    Text with a ``/`` or the suffix ``.onnx`` is a path, everything else a name.

    Raises:
        ModelError: the file does not exist, or no model of that name is installed; the message lists the installed
            ones.
    """
    text = str(name_or_path)
    if os.sep in text or text.endswith(SUFFIX):
        path = Path(text).expanduser()
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        return path
    path = installed_path(text)
    if not path.is_file():
        names = installed()
        raise ModelError(
            f"no model named {text!r} is installed in {models_dir()} (installed: {', '.join(names) or 'none'}); "
            f"{did_you_mean(text, names)}`tridetr models pull {text}` downloads one; a file needs its path"
        )
    return path


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known name that is most similar to ``name``; empty if none is.

    >>> did_you_mean("rfdetr-nan", ["rfdetr-nano", "yard"])
    "did you mean 'rfdetr-nano'? "
    """
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {nearest[0]!r}? " if nearest else ""


def configured_model(file: Path | None) -> Path:
    """Return the ONNX file that ``model.file`` of a configuration refers to; None = the bundled model.

    The configuration has already made relative paths absolute. A path that is not a file and does not end in
    ``.onnx`` can be the name of an installed model.
    """
    if file is None:
        return model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
    path = file.expanduser()
    if path.is_file() or path.suffix == SUFFIX or not _NAME.fullmatch(path.name):
        return path.resolve()
    named = installed_path(path.name)
    return named if named.is_file() else path.resolve()


def missing_model(path: Path) -> str:
    """Return the error message for a missing configured model, with the remedy."""
    if path.suffix == SUFFIX or not _NAME.fullmatch(path.name):
        return (
            f"the model file {path} does not exist. Remedy: set model.file to an ONNX file of `tridetr models fuse` or "
            "to the name of an installed model"
        )
    from tridetr.models.catalogue import load_catalogue  # which imports this module

    names = installed()
    fetched = [entry.name for entry in load_catalogue().models]
    return (
        f"the model {path.name!r} is neither the file {path} nor installed (installed: {', '.join(names) or 'none'}). "
        f"Remedy: {did_you_mean(path.name, [*names, *fetched])}`tridetr models pull` lists the models to download"
    )


def installed() -> dict[str, Path]:
    """Return the files of the installed models by name, sorted."""
    files = sorted(models_dir().glob(f"*{SUFFIX}"))
    return {path.stem: path for path in files if not path.name.startswith(".")}


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Yield a temporary file to write; at the end of the `with` block, it replaces ``final`` atomically."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".installing-") as folder:
        path = Path(folder) / final.name
        yield path
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(final)


def remove(name: str) -> None:
    """Delete an installed model.

    Raises:
        ModelError: no model of that name is installed.
    """
    path = installed_path(name)
    if not path.is_file():
        raise ModelError(f"no model named {name!r} is installed in {models_dir()}")
    path.unlink()
