"""What is kept of visits, for readers while the recorder runs: rows of the archive, never written here."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tridetr.recorder.archive import COMPLETE, DATABASE, FILES, OPEN

VISIT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")
_COLUMNS = (
    "seq, visit_id, camera, class, started_unix_ns, ended_unix_ns, is_open, score, picture, crop, picture_facts, clip, "
    "clip_facts"
)
_LONGEST_SPANS = 10_000


@dataclass(frozen=True, slots=True)
class VisitRow:
    """One visit of which something is kept.

    Attributes:
        seq: Grows with each visit.
        started_unix_ns: Capture of the first detection.
        ended_unix_ns: Capture of the last one so far.
        score: Of the best box in the picture; 0 without a picture.
        picture: Name of the file; None: there is none.
        crop: Likewise.
        picture_facts: Boxes, sizes, and when it was captured.
        clip: Like ``picture``.
        clip_facts: From when to when it reaches, and whether it was encoded here.
        is_complete: Whether it is over, and no file is still to come.
    """

    seq: int
    visit_id: str
    camera: str
    class_name: str
    started_unix_ns: int
    ended_unix_ns: int
    is_open: bool
    score: float
    picture: str | None
    crop: str | None
    picture_facts: dict[str, Any]
    clip: str | None
    clip_facts: dict[str, Any]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which visits: each None does not select.

    Attributes:
        before: Only those with a lower ``seq``.
        camera: Only this camera's.
        class_name: Only of this class.
        from_unix_ns: Only those that ended then or later.
        to_unix_ns: Only those that started before.
    """

    before: int | None = None
    camera: str | None = None
    class_name: str | None = None
    from_unix_ns: int | None = None
    to_unix_ns: int | None = None

    def tests(self) -> dict[str, int | str]:
        """Return the conditions in SQL, each with its value."""
        tests = {
            "seq < ?": self.before,
            "camera = ?": self.camera,
            "class = ?": self.class_name,
            "ended_unix_ns >= ?": self.from_unix_ns,
            "started_unix_ns < ?": self.to_unix_ns,
        }
        return {test: value for test, value in tests.items() if value is not None}


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """A part of a camera's time line: ``visit``, ``blind`` or ``unrecorded``; the rest is quiet."""

    kind: str
    camera: str
    started_unix_ns: int
    ended_unix_ns: int
    visit_id: str = ""


def file_of(path: Path, name: str) -> Path:
    """Return where a file that a row names is; ``path``: ``config.evidence_dir``."""
    return path / FILES / name


def find_visits(path: Path, wanted: Wanted, limit: int) -> list[VisitRow]:
    """Return the newest visits first; none where nothing is kept yet.

    Args:
        path: ``config.evidence_dir``.
        wanted: Which ones.
        limit: At most so many.
    """
    chosen = wanted.tests()
    where = f"WHERE {' AND '.join(chosen)}" if chosen else ""
    query = f"SELECT {_COLUMNS} FROM visit {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608
    with _reading(path) as connection:
        found = connection.execute(query, (*chosen.values(), limit)) if connection else ()
        return [_row(columns) for columns in found]


def find_visit(
    path: Path, visit_id: str, among: Wanted | None = None
) -> tuple[VisitRow, str | None, str | None] | None:
    """Return a visit with the ids of the next newer and the next older one; None: nothing is kept of it.

    Args:
        path: ``config.evidence_dir``.
        visit_id: Of the visit.
        among: Which visits the other two are among; None: all.
    """
    with _reading(path) as connection:
        if connection is None:
            return None
        query = f"SELECT {_COLUMNS} FROM visit WHERE visit_id = ?"  # noqa: S608
        found = connection.execute(query, (visit_id,)).fetchone()
        if found is None:
            return None
        row = _row(found)
        chosen = among.tests() if among else {}
        newer, older = (
            connection.execute(
                f"SELECT visit_id FROM visit WHERE {' AND '.join([beyond, *chosen])} "  # noqa: S608
                f"ORDER BY seq {order} LIMIT 1",
                (row.seq, *chosen.values()),
            ).fetchone()
            for beyond, order in (("seq > ?", "ASC"), ("seq < ?", "DESC"))
        )
        return row, newer and newer[0], older and older[0]


def classes_of(path: Path) -> list[str]:
    """Return the classes of the visits that are kept."""
    with _reading(path) as connection:
        query = "SELECT DISTINCT class FROM visit ORDER BY 1"
        return [row[0] for row in (connection.execute(query) if connection else ())]


def time_line(path: Path, cameras: list[str], from_ns: int, to_ns: int) -> list[TimeSpan]:
    """Return what happened in a time, by camera; quiet is what no span covers.

    Args:
        path: ``config.evidence_dir``.
        cameras: Names.
        from_ns: Unix time.
        to_ns: Unix time, after ``from_ns``.
    """
    found: list[TimeSpan] = []
    with _reading(path) as connection:
        if connection is None:
            return [TimeSpan("unrecorded", camera, from_ns, to_ns) for camera in cameras]
        reach = "started_unix_ns < ? AND ended_unix_ns > ?"
        for kind, columns in (
            ("visit", "camera, started_unix_ns, ended_unix_ns, visit_id"),
            ("blind", "camera, started_unix_ns, ended_unix_ns, ''"),
        ):
            rows = connection.execute(
                f"SELECT {columns} FROM {kind} WHERE {reach} ORDER BY seq DESC LIMIT ?",  # noqa: S608
                (to_ns, from_ns, _LONGEST_SPANS),
            )
            found += [TimeSpan(kind, *row) for row in rows if row[0] in cameras]
        watched = connection.execute(
            f"SELECT started_unix_ns, ended_unix_ns FROM watch WHERE {reach} ORDER BY started_unix_ns",  # noqa: S608
            (to_ns, from_ns),
        ).fetchall()
        for start, end in _gaps(watched, from_ns, to_ns):
            found += [TimeSpan("unrecorded", camera, start, end) for camera in cameras]
    return found


def _gaps(watched: list[tuple[int, int]], from_ns: int, to_ns: int) -> Iterator[tuple[int, int]]:
    at = from_ns
    for start, end in watched:
        if start > at:
            yield at, start
        at = max(at, end)
    if at < to_ns:
        yield at, to_ns


def _row(found: tuple[Any, ...]) -> VisitRow:
    values = list(found)
    state, values[6] = values[6], values[6] == OPEN
    values[10], values[12] = json.loads(values[10]), json.loads(values[12])
    values.append(state == COMPLETE)
    return VisitRow(*values)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the rows; None where nothing was kept yet."""
    file = path / DATABASE
    if not file.exists():
        yield None
        return
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
        yield connection
