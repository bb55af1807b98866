"""Read the archive of visits, read-only, while the recorder runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tridetr.recorder.evidence_database import COMPLETE, OPEN, as_text, facts_of
from tridetr.recorder.evidence_files import DATABASE, FILES
from tridetr.sqlite_files import open_beside_writer

_COLUMNS = (
    "seq, visit_id, camera, class, started_unix_ns, ended_unix_ns, is_open, score, picture, crop, picture_facts, clip, "
    "clip_facts"
)
_LONGEST_SPANS = 10_000


@dataclass(frozen=True, slots=True)
class VisitRow:
    """One visit with a saved picture or clip.

    Attributes:
        seq: Increasing number.
        visit_id: ID of the visit, as in events.
        camera: Name of the camera.
        class_name: Class that opened the visit.
        started_unix_ns: Capture time of the first detection.
        ended_unix_ns: Capture time of the last detection so far.
        is_open: Whether the visit has not ended.
        score: Score of the best box in the picture; 0 without a picture.
        picture: File name of the picture; None if there is none.
        crop: File name of the crop; None if there is none.
        picture_facts: Boxes, sizes and capture time of the picture.
        clip: File name of the clip; None if there is none.
        clip_facts: Start and end of the clip, and whether the recorder encoded it.
        is_complete: Whether the visit has ended and no more files will be added.
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
    """Filters for visits; None = no filter.

    Attributes:
        before: Only visits with a lower ``seq``.
        camera: Only visits of this camera.
        class_name: Only visits of this class.
        from_unix_ns: Only visits that ended at or after this time.
        to_unix_ns: Only visits that started before this time.
    """

    before: int | None = None
    camera: str | None = None
    class_name: str | None = None
    from_unix_ns: int | None = None
    to_unix_ns: int | None = None

    def tests(self) -> dict[str, int | str]:
        """Return the SQL conditions and their values."""
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
    """A span of a camera's timeline: ``visit``, ``blind`` or ``unrecorded``; the rest is quiet."""

    kind: str
    camera: str
    started_unix_ns: int
    ended_unix_ns: int
    visit_id: str = ""


def file_of(path: Path, name: str) -> Path:
    """Return the path of a file that a row names, in ``path`` (``config.evidence_dir``)."""
    return path / FILES / name


def find_visits(path: Path, wanted: Wanted, limit: int) -> list[VisitRow]:
    """Return visits, newest first; an empty list if nothing has been saved yet.

    Args:
        path: ``config.evidence_dir``.
        wanted: Filters.
        limit: Maximum number of visits.
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
    """Return a visit and the IDs of the next newer and next older visit; None if the visit is not in the archive.

    Args:
        path: ``config.evidence_dir``.
        visit_id: ID of the visit.
        among: Filters for the newer and the older visit; None = no filters.
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
    """Return the classes of all visits in the archive, sorted."""
    with _reading(path) as connection:
        query = "SELECT DISTINCT class FROM visit ORDER BY 1"
        return [row[0] for row in (connection.execute(query) if connection else ())]


def time_line(path: Path, cameras: list[str], from_ns: int, to_ns: int) -> list[TimeSpan]:
    """Return the visits, blind times and unrecorded times of cameras in a period; the rest is quiet.

    Args:
        path: ``config.evidence_dir``.
        cameras: Names of the cameras.
        from_ns: Start of the period (Unix, ns).
        to_ns: End of the period (Unix, ns).
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
    values[10], values[12] = facts_of(values[10]), facts_of(values[12])
    values.append(state == COMPLETE)
    return VisitRow(*values)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the database read-only; None if it does not exist yet."""
    file = path / DATABASE
    if not file.exists():
        yield None
        return
    with closing(open_beside_writer(file, 1.0)) as connection:
        connection.text_factory = as_text
        yield connection
