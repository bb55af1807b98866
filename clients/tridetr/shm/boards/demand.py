"""Who reads host pixels: the boards by which a reader asks capture for pictures in host memory.

A frame that is decoded on the GPU goes to the model without touching host memory. Whoever needs its pixels there (the
gateway to show them, a detector whose server cannot open CUDA memory) says so for some seconds, again and again; a
reader that dies asks no more.
"""

from __future__ import annotations

import time

from tridetr.errors import ShmError
from tridetr.shm import names
from tridetr.shm.boards.reader import _Reader
from tridetr.shm.boards.table import DEMAND
from tridetr.shm.boards.writer import _Writer
from tridetr.shm.closing import Closing
from tridetr.shm.names import RingName

LASTS_NS = 3_000_000_000
RENEW_NS = 1_000_000_000  # thrice within the time that it lasts
POLL_NS = 100_000_000  # a viewer waits no longer for capture to look


def _name(instance: str, camera: str, reader: str) -> RingName:
    if reader not in names.DEMANDS:
        raise ShmError(f"reader {reader!r} of host pixels: known are {', '.join(names.DEMANDS)}")
    return RingName(instance, camera, names.DEMANDS[reader])


class _Board(_Writer):
    def write(self, expires_monotonic_ns: int) -> None:
        self._write({"expires_monotonic_ns": expires_monotonic_ns})


class DemandWriter(Closing):
    """Asks for the host pixels of one camera; a context manager. The board is made at the first asking."""

    def __init__(self, instance: str, camera: str, reader: str) -> None:
        """Name the board.

        Raises:
            ShmError: ``reader`` is none of ``names.DEMANDS``, or a name is not allowed.
        """
        self._name = _name(instance, camera, reader)
        self._board: _Board | None = None
        self._renew_ns = 0

    def touch(self, now_ns: int | None = None) -> bool:
        """Ask, for the next LASTS_NS; cheap to call for every frame.

        Args:
            now_ns: CLOCK_MONOTONIC; None: now.

        Returns:
            Whether the board was written (at most once in RENEW_NS).

        Raises:
            ShmError: The board cannot be made, or another process writes it.
        """
        now = time.monotonic_ns() if now_ns is None else now_ns
        if now < self._renew_ns:
            return False
        if self._board is None:
            self._board = _Board(self._name, DEMAND)
        self._board.write(now + LASTS_NS)
        self._renew_ns = now + RENEW_NS
        return True

    def close(self) -> None:
        """Ask no more: what was asked for last runs out by itself."""
        if self._board is not None:
            self._board.close()


class _BoardReader(_Reader):
    def expires_ns(self) -> int:
        entry = self._read()
        return 0 if entry is None else int(entry["expires_monotonic_ns"])


class DemandReader(Closing):
    """Tells capture whether anybody reads the host pixels of its camera; a context manager."""

    def __init__(self, instance: str, camera: str) -> None:
        """Open the boards of all possible readers; none need exist."""
        self._boards = [
            _BoardReader(_name(instance, camera, reader), DEMAND) for reader in names.DEMANDS
        ]
        self._poll_ns = 0
        self._expires_ns = 0

    def wanted(self, now_ns: int | None = None) -> bool:
        """Return whether somebody wants host pixels; the boards are read at most once in POLL_NS.

        Args:
            now_ns: CLOCK_MONOTONIC; None: now.
        """
        now = time.monotonic_ns() if now_ns is None else now_ns
        if now >= self._poll_ns:
            self._poll_ns = now + POLL_NS
            # A board from before a reboot, or from a damaged clock, asks for no longer than a fresh one, and does not
            # hide what another one asks for.
            found = [board.expires_ns() for board in self._boards]
            self._expires_ns = max((e for e in found if e <= now + LASTS_NS + POLL_NS), default=0)
        return now < self._expires_ns

    def close(self) -> None:
        """Let go of the boards."""
        for board in self._boards:
            board.close()
