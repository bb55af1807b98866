"""Where the files of the installed package, or of a checkout, lie."""

from __future__ import annotations

from pathlib import Path

from tridetr.errors import ModelError

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
