"""The server as a child process: started, logged, stopped with all that it started."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tridetr.triton import private_exec
from tridetr.triton.server_log import ServerLog
from tridetr.triton.start import Sample, take_sample

log = logging.getLogger("tridetr.triton.installation")


class ServerProcess:
    """One run of the server."""

    def __init__(self, line: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        """Start it in a folder; the calling thread must outlive it (the kernel watches threads)."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", private_exec.__file__, str(os.getpid()), *line],
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._log = ServerLog(log)
        self._stubs: list[psutil.Process] = []
        self._reader = threading.Thread(target=self._read, name="triton log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def last_words(self) -> str:
        """The lines it logged last that explain a failure."""
        return "; ".join(self._log.last_words)

    @property
    def device(self) -> str:
        """Where it put the model (`CPU`, `GPU 0`), as far as it said so."""
        return self._log.device

    def remember_stubs(self) -> None:
        """Note the processes of the Python backend (after the model was loaded); native backends have none."""
        with contextlib.suppress(psutil.Error):
            self._stubs = psutil.Process(self.pid).children()

    def lost_stub(self) -> bool:
        """Whether a process of the Python backend is gone."""
        return any(not _alive(stub) for stub in self._stubs)

    def backend_cpu_s(self) -> float:
        """CPU time that the backend has used, in seconds: its own processes', a native one's is the server's."""
        used = 0.0
        with contextlib.suppress(psutil.Error):
            for process in self._stubs or [psutil.Process(self.pid)]:
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def sample(self) -> Sample:
        """What it and its processes have used so far: tells a slow start from one that stands still."""
        return take_sample(self.pid, self._log.lines)

    def stop(self, grace_s: float) -> None:
        """End the server: SIGTERM, and SIGKILL after the grace; its stubs end with it."""
        if self.exit_code is None and grace_s > 0:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        # The stubs are in the server's session. A stopped one takes only SIGKILL.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and any(_alive(stub) for stub in self._stubs):
            time.sleep(0.01)
        self._reader.join(2)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._log.feed(line)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
