"""Home Assistant's device discovery: one message describes the node and the entities of all its cameras."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from tridetr import __version__
from tridetr.controller.payloads import OFFLINE, ONLINE
from tridetr.controller.state_machine import State, Transition
from tridetr.controller.topics import Topics

_PLATFORMS = {
    "person": "binary_sensor",
    "camera": "binary_sensor",
    "state": "sensor",
    "visits": "event",
}


def discovery_payload(
    topics: Topics, cameras: Iterable[str], *, removed: Collection[str] = ()
) -> str:
    """Return the retained discovery message.

    Args:
        topics: of the node.
        cameras: that the node has.
        removed: cameras that it had; their entities are taken out.
    """
    components: dict[str, Any] = {}
    for camera in cameras:
        for name, component in _components(topics, camera).items():
            components[f"{camera}_{name}"] = {
                "platform": _PLATFORMS[name],
                "unique_id": f"{topics.object_id}_{camera}_{name}",
                **component,
            }
    for camera in removed:
        for name, platform in _PLATFORMS.items():
            components[f"{camera}_{name}"] = {"platform": platform}
    payload = {
        "device": {
            "identifiers": [topics.object_id],
            "name": f"tridetr {topics.device}",
            "manufacturer": "tridetr",
            "model": "camera sentry",
            "sw_version": __version__,
        },
        "origin": {"name": "tridetr", "sw_version": __version__},
        "availability": [
            {
                "topic": topics.availability,
                "payload_available": ONLINE,
                "payload_not_available": OFFLINE,
            }
        ],
        "qos": 1,
        "components": components,
    }
    return json.dumps(payload, separators=(",", ":"))


def _components(topics: Topics, camera: str) -> dict[str, dict[str, Any]]:
    label = camera.replace("_", " ").replace("-", " ")
    return {
        "person": {
            "name": f"{label} person",
            "device_class": "occupancy",
            "state_topic": topics.person(camera),
            # Home Assistant's own word for "not known" is None.
            "value_template": "{{ value if value in ('ON', 'OFF') else 'None' }}",
        },
        "camera": {
            "name": f"{label} camera",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": topics.status(camera),
            "value_template": "{{ 'ON' if value_json.camera == 'live' else 'OFF' }}",
            "json_attributes_topic": topics.status(camera),
        },
        "state": {
            "name": f"{label} sentry",
            "device_class": "enum",
            "options": [state.value for state in State],
            "state_topic": topics.state(camera),
        },
        "visits": {
            "name": f"{label} visits",
            "event_types": [f"person_{transition.value}" for transition in Transition],
            "state_topic": topics.events(camera),
            "value_template": (
                "{{ {'event_type': value_json.kind, 'event_id': value_json.event_id, "
                "'visit_id': value_json.visit_id, 'score': value_json.score, "
                "'captured_at': value_json.captured_at, 'duration_s': value_json.duration_s} "
                "| to_json }}"
            ),
        },
    }
