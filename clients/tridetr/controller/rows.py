"""Rows for the store: pure builders from decisions."""

from __future__ import annotations

import json

from tridetr.controller import payloads
from tridetr.controller.payloads import FrameFacts
from tridetr.controller.state_machine import State
from tridetr.controller.store import NewRow
from tridetr.controller.visits import Record, VisitEvent


def event_rows(
    event: VisitEvent | None, device: str, camera: str, frame: FrameFacts | None, now_ns: int
) -> list[NewRow]:
    if event is None:
        return []
    payload = payloads.event(
        event, device=device, camera=camera, frame=frame, decided_unix_ns=now_ns
    )
    return [NewRow(now_ns, event.kind, json.dumps(payload), event.event_id)]


def sight_notes(
    before: Record, after: Record, camera: tuple[str, str, str], now_ns: int
) -> list[NewRow]:
    """Return a note for the viewer's list where sight of the camera was lost or has come back."""
    was, now = before.memory.state is State.UNKNOWN, after.memory.state is State.UNKNOWN
    if was == now or (was and not before.state_since_unix_ns):
        return []
    details = json.dumps({"camera_state": camera[0], "message": camera[2]})
    return [NewRow(now_ns, "camera_lost" if now else "camera_back", details)]
