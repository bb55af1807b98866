"""Routes for recorded visits: their list, pictures, clips and timeline."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from quart import Blueprint, Quart, Response, jsonify, request
from quart.typing import ResponseReturnValue
from werkzeug.datastructures import Range

from tridetr.gateway.disk_reader import DiskReader
from tridetr.gateway.hub import Hub
from tridetr.gateway.parameters import flag, integer, optional_integer
from tridetr.gateway.security import Answer, problem
from tridetr.recorder.evidence_database import VISIT_ID
from tridetr.recorder.visit_list import (
    VisitRow,
    Wanted,
    classes_of,
    file_of,
    find_visit,
    find_visits,
    time_line,
)

_LATEST_MS = 2**43  # later times than the year 2248 are refused
_LONGEST_LINE_H = 192


def add_visits(app: Quart, hub: Hub) -> None:
    """Add the routes of recorded visits to the application."""
    visits = Blueprint("visits", __name__)
    cameras = hub.config.cameras
    path = hub.config.evidence_dir
    archive = DiskReader("evidence.path")

    @visits.errorhandler(sqlite3.Error)
    async def unreadable(error: sqlite3.Error) -> Answer:
        return problem(503, f"the visits cannot be read now: {error}", Retry_After="5")

    @visits.get("/api/visits")
    async def list_visits() -> Answer:
        limit = integer("limit", 1, 500, 50)
        wanted = _wanted(optional_integer("before", 0, 2**53))
        if path is None:
            return jsonify({"enabled": False, "classes": [], "visits": [], "next": None})
        rows = await archive.read(find_visits, path, wanted, limit + 1)
        return jsonify(
            {
                "enabled": True,
                "classes": await archive.read(classes_of, path),
                "visits": [describe(row) for row in rows[:limit]],
                "next": rows[limit - 1].seq if len(rows) > limit else None,
            }
        )

    @visits.get("/api/visits/<visit_id>")
    async def one_visit(visit_id: str) -> Answer:
        found = await _find(archive, path, visit_id, _wanted())
        if found is None:
            return _unknown()
        row, newer, older = found
        return jsonify({**describe(row), "newer": newer, "older": older})

    @visits.get("/api/visits/<visit_id>/picture.jpg")
    async def picture(visit_id: str) -> ResponseReturnValue:
        cropped = flag("crop")
        found = await _find(archive, path, visit_id)
        if path is None or found is None:
            return _unknown()
        name = found[0].crop if cropped else found[0].picture
        return await _file(archive, path, name, "image/jpeg", "picture")

    @visits.get("/api/visits/<visit_id>/clip.mp4")
    async def clip(visit_id: str) -> ResponseReturnValue:
        found = await _find(archive, path, visit_id)
        if path is None or found is None:
            return _unknown()
        return await _file(archive, path, found[0].clip, "video/mp4", "clip")

    @visits.get("/api/timeline")
    async def line() -> Answer:
        first = integer("from_unix_ms", 0, _LATEST_MS)
        last = first + 3_600_000 * integer("hours", 1, _LONGEST_LINE_H, 24)
        spans = []
        if path is not None:
            spans = await archive.read(
                time_line, path, list(cameras), first * 1_000_000, last * 1_000_000
            )
        return jsonify(
            {
                "enabled": path is not None,
                "cameras": {
                    name: [
                        {
                            "kind": span.kind,
                            "from_unix_ms": span.started_unix_ns / 1e6,
                            "to_unix_ms": span.ended_unix_ns / 1e6,
                            "visit_id": span.visit_id or None,
                        }
                        for span in spans
                        if span.camera == name
                    ]
                    for name in cameras
                },
            }
        )

    app.register_blueprint(visits)


def describe(row: VisitRow) -> dict[str, Any]:
    """Return a visit as a JSON-compatible dictionary."""
    return {
        "seq": row.seq,
        "visit_id": row.visit_id,
        "camera": row.camera,
        "class": row.class_name,
        "started_unix_ms": row.started_unix_ns / 1e6,
        "ended_unix_ms": row.ended_unix_ns / 1e6,
        "open": row.is_open,
        "complete": row.is_complete,
        "score": row.score or None,
        "picture": _picture(row.picture_facts) if row.picture else None,
        "clip": _clip(row.clip_facts) if row.clip else None,
    }


def _picture(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is known about a picture; None if that is damaged, which must not hide the other visits."""
    try:
        return {
            "unix_ms": facts["unix_ns"] / 1e6,
            **{name: facts[name] for name in ("width", "height", "crop", "boxes")},
        }
    except (KeyError, TypeError):
        return None


def _clip(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is known about a clip; None if that is damaged."""
    try:
        return {
            "started_unix_ms": facts["started_unix_ns"] / 1e6,
            "ended_unix_ms": facts["ended_unix_ns"] / 1e6,
            "encoded": facts["encoded"],
        }
    except (KeyError, TypeError):
        return None


def _wanted(before: int | None = None) -> Wanted:
    """Return the filters of the current request."""
    return Wanted(
        before,
        request.args.get("camera"),
        request.args.get("class"),
        _ns(optional_integer("from_unix_ms", 0, _LATEST_MS)),
        _ns(optional_integer("to_unix_ms", 0, _LATEST_MS)),
    )


async def _find(
    archive: DiskReader, path: Path | None, visit_id: str, among: Wanted | None = None
) -> tuple[VisitRow, str | None, str | None] | None:
    if path is None or not VISIT_ID.fullmatch(visit_id):
        return None
    return await archive.read(find_visit, path, visit_id, among)


async def _file(archive: DiskReader, path: Path, name: str | None, kind: str, what: str) -> Answer:
    """Return a response with a file, or with the range of it that was requested."""
    if name is None:
        return problem(404, f"this visit has no {what}")
    try:
        body = await archive.open(file_of(path, name))
    except OSError:
        return problem(404, f"this {what} was removed")
    size = body.end
    response = Response(body, mimetype=kind)
    response.timeout = None
    response.content_length = size
    response.last_modified = body.status.st_mtime  # type: ignore[assignment]  # Werkzeug takes seconds, too
    response.set_etag(f"{body.status.st_mtime_ns}-{size}")
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Cache-Control"] = "private, no-cache"  # a better picture may replace it
    asked = request.range
    # A request for several ranges may be answered with the whole file (RFC 9110, 14.2).
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return await response.make_conditional(request)
    if request.if_range.etag not in (None, response.get_etag()[0]):
        return await response.make_conditional(request)
    begin, end = asked.ranges[0]
    if begin < 0:  # the last N bytes; the file may be shorter than N
        asked = Range("bytes", [(max(begin, -size), end)])
    part = asked.range_for_length(size)
    if part is None:
        return problem(
            416, f"the range is outside of the file's {size} bytes", Content_Range=f"bytes */{size}"
        )
    # Quart's own range handling does not support ranges that count from the end.
    body.begin, body.end = part
    response.content_range = asked.make_content_range(size)
    response.content_length, response.status_code = part[1] - part[0], 206
    return response


def _unknown() -> Answer:
    return problem(404, "no such visit: nothing was saved of it, or it was removed")


def _ns(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds * 1_000_000
