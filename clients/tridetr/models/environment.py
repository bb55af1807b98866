"""The environment that exports run in: ``rfdetr`` and PyTorch, apart from tridetr's own.

``rfdetr`` pulls packages that collide with tridetr's (``rfdetr[onnx]`` brings onnxruntime, which
breaks onnxruntime-openvino), and PyTorch is big. So exports run in a virtual environment of their
own, made on first use below the cache folder.
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
    """Return the Python of the export environment; make the environment on first use.

    Args:
        extra: further requirements for pip, such as ``torch==2.13.0`` to take a certain build.
        say: called with pip's lines while the environment is made.

    Raises:
        ModelError: it cannot be made; holds the end of pip's output.
    """
    wanted = [*extra, *REQUIREMENTS]
    tag = f"{sys.version_info.major}.{sys.version_info.minor}-" + _digest(wanted)
    folder = cache_dir() / f"export-venv-{tag}"
    python = folder / "bin" / "python"
    if (folder / _READY).is_file():
        return python
    if folder.exists():
        say("removing an unfinished environment")
        shutil.rmtree(folder)
    say(f"making {folder}")
    try:
        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ModelError(
            f"{folder} cannot be made ({error}): on Debian and Ubuntu install python3-venv, or name an "
            "environment that has rfdetr with --python PATH"
        ) from error
    if extra:
        # First, so that what follows is chosen to fit.
        _pip(python, list(extra), say)
    _pip(python, wanted, say)
    (folder / _READY).write_text("\n".join(wanted) + "\n")
    return python


def _pip(python: Path, requirements: list[str], say: Callable[[str], None]) -> None:
    command = [str(python), "-m", "pip", "install", "--progress-bar", "off", *requirements]
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
            f"the export environment cannot be made, pip says:\n  {end}\n"
            "Offline? An environment that has rfdetr can be named with --python PATH."
        )


def _digest(requirements: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
