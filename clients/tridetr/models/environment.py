"""The virtual environment in which exports run, with ``rfdetr`` and PyTorch.

``rfdetr`` depends on packages that conflict with tridetr's (``rfdetr[onnx]`` installs onnxruntime, which breaks
onnxruntime-openvino), and PyTorch is large. So exports run in a separate virtual environment below the cache folder,
which is created on first use.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from tridetr.errors import ModelError
from tridetr.models.installed_models import cache_dir

REQUIREMENTS = ("rfdetr>=1.11,<2", "onnx>=1.17,<2")
_READY = ".tridetr-ready"


def export_python(
    extra: Sequence[str] = (), say: Callable[[str], None] = lambda line: None
) -> Path:
    """Return the Python interpreter of the export environment; create the environment on first use.

    Args:
        extra: further pip requirements, such as ``torch==2.13.0`` for a certain build.
        say: called with each line of pip's output while the environment is created.

    Raises:
        ModelError: the environment cannot be created; the message contains the end of pip's output.
    """
    wanted = [*extra, *REQUIREMENTS]
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:8]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache_dir() / f"export-venv-{version}-{digest}"
    python = folder / "bin" / "python"
    if (folder / _READY).is_file():
        return python
    if folder.exists():
        say("removing an unfinished environment")
        shutil.rmtree(folder)
    say(f"creating {folder}")
    try:
        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ModelError(
            f"cannot create {folder} ({error}). Remedy: on Debian and Ubuntu install python3-venv, or use an "
            "environment that has rfdetr with --python PATH"
        ) from error
    if extra:
        # First, so that pip selects compatible versions of the rest.
        _pip(python, list(extra), say)
    _pip(python, wanted, say)
    (folder / _READY).write_text("\n".join(wanted) + "\n")
    return python


def _pip(python: Path, requirements: list[str], say: Callable[[str], None]) -> None:
    command = [str(python), "-I", "-m", "pip", "install", "--progress-bar", "off", *requirements]
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                say(lines[-1])
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        end = "\n  ".join(line for line in lines[-8:] if not line.startswith("WARNING"))
        raise ModelError(
            f"cannot create the export environment, pip reports:\n  {end}\n"
            "If this machine is offline, use an environment that has rfdetr with --python PATH."
        )
