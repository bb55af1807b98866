"""Home Assistant discovery messages: one device for the node, and one for each camera connected via it."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

from tridetr import __version__
from tridetr.config.node_sections import GatewaySection
from tridetr.controller.payloads import NODE_S, OFFLINE, ONLINE
from tridetr.controller.problems import NodeProblem
from tridetr.controller.state_machine import State, Transition
from tridetr.controller.topics import Topics, topic_level
from tridetr.controller.visits import JOINED, kind
from tridetr.ports import viewer_url

# Entities that versions up to 0.1 declared for each camera, in the node's message.
_FIRST_ENTITIES = {
    "person": "binary_sensor",
    "camera": "binary_sensor",
    "state": "sensor",
    "visits": "event",
}
_Components = dict[str, dict[str, Any]]
# Their topics are published again every NODE_S: a broker that lost power with the node never sends the node's will
_EXPIRING = ("binary_sensor", "sensor")
_EXPIRE_S = round(2.5 * NODE_S)
_NODE_NAMES = {
    NodeProblem.DETECTOR: ("Detector", "mdi:eye-off"),
    NodeProblem.OUTBOX: ("Event delivery", "mdi:email-alert"),
    NodeProblem.DISK: ("Disk", "mdi:harddisk"),
    NodeProblem.NOTIFY: ("Notifications", "mdi:bell-alert"),
    NodeProblem.BROKER: ("Broker", "mdi:server-network"),
    NodeProblem.DEVICE: ("Device name", "mdi:content-duplicate"),
}


def node_message(topics: Topics, viewer: str | None) -> dict[str, Any]:
    """Return the discovery message of the node: its problem sensors and its arming switch.

    Args:
        topics: topics of the node.
        viewer: URL of the web viewer; None if other machines cannot reach it.
    """
    components: _Components = {}
    for problem, (name, icon) in _NODE_NAMES.items():
        components[f"problem_{problem.value}"] = {
            "name": name,
            "icon": icon,
            **_problem(topics.problem(), problem.value),
        }
    components["armed"] = _switch(topics, None)
    device = {"identifiers": [topics.object_id], "name": f"tridetr {topics.device}"}
    return _message(topics, device, topics.object_id, components, viewer)


def camera_message(
    topics: Topics,
    camera: str,
    classes: Iterable[str],
    viewer: str | None,
    *,
    pictures: bool = False,
) -> dict[str, Any]:
    """Return the discovery message of a camera.

    Args:
        topics: topics of the node.
        camera: name of the camera.
        classes: names of its alarm classes.
        viewer: URL of the web viewer; None if other machines cannot reach it.
        pictures: whether pictures of visits are published.
    """
    classes = list(classes)
    label = camera.replace("_", " ").replace("-", " ").strip().capitalize() or camera
    components: _Components = {
        topic_level(name): {
            "platform": "binary_sensor",
            "name": name.capitalize(),
            "device_class": "occupancy",
            "state_topic": topics.presence(camera, name),
            # Home Assistant's value for "unknown" is None.
            "value_template": "{{ value if value in ('ON', 'OFF') else 'None' }}",
        }
        for name in classes
    }
    components["camera"] = {
        "platform": "binary_sensor",
        "name": "Camera",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": topics.status(camera),
        "value_template": "{{ 'ON' if value_json.camera == 'live' else 'OFF' }}",
        "json_attributes_topic": topics.status(camera),
        # Only values that rarely change: each change adds a row to Home Assistant's database.
        "json_attributes_template": (
            "{{ {'camera': value_json.camera, 'source': value_json.source, "
            "'message': value_json.message} | to_json }}"
        ),
    }
    components["state"] = {
        "platform": "sensor",
        "name": "Sentry",
        "icon": "mdi:shield-eye",
        "device_class": "enum",
        "options": [state.value for state in State],
        "state_topic": topics.state(camera),
    }
    actions = [transition.value for transition in Transition]
    if len(classes) > 1:
        actions.append(JOINED)
    components["visits"] = {
        "platform": "event",
        "name": "Visits",
        "icon": "mdi:walk",
        "event_types": [kind(name, action) for name in classes for action in actions],
        "state_topic": topics.events(camera),
        "value_template": (
            "{{ {'event_type': value_json.kind, 'event_id': value_json.event_id, "
            "'visit_id': value_json.visit_id, 'class': value_json.class, 'score': value_json.score, "
            "'captured_at': value_json.captured_at, 'duration_s': value_json.duration_s} "
            "| to_json }}"
        ),
    }
    components["problem"] = {"name": "Problem", **_problem(topics.problem(camera), "problem")}
    components["armed"] = _switch(topics, camera)
    if pictures:
        components["picture"] = {
            "platform": "image",
            "name": "Picture",
            "icon": "mdi:image",
            "image_topic": topics.picture(camera),
            "content_type": "image/jpeg",
        }
    device = {
        "identifiers": [f"{topics.object_id}_{camera}"],
        "name": label,
        "suggested_area": label,
        "via_device": topics.object_id,
    }
    return _message(topics, device, f"{topics.object_id}_{camera}", components, viewer)


def entities_of(message: Mapping[str, Any]) -> str:
    """Return the entities that a message declares, as a JSON object of platforms by name.

    A later message must remove those that it no longer declares: see ``with_removed``.
    """
    platforms = {name: part["platform"] for name, part in message["components"].items()}
    return json.dumps(platforms, sort_keys=True)


def merged_entities(declared: str, message: Mapping[str, Any]) -> str:
    """Return the entities of a message merged with those declared before, as ``entities_of`` does.

    Both are kept until the broker has confirmed the message.
    """
    before = json.loads(declared) if declared else {}
    return json.dumps({**before, **json.loads(entities_of(message))}, sort_keys=True)


def removed_entities(message: Mapping[str, Any], declared: str) -> list[str]:
    """Return the entities in the output of ``entities_of`` that a message no longer declares."""
    before = json.loads(declared) if declared else {}
    return [name for name in before if name not in message["components"]]


def without_entities(declared: str, names: Collection[str]) -> str:
    """Return the output of ``entities_of`` without some entities."""
    before = json.loads(declared) if declared else {}
    return json.dumps({name: kind for name, kind in before.items() if name not in names})


def with_removed(message: dict[str, Any], declared: str) -> str:
    """Return the message to publish as JSON, with entries that remove entities which are no longer declared.

    Args:
        message: the current discovery message.
        declared: ``entities_of`` the message that the topic holds; empty = none.
    """
    components = dict(message["components"])
    for name, platform in (json.loads(declared) if declared else {}).items():
        components.setdefault(name, {"platform": platform})
    return json.dumps({**message, "components": components}, separators=(",", ":"))


def first_entities(cameras: Iterable[str]) -> str:
    """Return the entities that version 0.1 declared for its cameras, as ``entities_of`` does."""
    return json.dumps(
        {
            f"{camera}_{name}": platform
            for camera in cameras
            for name, platform in _FIRST_ENTITIES.items()
        }
    )


def viewer_address(gateway: GatewaySection) -> str | None:
    """Return the viewer's URL for other machines; None if it listens on loopback only or its port is not fixed."""
    host = gateway.host
    if gateway.port == 0 or host == "localhost":
        return None
    with suppress(ValueError):  # a name
        address = ipaddress.ip_address(host)
        if address.is_loopback:
            return None
        if address.is_unspecified:
            host = socket.gethostname()
    return viewer_url(host, gateway.port)


