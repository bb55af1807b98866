"""What is said over MQTT: pure builders of every payload (documented in docs/mqtt.md)."""

from __future__ import annotations

import enum
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tridetr import __version__
from tridetr.controller.state_machine import State
from tridetr.controller.stored_rows import NewRow
from tridetr.controller.visits import VisitEvent
from tridetr.model_card import ModelInfo

SCHEMA = 1
NODE_S = 60.0  # a node describes itself at least that often
ONLINE, OFFLINE = "online", "offline"
MAX_BOXES = 50
MAX_COMMAND_BYTES = 256


class Command(enum.Enum):
    """What may be asked for over MQTT."""

    REFRESH = "refresh"


@dataclass(frozen=True, slots=True)
class Box:
    """One detection that counted: class name, score, pixels."""

    name: str
    score: float
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """The frame on which something was decided.

    Attributes:
        number: the source's own frame number.
        sequence: of the frame ring.
        capture_unix_ns: when it was captured.
        width: pixels.
        height: pixels.
        model: name and version of the model that looked at it.
        boxes: what counted in it, best first.
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
    """What ``/status`` tells about a camera; ages in seconds, None = never seen."""

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
    """Return the payload of ``/person`` and the like: ON, OFF, or unknown where nothing can be seen.

    Args:
        state: of the sentry.
        seen: whether something of that class was seen in the open visit.
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
) -> dict[str, Any]:
    """Return an event without its publish time, as it lies in the outbox.

    Args:
        visit_event: what happened.
        device: name of the node.
        camera: name of the camera.
        frame: the frame that decided it; None where silence did.
        decided_unix_ns: wall-clock time of the decision.
    """
    payload: dict[str, Any] = {
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
        "duration_s": round((visit_event.at_unix_ns - visit_event.visit_since_unix_ns) / 1e9, 3),
        "frame_number": frame.number if frame else None,
        "frame_sequence": frame.sequence if frame else None,
        "frame_size": [frame.width, frame.height] if frame else None,
        "model": frame.model if frame else None,
        "score": frame.boxes[0].score if frame and frame.boxes else None,
        "boxes": boxes(frame.boxes) if frame else [],
    }
    return payload


def event_rows(
    made: VisitEvent | None, device: str, camera: str, frame: FrameFacts | None, now_ns: int
) -> list[NewRow]:
    """Return the row of an event for the store; none without an event."""
    if made is None:
        return []
    payload = event(made, device=device, camera=camera, frame=frame, decided_unix_ns=now_ns)
    return [NewRow(now_ns, made.kind, json.dumps(payload), made.event_id)]


def boxes(found: Sequence[Box]) -> list[dict[str, Any]]:
    """Return at most ``MAX_BOXES`` boxes for JSON."""
    return [
        {"class": box.name, "score": box.score, "xyxy": list(box.xyxy)} for box in found[:MAX_BOXES]
    ]


def published(stored: str, unix_ns: int) -> str:
    """Return the stored event with its publish time: each attempt says when it was made."""
    payload = json.loads(stored)
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
    folder: Path,
    started_unix_ns: int,
    unix_ns: int,
) -> str:
    """Return the payload of ``/node``.

    Args:
        cameras: state and source of each camera.
        model: that serves; None = not known yet.
        findings: what is wrong now.
        folder: whose disk is looked at.
        started_unix_ns: when the controller started.
        unix_ns: now.
    """
    try:
        usage = shutil.disk_usage(folder)
        disk = {"free_bytes": usage.free, "total_bytes": usage.total}
    except OSError:
        disk = None
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


def stopped(facts: CameraFacts) -> CameraFacts:
    """Return what holds of a camera once its node has been stopped."""
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


def parse_command(payload: bytes) -> Command | None:
    """Return the command, or None where the payload is none (it may be anything)."""
    if len(payload) > MAX_COMMAND_BYTES:
        return None
    try:
        return Command(payload.decode("ascii").strip().lower())
    except (UnicodeDecodeError, ValueError):
        return None


def on_off(on: bool) -> str:
    """Return the payload of a switch."""
    return "ON" if on else "OFF"


def parse_on_off(payload: bytes) -> bool | None:
    """Return what a switch is to be, or None where the payload is neither (it may be anything)."""
    return {b"on": True, b"off": False}.get(payload.strip().lower())


def iso(unix_ns: int) -> str | None:
    """Return RFC 3339 in UTC with milliseconds; None for 0 or a time that no calendar has."""
    if unix_ns <= 0:
        return None
    try:
        moment = datetime.fromtimestamp(unix_ns / 1e9, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
