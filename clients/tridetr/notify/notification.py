"""The content of a notification: title, text, link and picture of an event."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_TITLES = {
    "arrived": "{what} at {where}",
    "joined": "{what} at {where}",
    "left": "{what} has left {where}",
    "lost": "{what} at {where} is out of view",
    "blind": "{where} is not watched",
    "watched": "{where} is watched again",
    "test": "Test of {where}",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One notification.

    Attributes:
        event_id: idempotent ID, the same for every attempt.
        event: the event: for a visit as published over MQTT (docs/mqtt.md) without `published_at`, otherwise as
            documented in docs/notifications.md.
        title: one short line.
        text: details in one line.
        link: URL of the viewer; None if other machines cannot reach it.
        picture: JPEG of the visit, if there is one.
    """

    event_id: str
    event: Mapping[str, Any]
    title: str
    text: str
    link: str | None = None
    picture: bytes | None = None


def message_of(details: str, link: str | None = None, picture: bytes | None = None) -> Message:
    """Return the notification of an event.

    Args:
        details: the event as it is stored (JSON).
        link: URL of the viewer.
        picture: JPEG of the visit.

    Example:
        >>> message_of('{"event_id": "v:arrived", "class": "person", "camera": "hall", "score": 0.9}').title
        'Person at hall'
    """
    event = json.loads(details)
    action = str(event["event_id"]).rpartition(":")[2]
    what = str(event.get("class", "")).capitalize()
    title = _TITLES[action].format(what=what, where=event["camera"])
    parts = [_local_time(event.get("captured_at") or event.get("decided_at"))]
    if event.get("reason"):
        parts = [f"since {_local_time(event['since'])}", str(event["reason"])]
    if event.get("score") is not None:
        parts.append(f"score {event['score']:.0%}")
    if event.get("duration_s"):
        parts.append(f"after {round(event['duration_s'])} s")
    if event.get("device"):
        parts.append(str(event["device"]))
    text = ", ".join(part for part in parts if part)
    return Message(event["event_id"], event, title, text, link, picture)


def example_message(device: str, camera: str, link: str | None, picture: bytes | None) -> Message:
    """Return a test notification with a new event ID."""
    event = {"event_id": f"{uuid.uuid4()}:test", "kind": "test", "class": "test", "camera": camera}
    return message_of(json.dumps({**event, "device": device}), link, picture)


def _local_time(text: object) -> str:
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return ""
    return f"{moment.astimezone():%H:%M:%S}"