def _problem(topic: str, key: str) -> dict[str, Any]:
    return {
        "platform": "binary_sensor",
        "device_class": "problem",
        "entity_category": "diagnostic",
        "state_topic": topic,
        "value_template": f"{{{{ 'ON' if value_json.{key} else 'OFF' }}}}",
        "json_attributes_topic": topic,
    }


def _switch(topics: Topics, camera: str | None) -> dict[str, Any]:
    return {
        "platform": "switch",
        "name": "Armed",
        "icon": "mdi:shield-home",
        "state_topic": topics.armed(camera),
        "command_topic": topics.arm(camera),
    }


def _message(
    topics: Topics,
    device: dict[str, Any],
    unique_prefix: str,
    components: _Components,
    viewer: str | None,
) -> dict[str, Any]:
    device |= {
        "manufacturer": "tridetr",
        "model": "camera" if "via_device" in device else "node",
        "sw_version": __version__,
    }
    if viewer:
        device["configuration_url"] = viewer
    return {
        "device": device,
        "origin": {"name": "tridetr", "sw_version": __version__},
        "availability": [
            {
                "topic": topics.availability,
                "payload_available": ONLINE,
                "payload_not_available": OFFLINE,
            }
        ],
        "qos": 1,
        "components": {
            name: {
                **component,
                "unique_id": f"{unique_prefix}_{name}",
                **({"expire_after": _EXPIRE_S} if component["platform"] in _EXPIRING else {}),
            }
            for name, component in components.items()
        },
    }
