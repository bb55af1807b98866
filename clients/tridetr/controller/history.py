"""The list of past events for the viewer: written by the store, read by others while the controller runs."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATABASE = "controller.db"
HISTORY_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One line of the history.

    Attributes:
        seq: grows for ever; an event has the same number in the outbox.
        unix_ns: when it was decided.
        camera: name.
        kind: an event's kind, or ``camera_lost`` and ``camera_back`` for gaps in sight (which are no MQTT events).
        details: the event's payload, or what is known about the gap.
    """

    seq: int
    unix_ns: int
    camera: str
    kind: str
    details: dict[str, Any]


def read_history(
    state_dir: Path, *, limit: int = 100, after: int = 0, camera: str | None = None
) -> list[HistoryRow]:
    """Return the newest rows, newest first; empty where there is no (readable) history yet.

    Args:
        state_dir: ``config.state_dir``.
        limit: at most so many rows.
        after: only rows with a greater ``seq``.
        camera: only this camera's.
    """
    path = state_dir / DATABASE
    if not path.exists():
        return []
    query = "SELECT seq, unix_ns, camera, kind, details FROM history WHERE seq > ?"
    parameters: list[Any] = [after]
    if camera is not None:
        query += " AND camera = ?"
        parameters.append(camera)
    parameters.append(limit)
    try:
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0.2)
        ) as connection:
            connection.text_factory = _text
            rows = connection.execute(f"{query} ORDER BY seq DESC LIMIT ?", parameters).fetchall()
    except (sqlite3.Error, ValueError):
        return []
    found = []
    for seq, unix_ns, name, kind, details in rows:
        with suppress(
            ValueError, TypeError
        ):  # a damaged row; the controller's next start deals with it
            found.append(HistoryRow(seq, unix_ns, name, kind, json.loads(details)))
    return found


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
