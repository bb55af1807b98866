"""Run the server as a child process, and stop it together with the processes that it started."""

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
        """Start the server with a command line, environment variables and a working directory.

        The calling thread must outlive the server: the kernel kills the server when that thread exits.
        """
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
        """Process ID of the server."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code of the server, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def last_words(self) -> str:
        """The server's last log lines that explain a failure."""
        return "; ".join(self._log.last_words)

    @property
    def device(self) -> str:
        """Device on which the server placed the model (`CPU`, `GPU 0`); empty if it did not log that."""
        return self._log.device

    def remember_stubs(self) -> None:
        """Remember the processes of the Python backend; call this after the model was loaded."""
        with contextlib.suppress(psutil.Error):
            self._stubs = psutil.Process(self.pid).children()

    def lost_stub(self) -> bool:
        """Return whether a process of the Python backend has exited."""
        return any(not _alive(stub) for stub in self._stubs)

    def backend_cpu_s(self) -> float:
        """Return the CPU time of the backend's processes in seconds; for a native backend, that of the server."""
        used = 0.0
        with contextlib.suppress(psutil.Error):
            for process in self._stubs or [psutil.Process(self.pid)]:
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def sample(self) -> Sample:
        """Return the resources used so far, to distinguish a slow start from a stalled one."""
        return take_sample(self.pid, self._log.lines)

    def stop(self, grace_s: float) -> None:
        """Stop the server and its stubs: SIGTERM, then SIGKILL after ``grace_s`` seconds (0 = SIGKILL only)."""
        if self.exit_code is None and grace_s > 0:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        # The stubs are in the server's process group. A stopped process reacts only to SIGKILL.
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
