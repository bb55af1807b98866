"""The supervisor's own sign of life, for whoever watches it: systemd's watchdog, or the probe of its container."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from tridetr.telemetry import heartbeat

NOTIFY = "NOTIFY_SOCKET"  # environment: where systemd listens (Type=notify)
EVERY_S = 1.0


class SupervisorPulse:
    """Renewed in every turn of the main loop, so that a supervisor that stands still is found by it."""

    def __init__(self, run_dir: Path, only: Sequence[str]) -> None:
        """Begin to beat and tell systemd, where it started us, that the node is being watched.

        Args:
            run_dir: folder of the heartbeats.
            only: the processes it watches; empty = the whole node.
        """
        heartbeat.start(run_dir, heartbeat.supervisor_of("+".join(only)))
        self._address = os.environ.get(NOTIFY, "")
        self._next_s = 0.0
        self._notify("READY=1")

    def beat(self) -> None:
        """Say that the main loop goes round."""
        heartbeat.beat()
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + EVERY_S
            self._notify("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the end is meant."""
        self._notify("STOPPING=1")

    def _notify(self, state: str) -> None:
        if not self._address:
            return
        # "@" stands for the zero byte of an abstract socket's name.
        address = self._address.replace("@", "\0", 1)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(state.encode(), address)
