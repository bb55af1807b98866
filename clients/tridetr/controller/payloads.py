"""Build and parse all MQTT payloads (documented in docs/mqtt.md). Pure, except for the disk usage in ``node``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from tridetr import __version__
from tridetr.controller.state_machine import State
from tridetr.controller.stored_rows import NewRow
from tridetr.controller.visits import VisitEvent
from tridetr.model_card import ModelInfo

SCHEMA = 1
NODE_S = 60.0  # longest interval between two messages on the node's topic
ONLINE, OFFLINE = "online", "offline"
MAX_BOXES = 50
MAX_COMMAND_BYTES = 256


@dataclass(frozen=True, slots=True)
class Box:
    """One detection that passed the alarm filter: class name, score, and x1, y1, x2, y2 in pixels."""

    name: str
    score: float
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """The frame that a decision is based on.

    Attributes:
        number: frame number of the source.
        sequence: sequence number in the frame ring.
        capture_unix_ns: wall-clock capture time.
        width: width in pixels.
        height: height in pixels.
        model: name and version of the model that ran on it, as ``name:version``.
        boxes: detections that passed the alarm filter, best score first.
    """

    number: int
    sequence: int
    capture_unix_ns: int
    width: int
    height: int
    model: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class CameraFacts:
    """The facts about a camera that ``/status`` publishes; ages in seconds, None = never seen."""

    state: str
    alarmed: bool
    state_since_unix_ns: int
    visit_id: str
    camera: str
    source: str
    message: str
    last_frame_age_s: float | None
    last_result_age_s: float | None
    events_waiting: int
    store: str


def presence(state: State, seen: bool) -> str:
    """Return the payload of a presence topic such as ``/person``: ``ON``, ``OFF``, or ``unknown`` without sight.

    Args:
        state: state of the sentry.
        seen: whether an object of that class was seen in the open visit.
    """
    if state is State.UNKNOWN:
        return "unknown"
    return "ON" if state is State.TRACKING and seen else "OFF"


def event(
    visit_event: VisitEvent,
    *,
    device: str,
    camera: str,
    frame: FrameFacts | None,
    decided_unix_ns: int,
    lasted_ns: int | None = None,
) -> dict[str, Any]:
    """Return an event's payload as it is stored in the outbox, without its publish time.

    Args:
        visit_event: the event.
        device: name of the node.
        camera: name of the camera.
        frame: the frame that caused the event; None if silence did.
        decided_unix_ns: wall-clock time of the decision.
        lasted_ns: duration of the visit; None = by the wall clock.
    """
    if lasted_ns is None:
        lasted_ns = visit_event.at_unix_ns - visit_event.visit_since_unix_ns
    return {
        "schema": SCHEMA,
        "event_id": visit_event.event_id,
        "kind": visit_event.kind,
        "class": visit_event.class_name,
        "visit_id": visit_event.visit_id,
        "device": device,
        "camera": camera,
        "visit_started_at": iso(visit_event.visit_since_unix_ns),
        "captured_at": iso(frame.capture_unix_ns) if frame else None,
        "decided_at": iso(decided_unix_ns),
        "duration_s": round(max(0, lasted_ns) / 1e9, 3),
        "frame_number": frame.number if frame else None,
        "frame_sequence": frame.sequence if frame else None,
        "frame_size": [frame.width, frame.height] if frame else None,
        "model": frame.model if frame else None,
        "score": frame.boxes[0].score if frame and frame.boxes else None,
        "boxes": boxes(frame.boxes) if frame else [],
    }


def frame_of_class(frame: FrameFacts, class_name: str) -> FrameFacts:
    """Return the facts of a frame with the boxes of one class only."""
    return replace(frame, boxes=tuple(box for box in frame.boxes if box.name == class_name))


def event_rows(
    made: VisitEvent | None,
    device: str,
    camera: str,
    frame: FrameFacts | None,
    now_ns: int,
    lasted_ns: int | None = None,
) -> list[NewRow]:
    """Return the row to store for an event; an empty list without an event."""
    if made is None:
        return []
    payload = event(
        made,
        device=device,
        camera=camera,
        frame=frame,
        decided_unix_ns=now_ns,
        lasted_ns=lasted_ns,
    )
    return [NewRow(now_ns, made.kind, json.dumps(payload), made.event_id)]


def boxes(found: Sequence[Box]) -> list[dict[str, Any]]:
    """Return the first ``MAX_BOXES`` boxes as JSON-compatible dictionaries."""
    return [
        {"class": box.name, "score": box.score, "xyxy": list(box.xyxy)} for box in found[:MAX_BOXES]
    ]


def published(stored: str, unix_ns: int, *, is_short: bool = False) -> str:
    """Return the payload of a stored event as JSON, with the time of this publish attempt added.

    Args:
        stored: the event as it is stored.
        unix_ns: time of this attempt.
        is_short: leave out all boxes but the best one.
    """
    payload = json.loads(stored)
    if is_short and payload.get("boxes"):
        payload["boxes"] = payload["boxes"][:1]
    payload["published_at"] = iso(unix_ns)
    return json.dumps(payload, separators=(",", ":"))


def status(facts: CameraFacts, unix_ns: int) -> str:
    """Return the payload of ``/status``."""
    payload = asdict(facts)
    payload["state_since"] = iso(payload.pop("state_since_unix_ns"))
    payload["visit_id"] = facts.visit_id or None
    return json.dumps(
        {"schema": SCHEMA, **payload, "published_at": iso(unix_ns)}, separators=(",", ":")
    )


def node(
    cameras: Mapping[str, Mapping[str, str]],
    *,
    model: ModelInfo | None,
    findings: Sequence[Mapping[str, str]],
    space: tuple[int, int] | None,
    started_unix_ns: int,
    unix_ns: int,
) -> str:
    """Return the payload of ``/node``.

    Args:
        cameras: state and source of each camera.
        model: the model that is served; None = not known yet.
        findings: current problems, as ``problems.findings`` returns them.
        space: free and total bytes of the disk of ``state_dir``; None = unknown.
        started_unix_ns: start of the controller.
        unix_ns: current wall-clock time.
    """
    disk = space and {"free_bytes": space[0], "total_bytes": space[1]}
    known = model and {"name": model.name, "checksum": model.checksum, "provider": model.provider}
    return json.dumps(
        {
            "schema": SCHEMA,
            "version": __version__,
            "model": known,
            "cameras": cameras,
            "disk": disk,
            "findings": findings,
            "started_at": iso(started_unix_ns),
            "interval_s": NODE_S,
            "published_at": iso(unix_ns),
        },
        separators=(",", ":"),
    )


def started_at(payload: bytes) -> str | None:
    """Return the start of the controller that published a ``/node`` message; None if it is not one.

    Example:
        >>> started_at(b'{"started_at": "2026-11-26T06:10:20.114Z"}')
        '2026-11-26T06:10:20.114Z'
    """
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    started = found.get("started_at") if isinstance(found, dict) else None
    return started if isinstance(started, str) else None


def stopped(facts: CameraFacts) -> CameraFacts:
    """Return a camera's facts as they are published when its node stops."""
    return replace(
        facts,
        state=State.UNKNOWN.value,
        alarmed=False,
        visit_id="",
        camera="unknown",
        message="the node was stopped",
        last_frame_age_s=None,
        last_result_age_s=None,
    )


def is_refresh(payload: bytes) -> bool:
    """Return whether a payload of arbitrary bytes is the command `refresh`.

    Example:
        >>> is_refresh(b" Refresh ")
        True
    """
    return len(payload) <= MAX_COMMAND_BYTES and payload.strip().lower() == b"refresh"


def on_off(on: bool) -> str:
    """Return the payload of a switch, ``ON`` or ``OFF``."""
    return "ON" if on else "OFF"


def parse_on_off(payload: bytes) -> bool | None:
    """Return the switch state in a payload of arbitrary bytes; None if it is neither on nor off."""
    return {b"on": True, b"off": False}.get(payload.strip().lower())


def iso(unix_ns: int) -> str | None:
    """Return a time as RFC 3339 in UTC with milliseconds; None if it is not positive or out of range.

    Example:
        >>> iso(1_500_000_000)
        '1970-01-01T00:00:01.500Z'
    """
    if unix_ns <= 0:
        return None
    try:
        moment = datetime.fromtimestamp(unix_ns / 1e9, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
