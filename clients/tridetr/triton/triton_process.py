"""The triton process of a node, which runs the embedded server: `tridetr triton`."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from tridetr.config import Config
from tridetr.config.secrets import read_secret
from tridetr.errors import ConfigError, TritonError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.paths import TRITON_MARKS, refuse_other_folder
from tridetr.service import SUPERVISED
from tridetr.triton import launch
from tridetr.triton.watcher import Watcher


def run(config: Config, stop: threading.Event) -> None:
    """Keep the embedded server running until `stop` is set.

    Raises:
        TritonError: the server is not installed, another one uses the same run directory, the configuration names an
            external server, or the very first start fails.
        ModelError: the model file is missing or does not conform to the contract.
    """
    if config.triton.url is not None:
        raise TritonError(
            f"triton.url is set to an external server ({config.triton.url}), so there is no server to start"
        )
    files = launch.Layout(config.run_dir, config.state_dir)
    if SUPERVISED not in os.environ:  # the supervisor did it, and files may have been removed since
        refuse_other_folder(files.root, TRITON_MARKS, "run_dir")
    files.check_private()
    files.root.chmod(0o700)  # contains the socket: access to the folder allows inference
    try:
        lock = FileLock(files.root / "lock", f"process {os.getpid()}")
    except FileLockedError as error:
        raise TritonError(
            f"another `tridetr triton` ({error.holder}) is running with run_dir {config.run_dir}. Remedy: stop it, or "
            "set another instance or run_dir"
        ) from None
    with lock:
        Watcher(config, files, _secret(config, files), stop).run()


def _secret(config: Config, files: launch.Layout) -> tuple[Path, str]:
    """Return the file and the text of the restricted APIs' key; the setup writes the file if none is configured."""
    configured = config.triton.secret_file
    if configured is not None:
        try:
            text = read_secret(configured, "triton.secret_file")
        except ConfigError as error:
            raise TritonError(str(error)) from None
        if not text.isascii() or any(c.isspace() or c == "," for c in text):
            raise TritonError(
                f"triton.secret_file: {configured} must contain one word of printable ASCII characters without commas"
            )
        return configured, text
    return files.secret, secrets.token_urlsafe(32)
