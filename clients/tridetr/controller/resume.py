"""What a starting controller takes over: the saved record, and for how long nobody has looked."""

from __future__ import annotations

import logging
import math
import time

from tridetr.controller.rows import event_rows
from tridetr.controller.state_machine import Transition
from tridetr.controller.store import Store
from tridetr.controller.visits import Record, VisitEvent
from tridetr.errors import ShmError
from tridetr.shm.boards import SentryReader, SentrySnapshot

logger = logging.getLogger("tridetr.controller")

BOARD_LEASE_S = 5.0  # without a sign of life for that long, capture goes to full rate


def read_board(instance: str, camera: str) -> SentrySnapshot | None:
    """Return what the last controller of this run wrote; None after a fresh start."""
    with SentryReader(instance, camera) as reader:
        try:
            return reader.read()
        except ShmError:
            return None


def resume(store: Store, camera: str, board: SentrySnapshot | None) -> tuple[Record, float]:
    """Return the saved record and for how many seconds nobody has looked."""
    saved = store.cameras.get(camera)
    if saved is None:
        return Record(), math.inf
    try:
        record = Record.from_json(saved.record)
    except ValueError as error:
        logger.error("the saved state cannot be used: %s", error, extra={"camera": camera})
        return Record(), math.inf
    if board is not None:
        written_ns = board.expires_monotonic_ns - round(BOARD_LEASE_S * 1e9)
        away_s = (time.monotonic_ns() - written_ns) / 1e9
        if away_s >= 0:
            return record, away_s
    # Another run or another boot: only the wall clock knows, and one that went backwards knows nothing.
    away_s = (time.time_ns() - saved.updated_unix_ns) / 1e9
    return record, away_s if away_s >= 0 else math.inf


def end_of_removed(store: Store, camera: str, device: str) -> None:
    """End the open visit of a camera that is no longer configured: nobody will see its end."""
    record, _ = resume(store, camera, None)
    if record.memory.visit_open:
        now_ns = time.time_ns()
        since = record.visit_since_unix_ns
        event = VisitEvent(Transition.LOST, record.visit_id, since, now_ns)
        store.commit(camera, Record().to_json(), event_rows(event, device, camera, None, now_ns))
