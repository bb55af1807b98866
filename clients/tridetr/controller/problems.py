"""Problems that keep the node or a camera from watching; published until they are resolved."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from tridetr.controller.payloads import SCHEMA
from tridetr.telemetry import metrics

NO_RESULTS = "no results from the detector"
TOO_SLOW = (
    "results come too rarely, because the model is too slow for the number of cameras on this machine: a person who "
    "passes quickly can be missed"
)


class NodeProblem(enum.Enum):
    """Kinds of problems of a node; the value is the key in the payload and the label of the metric."""

    DETECTOR = "detector"  # no live camera gets results
    OUTBOX = "outbox"  # events are waiting for the broker
    DISK = "disk"  # the state or the run folder cannot be written
    NOTIFY = "notify"  # notifications do not reach their target
    BROKER = "broker"  # the broker refuses messages or subscriptions
    DEVICE = "device"  # another node publishes under the same name


class CameraProblem(enum.Enum):
    """Kinds of problems of a camera."""

    CAMERA = "camera"  # offline, frozen, blind, pictures too few or late, or no capture process
    DETECTOR = "detector"  # the camera is live, but there are no results, or too few
    CLASSES = "classes"  # the model does not know a class of alarm.classes, or detect.classes leaves it out


Problems: TypeAlias = "Mapping[NodeProblem, str] | Mapping[CameraProblem, str]"


def payload(problems: Problems) -> str:
    """Return the JSON payload of a problem topic: one message per kind, empty = no problem.

    Example:
        >>> payload({NodeProblem.DISK: "full"})
        '{"schema":1,"problem":true,"disk":"full"}'
    """
    found = {kind.value: message for kind, message in problems.items()}
    return json.dumps(
        {"schema": SCHEMA, "problem": any(found.values()), **found}, separators=(",", ":")
    )


def findings(problems: Mapping[str, Problems]) -> list[dict[str, str]]:
    """Return all current problems as a list, for the node's topic.

    Args:
        problems: problems by camera; the empty name is the node.

    Example:
        >>> findings({"": {NodeProblem.DISK: "full", NodeProblem.OUTBOX: ""}})
        [{'camera': '', 'kind': 'disk', 'message': 'full'}]
    """
    return [
        {"camera": camera, "kind": kind.value, "message": message}
        for camera, kinds in problems.items()
        for kind, message in kinds.items()
        if message
    ]


def export(problems: Problems, camera: str = "") -> None:
    """Set the problem metric of each kind.

    Args:
        problems: message of each kind; empty = no problem.
        camera: name of the camera; empty = the node.
    """
    for kind, message in problems.items():
        metrics.PROBLEM.labels(camera, kind.value).set(1 if message else 0)


def of_node(
    cameras: Iterable[Mapping[CameraProblem, str]],
    *,
    outbox: str,
    disk: str,
    notify: str = "",
    broker: str = "",
    device: str = "",
) -> dict[NodeProblem, str]:
    """Return the node's problems.

    Args:
        cameras: the problems of each camera.
        outbox: why events are waiting; empty = none has waited too long.
        disk: why the state or the run folder cannot be written; empty = they can.
        notify: targets that do not get their notifications, and why; empty = all do.
        broker: messages and subscriptions that the broker refuses; empty = none.
        device: that another node publishes under the same name; empty = none does.
    """
    watched = [found for found in cameras if not found[CameraProblem.CAMERA]]
    blind = bool(watched) and all(
        found[CameraProblem.DETECTOR] not in ("", TOO_SLOW) for found in watched
    )
    detector = ""
    if blind:
        at_times = all(found[CameraProblem.DETECTOR] != NO_RESULTS for found in watched)
        detector = (
            f"no live camera gets results from the detector{' without interruptions' * at_times}"
        )
    return {
        NodeProblem.DETECTOR: detector,
        NodeProblem.OUTBOX: outbox,
        NodeProblem.DISK: disk,
        NodeProblem.NOTIFY: notify,
        NodeProblem.BROKER: broker,
        NodeProblem.DEVICE: device,
    }
