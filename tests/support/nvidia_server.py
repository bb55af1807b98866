"""Imitate NVIDIA's container: the wheel's server in the layout of `/opt/tritonserver`, with "native" backends.

The wheel has no native ONNX Runtime backend, so its Python backend stands in: a copy of its library has the native
name and its own `model.py`. The options that tridetr passes to the server are recorded, and those that this server is
too old for are removed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tridetr.errors import TridetrError
from tridetr.triton.installation import STUB, find_server
from tridetr.triton.launch import backend_module

VERSION = "2.68.0"
_SCRIPT = """#!/bin/sh
# Knows --allow-client-shm, as servers from 2.68 on.
exec {python} - "$@" <<'END'
import json, os, pathlib, sys
line = sys.argv[1:]
pathlib.Path({record!r}).write_text(json.dumps({{"line": line, "environment": dict(os.environ)}}))
real = [word for word in line if not word.startswith("--allow-client-shm")]
os.execv({binary!r}, [{binary!r}, *real])
END
"""


class NvidiaServer:
    """The server's folder, and the command line and environment of its last start."""

    def __init__(self, home: Path, python: str) -> None:
        """Create the folder in ``home``; skip the test if the wheel is not installed."""
        try:
            wheel = find_server()
        except TridetrError as error:
            pytest.skip(str(error))
        assert wheel.stub is not None
        self.home = home
        self._record = home / "started.json"
        for name in ("python", "onnxruntime"):
            shutil.copytree(wheel.backends / "python", home / "backends" / name)
            shutil.copy2(wheel.stub, home / "backends" / name / STUB)
        native = home / "backends" / "onnxruntime" / "libtriton_onnxruntime.so"
        (native.parent / "libtriton_python.so").rename(native)
        (home / "TRITON_VERSION").write_text(f"{VERSION}\n")
        (home / "lib").symlink_to(wheel.library_path.split(os.pathsep)[-1])
        (native.parent / "model.py").write_text(backend_module("onnxruntime", home / "packages"))
        binary = home / "bin" / "tritonserver"
        binary.parent.mkdir()
        binary.write_text(_SCRIPT.format(
            python=python, record=str(self._record), binary=str(wheel.binary),
        ))  # fmt: skip
        binary.chmod(0o755)

    @property
    def started(self) -> dict[str, Any]:
        """Return the command line and environment of the last start."""
        record: dict[str, Any] = json.loads(self._record.read_text())
        return record
