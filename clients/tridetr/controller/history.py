"""Read the history of past events, which the controller's store writes and the gateway shows."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tridetr.controller.stored_rows import Row, checked
from tridetr.sqlite_files import open_beside_writer

DATABASE = "controller.db"
FOLDER_LOCK = "controller.lock"  # in the same folder; the controller holds it
HISTORY_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One row of the history.

    Attributes:
        seq: increasing number; an event has the same number in the outbox.
        unix_ns: time of the decision.
        camera: name of the camera.
        kind: kind of the event, or ``camera_lost`` and ``camera_back`` for gaps in sight (not published over MQTT).
        details: payload of the event, or the state and message of the camera at the gap.
    """

    seq: int
    unix_ns: int
    camera: str
    kind: str
    details: dict[str, Any]


def read_history(
    state_dir: Path, *, limit: int = 100, after: int = 0, camera: str | None = None
) -> list[HistoryRow]:
    """Return the newest rows, newest first; an empty list if the history does not exist or cannot be read.

    Args:
        state_dir: ``config.state_dir``.
        limit: maximum number of rows.
        after: return only rows with a greater ``seq``.
        camera: return only rows of this camera; None = of all.
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
        with closing(open_beside_writer(path, 0.2)) as connection:
            connection.text_factory = _text
            rows = connection.execute(f"{query} ORDER BY seq DESC LIMIT ?", parameters).fetchall()
    except (sqlite3.Error, ValueError):
        return []
    found = []
    for seq, unix_ns, name, kind, details in rows:
        # Skip a damaged row: the controller repairs the database at its next start.
        with suppress(ValueError, TypeError):
            checked(Row(seq, unix_ns, name, kind, details))
            found.append(HistoryRow(seq, unix_ns, name, kind, json.loads(details)))
    return found


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
