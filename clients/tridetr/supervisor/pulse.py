"""Publish the supervisor's own heartbeat, for systemd's watchdog or the liveness probe of its container."""

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
    """The supervisor's heartbeat, renewed in every iteration of its main loop."""

    def __init__(self, run_dir: Path, only: Sequence[str]) -> None:
        """Start the heartbeat; report READY to systemd if it started the supervisor.

        Args:
            run_dir: Run folder, which contains the heartbeats.
            only: Names of the supervised processes; empty = the whole node.
        """
        heartbeat.start(run_dir, heartbeat.supervisor_of("+".join(only)))
        self._address = os.environ.get(NOTIFY, "")
        self._next_s = 0.0
        self._notify("READY=1")

    def beat(self) -> None:
        """Renew the heartbeat, and systemd's watchdog once a second."""
        heartbeat.beat()
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + EVERY_S
            self._notify("WATCHDOG=1")

    def stopping(self) -> None:
        """Report to systemd that the supervisor is stopping."""
        self._notify("STOPPING=1")

    def _notify(self, state: str) -> None:
        if not self._address:
            return
        # "@" stands for the zero byte at the start of an abstract socket's name
        address = self._address.replace("@", "\0", 1)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(state.encode(), address)
