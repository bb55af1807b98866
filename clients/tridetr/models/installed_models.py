"""The models that are installed on this machine: one folder, one file per model."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    """Return the folder of what can be made or fetched again: ``$XDG_CACHE_HOME/tridetr``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tridetr"


def installed_path(name: str) -> Path:
    """Return where the model ``name`` lies or would lie.

    Raises:
        ModelError: no good name for a file.
    """
    if not _NAME.fullmatch(name) or name.endswith(SUFFIX):
        raise ModelError(
            f"{name!r} is no model name: letters, digits, '.', '_' and '-' (at most 64), no {SUFFIX}"
        )
    return models_dir() / f"{name}{SUFFIX}"


def resolve_model(name_or_path: str | Path) -> Path:
    """Find a model by path or by the name it is installed under.

    What has a folder or ends in ``.onnx`` is a path, everything else a name.

    Raises:
        ModelError: no such file, or no model of that name; names those there are.
    """
    text = str(name_or_path)
    if os.sep in text or text.endswith(SUFFIX):
        path = Path(text).expanduser()
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        return path
    path = installed_path(text)
    if not path.is_file():
        names = [model.name for model in installed()]
        raise ModelError(
            f"no model named {text!r} is installed in {models_dir()} (there: {', '.join(names) or 'none yet'}); "
            f"{did_you_mean(text, names)}`tridetr models pull {text}` fetches one, a file is given by its path"
        )
    return path


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is most like ``name``; empty where none is."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {nearest[0]!r}? " if nearest else ""


def configured_model(file: Path | None) -> Path:
    """Return the ONNX file that ``model.file`` of a configuration means; None is the bundled model.

    The configuration has made relative paths absolute; what is not a file and does not end in
    ``.onnx`` may be the name of an installed model.
    """
    if file is None:
        return model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
    path = file.expanduser()
    if path.is_file() or path.suffix == SUFFIX or not _NAME.fullmatch(path.name):
        return path.resolve()
    named = installed_path(path.name)
    return named if named.is_file() else path.resolve()


def missing_model(path: Path) -> str:
    """Return why there is no model where the configuration looks for one, and the remedy."""
    if path.suffix == SUFFIX or not _NAME.fullmatch(path.name):
        return (
            f"the model file {path} is not there. Remedy: correct model.file, an ONNX of `tridetr models fuse` or "
            "the name of an installed model"
        )
    from tridetr.models.catalogue import load_catalogue  # which imports this module

    names = [model.name for model in installed()]
    fetched = [entry.name for entry in load_catalogue().models]
    return (
        f"the model {path.name!r} is neither the file {path} nor installed (installed: {', '.join(names) or 'none'}). "
        f"Remedy: {did_you_mean(path.name, [*names, *fetched])}`tridetr models pull` lists what can be fetched"
    )


@dataclass(frozen=True, slots=True)
class Installed:
    """An installed model."""

    name: str
    path: Path


def installed() -> list[Installed]:
    """Return the installed models in order of name."""
    folder = models_dir()
    files = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    return [Installed(path.stem, path) for path in files if not path.name.startswith(".")]


@contextmanager
def installing(name: str, *, replace: bool) -> Iterator[Path]:
    """Yield a file to write; on success it becomes the model ``name``, whole, in one step.

    Raises:
        ModelError: the name is taken and ``replace`` is not set.
    """
    final = installed_path(name)
    if final.exists() and not replace:
        raise ModelError(
            f"a model named {name!r} is installed already: choose another name or --force"
        )
    with replacing(final) as path:
        yield path


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Yield a file to write beside ``final``; on success it takes its place in one step."""
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
        ModelError: there is none of that name.
    """
    path = installed_path(name)
    if not path.is_file():
        raise ModelError(f"no model named {name!r} is installed in {models_dir()}")
    path.unlink()
