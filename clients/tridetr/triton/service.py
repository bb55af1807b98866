"""The embedded server as a role of the node: `tridetr triton`."""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.triton import launch
from tridetr.triton.watcher import Watcher


def run(config: Config, stop: threading.Event) -> None:
    """Keep the embedded server running until `stop` is set.

    Raises:
        TritonError: the server is not installed, another one uses the same run directory, the configuration names an
            external server, or the very first start fails.
        ModelError: the model file is missing or does not keep the contract.
    """
    if config.triton.url is not None:
        raise TritonError(
            f"triton.url names an external server ({config.triton.url}), so there is nothing to start"
        )
    files = launch.layout(config.run_dir)
    files.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.root.chmod(0o700)  # holds the socket: who may enter may infer
    with _only_one(files.root / "lock"):
        Watcher(config, files, _secret(config, files), stop).run()


def _secret(config: Config, files: launch.Layout) -> tuple[Path, str]:
    """Return the key of the restricted APIs and its file; makes one for this run where none is configured."""
    configured = config.triton.secret_file
    if configured is not None:
        try:
            text = configured.read_text().strip()
        except OSError as error:
            raise TritonError(f"triton.secret_file: {configured} cannot be read: {error}") from None
        if not text or not text.isascii() or any(c.isspace() or c == "," for c in text):
            raise TritonError(
                f"triton.secret_file: {configured} must hold one word of printable ASCII"
            )
        return configured, text
    path = files.root / "secret"
    path.unlink(missing_ok=True)
    text = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path, text


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees when this process dies."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TritonError(
                f"another `tridetr triton` runs with this run_dir ({path.parent.parent}). "
                "Remedy: stop it, or set another instance or run_dir"
            ) from None
        yield
