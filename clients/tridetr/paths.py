"""Where the files of the installed package, or of a checkout, lie."""

from __future__ import annotations

import os
from pathlib import Path

from tridetr.errors import ModelError, TridetrError

_PACKAGE = Path(__file__).resolve().parent


def model_repository_dir() -> Path:
    """Return the model repository: inside the installed wheel, or at the root of a checkout.

    Raises:
        ModelError: neither is there (an incomplete installation).
    """
    candidates = (_PACKAGE / "_model_repository", _PACKAGE.parents[1] / "model_repository")
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise ModelError(
        f"the model repository is missing (looked for {' and '.join(map(str, candidates))}): "
        "install tridetr again"
    )


def private_folder(path: Path) -> Path:
    """Make a folder that only this user may enter, or take one that is there.

    The default run folder lies in the shared temporary folder, where anybody may make it first and then own what we
    write: secrets, the configuration, the code of Triton's backends.

    Raises:
        TridetrError: it, or a link of its name, belongs to somebody else.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    owners = {path.lstat().st_uid, path.stat().st_uid}
    # Root may prepare it for us, as Kubernetes does; it needs no trick to read our files.
    if not owners <= {os.geteuid(), 0}:
        raise TridetrError(
            f"{path} belongs to another user, who could read and replace what is written there: "
            "remove it, or set run_dir to a folder of your own"
        )
    return path
