"""What stops watching: problems of the node and of each camera, published until they are over."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from tridetr.telemetry import metrics

SCHEMA = 1


class NodeProblem(enum.Enum):
    """Kinds of problems of a node; the value is the key in the topic and the label of the metric."""

    DETECTOR = "detector"  # no camera that is live gets results
    OUTBOX = "outbox"  # events wait for the broker
    DISK = "disk"  # the state cannot be written
    NOTIFY = "notify"  # notifications do not reach their target


class CameraProblem(enum.Enum):
    """Kinds of problems of a camera."""

    CAMERA = "camera"  # offline, frozen, blind, or its capture process is dead
    DETECTOR = "detector"  # the camera is live, but its pictures get no results
    CLASSES = "classes"  # the model does not know a class of alarm.classes


Problems: TypeAlias = "Mapping[NodeProblem, str] | Mapping[CameraProblem, str]"


def payload(problems: Problems) -> str:
    """Return the JSON of a problem topic: for each kind a message, empty where all is well.

    Example:
        >>> payload({NodeProblem.DISK: "full"})
        '{"schema":1,"problem":true,"disk":"full"}'
    """
    found = {kind.value: message for kind, message in problems.items()}
    return json.dumps(
        {"schema": SCHEMA, "problem": any(found.values()), **found}, separators=(",", ":")
    )


def findings(problems: Mapping[str, Problems]) -> list[dict[str, str]]:
    """Return what is wrong, for the description of the node; ``problems``: by camera, empty = the node.

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
    """Set the metric of each kind.

    Args:
        problems: message of each kind, empty where all is well.
        camera: name; empty = the node.
    """
    for kind, message in problems.items():
        metrics.PROBLEM.labels(camera, kind.value).set(1 if message else 0)


def of_node(
    cameras: Iterable[Mapping[CameraProblem, str]], *, outbox: str, disk: str, notify: str = ""
) -> dict[NodeProblem, str]:
    """Return the node's problems.

    Args:
        cameras: the problems of each camera.
        outbox: why events wait; empty = they do not.
        disk: why the state cannot be written; empty = it can be.
        notify: which targets get no notifications, and why; empty = all do.
    """
    watched = [found for found in cameras if not found[CameraProblem.CAMERA]]
    blind = bool(watched) and all(found[CameraProblem.DETECTOR] for found in watched)
    detector = "no camera that is live gets results" if blind else ""
    return {
        NodeProblem.DETECTOR: detector,
        NodeProblem.OUTBOX: outbox,
        NodeProblem.DISK: disk,
        NodeProblem.NOTIFY: notify,
    }
