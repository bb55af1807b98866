"""Load a model file and run it once in a process of its own, before anything depends on it."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import tempfile
from pathlib import Path

from tridetr.config import Config
from tridetr.config.secrets import environment_of
from tridetr.python_module import module_command
from tridetr.triton import try_model
from tridetr.triton.try_model import LOADING_S

_LONGEST = 400  # characters of an error that are shown
_REMEDY = "export or download the model again, and test it with `tridetr models verify`"


def can_try() -> bool:
    """Return whether ONNX Runtime is installed here; a server with native backends has its own."""
    return importlib.util.find_spec("onnxruntime") is not None


class Trial:
    """One trial: the process runs for `LOADING_S` seconds at most, at low priority.

    The model runs on the CPU, whatever the server uses: on a GPU it would take memory that the server needs.
    """

    def __init__(self, config: Config, model: Path) -> None:
        """Start to load a model that conforms to the contract; needs ONNX Runtime (`can_try`)."""
        openvino = config.model.provider == "openvino"
        how = ("openvino", config.model.precision) if openvino else ("cpu", "auto")
        self._model = model
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            module_command(try_model.__name__, str(model), *how),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment_of("model check"),
        )

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    @property
    def proves_nothing(self) -> bool:
        """Whether the process was ended after `LOADING_S` seconds, or for want of memory."""
        return self._process.poll() in (-signal.SIGALRM, -signal.SIGKILL)

    @property
    def fault(self) -> str:
        """Why the model may not be usable, with the remedy after `Remedy:`; empty if it ran."""
        code = self._process.poll()
        if not code:
            return ""
        if code == -signal.SIGALRM:
            return f"{self._model} was not loaded within {LOADING_S} s. Remedy: use a smaller model"
        if code == -signal.SIGKILL:
            return f"the process that loads {self._model} was killed, perhaps for want of memory. Remedy: free some"
        if code < 0:
            return f"the process that loads {self._model} was ended by signal {-code}. Remedy: {_REMEDY}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        reason = next((line for line in reversed(lines) if line.strip()), "no reason given")[
            :_LONGEST
        ]
        remedy = "" if " Remedy: " in reason else f". Remedy: {_REMEDY}"
        return f"{self._model} does not run: {reason}{remedy}"

    def close(self) -> None:
        """End the process if it still runs."""
        self._process.kill()
        self._process.wait()
        self._errors.close()
