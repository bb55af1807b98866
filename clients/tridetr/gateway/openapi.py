"""The gateway's HTTP interface as OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from tridetr import __version__

_CAMERA = {
    "name": "camera",
    "in": "path",
    "required": True,
    "description": "Name of the camera in the configuration.",
    "schema": {"type": "string"},
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_AGE = {"type": ["number", "null"], "description": "Seconds; null: never seen."}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _typed(description: str, content_type: str) -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": {"type": "string"}}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{name}"}


_REFUSED = {
    "401": _ref("responses/NoToken"),
    "421": _ref("responses/UnknownHost"),
    "429": _ref("responses/TooMany"),
}
_OPEN_REFUSED = {"421": _REFUSED["421"], "429": _REFUSED["429"]}


def _integer(name: str, low: int, high: int, text: str, default: int) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": text,
        "schema": {"type": "integer", "minimum": low, "maximum": high, "default": default},
    }


def _flag(name: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": text,
        "schema": {"type": "string", "enum": ["0", "1"], "default": "0"},
    }


_WATCHING = {
    "part": {
        "type": "string",
        "enum": ["", "camera", "capture", "detector", "controller", "model"],
        "description": "What does not work; empty: all does.",
    },
    "reason": {"type": "string"},
    "since_unix_ms": {"type": ["number", "null"]},
}
_CAMERA_SCHEMA = {
    "type": "object",
    "required": ["name", "status", "state", "watching", "frame_age_s", "result_age_s", "viewers"],
    "properties": {
        "name": {"type": "string"},
        "status": {"type": "object", "required": ["state", "message"]},
        "state": {"type": "object", "required": ["state", "mode", "last_event"]},
        "watching": {
            "type": "object",
            "required": ["watching", "warnings", *_WATCHING],
            "properties": {
                "watching": {"type": "boolean"},
                "warnings": {"type": "array", "items": {"type": "string"}},
                **_WATCHING,
            },
        },
        "frame_number": {"type": ["integer", "null"]},
        "frame_age_s": _AGE,
        "result_age_s": _AGE,
        "detections": {"type": ["integer", "null"]},
        "infer_ms": {"type": ["number", "null"]},
        "model": {"type": ["string", "null"]},
        "width": {"type": ["integer", "null"]},
        "height": {"type": ["integer", "null"]},
        "viewers": {"type": "integer", "minimum": 0},
    },
}
_EVENT_SCHEMA = {
    "type": "object",
    "required": ["seq", "unix_ms", "camera", "kind", "details"],
    "properties": {
        "seq": {"type": "integer"},
        "unix_ms": {"type": "number"},
        "camera": {"type": "string"},
        "kind": {"type": "string"},
        "details": {"type": "object"},
    },
}
_READY_SCHEMA = {
    "type": "object",
    "required": ["ready", "cameras"],
    "properties": {
        "ready": {"type": "boolean"},
        "cameras": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["ready", "frame_age_s", "result_age_s", *_WATCHING],
                "properties": {
                    "ready": {"type": "boolean"},
                    **_WATCHING,
                    "frame_age_s": _AGE,
                    "result_age_s": _AGE,
                },
            },
        },
    },
}
_VISIT_SCHEMA = {
    "type": "object",
    "required": [
        "seq",
        "visit_id",
        "camera",
        "class",
        "started_unix_ms",
        "ended_unix_ms",
        "open",
        "score",
        "picture",
        "clip",
    ],
    "properties": {
        "seq": {"type": "integer"},
        "visit_id": {"type": "string", "description": "As in the events."},
        "camera": {"type": "string"},
        "class": {"type": "string", "description": "Of what opened the visit."},
        "started_unix_ms": {"type": "number", "description": "Capture of the first detection."},
        "ended_unix_ms": {"type": "number", "description": "Capture of the last one so far."},
        "open": {"type": "boolean"},
        "score": {"type": ["number", "null"], "description": "Of the picture's best box."},
        "picture": {
            "type": ["object", "null"],
            "required": ["unix_ms", "width", "height", "crop", "boxes"],
            "properties": {
                "unix_ms": {"type": "number"},
                "width": {"type": "integer"},
                "height": {"type": "integer"},
                "crop": {"type": "array", "description": "x, y, width, height."},
                "boxes": {"type": "array", "items": {"type": "object"}},
            },
        },
        "clip": {
            "type": ["object", "null"],
            "required": ["started_unix_ms", "ended_unix_ms", "encoded"],
            "properties": {
                "started_unix_ms": {"type": "number"},
                "ended_unix_ms": {"type": "number"},
                "encoded": {
                    "type": "boolean",
                    "description": "false: the camera's own video.",
                },
            },
        },
    },
}
_ONE_VISIT_SCHEMA = {
    **_VISIT_SCHEMA,
    "required": [*_VISIT_SCHEMA["required"], "newer", "older"],
    "properties": {
        **_VISIT_SCHEMA["properties"],  # type: ignore[dict-item]
        "newer": {"type": ["string", "null"]},
        "older": {"type": ["string", "null"]},
    },
}
_VISITS_SCHEMA = {
    "type": "object",
    "required": ["enabled", "classes", "visits", "next"],
    "properties": {
        "enabled": {"type": "boolean", "description": "Whether `evidence` is configured."},
        "classes": {"type": "array", "items": {"type": "string"}},
        "visits": {"type": "array", "items": _VISIT_SCHEMA},
        "next": {
            "type": ["integer", "null"],
            "description": "`before` of the next page; null: this is the last one.",
        },
    },
}
_LINE_SCHEMA = {
    "type": "object",
    "required": ["enabled", "cameras"],
    "properties": {
        "enabled": {"type": "boolean"},
        "cameras": {
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["kind", "from_unix_ms", "to_unix_ms", "visit_id"],
                    "properties": {
                        "kind": {"enum": ["visit", "blind", "unrecorded"]},
                        "from_unix_ms": {"type": "number"},
                        "to_unix_ms": {"type": "number"},
                        "visit_id": {"type": ["string", "null"]},
                    },
                },
            },
        },
    },
}
_VISIT_ID = {
    "name": "visit_id",
    "in": "path",
    "required": True,
    "description": "Id of the visit, as in events.",
    "schema": {"type": "string"},
}
_LATEST_MS = 2**43


def _time(name: str, text: str, *, required: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": text,
        "schema": {"type": "integer", "minimum": 0, "maximum": _LATEST_MS},
    }


def _list_of(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name],
        "properties": {name: {"type": "array", "items": schema}},
    }


def _get(
    summary: str,
    answers: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    *,
    is_open: bool = False,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters or [],
        "responses": {**answers, **(_OPEN_REFUSED if is_open else _REFUSED)},
    }
    if is_open:
        operation["security"] = []
    return {"get": operation}


_ARMED_SCHEMA = {
    "type": "object",
    "required": ["armed", "cameras"],
    "properties": {
        "armed": {"type": "boolean", "description": "The node's own switch."},
        "cameras": {"type": "object", "additionalProperties": {"type": "boolean"}},
    },
}


def _arm(summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    error = _ref("schemas/Error")
    body = {
        "type": "object",
        "required": ["armed"],
        "properties": {"armed": {"type": "boolean"}},
    }
    operation = {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _json("All switches.", _ARMED_SCHEMA),
            "400": _json("The body is not as described.", error),
            "403": _json("The request comes from a page of another origin.", error),
            "404": _json("No such camera.", error),
            "413": _json("The body is too long.", error),
            "503": _json("The controller does not run.", error),
            **_REFUSED,
        },
    }
    return {"put": operation}


def description() -> dict[str, Any]:
    """Return the OpenAPI document."""
    error = _ref("schemas/Error")
    paths = {
        "/api/cameras": _get(
            "All cameras and how they are",
            {"200": _json("Cameras.", _list_of("cameras", _CAMERA_SCHEMA))},
        ),
        "/api/events": _get(
            "What happened, newest first",
            {
                "200": _json("Events.", _list_of("events", _EVENT_SCHEMA)),
                "400": _json("A parameter is out of bounds.", error),
                "404": _json("No such camera.", error),
            },
            [
                _integer("limit", 1, 500, "At most so many.", 100),
                _integer("after", 0, 2**62, "Only events with a greater `seq`.", 0),
                {"name": "camera", "in": "query", "schema": {"type": "string"}},
            ],
        ),
        "/api/armed": {
            **_get(
                "Whether notifications are wanted",
                {
                    "200": _json("All switches.", _ARMED_SCHEMA),
                    "503": _json("The controller does not run.", error),
                },
            ),
            **_arm("Arm or disarm the node", []),
        },
        "/api/armed/{camera}": _arm("Arm or disarm a camera", [_CAMERA]),
        "/api/visits": _get(
            "Visits of which a picture or clip is kept, newest first",
            {
                "200": _json("Visits.", _VISITS_SCHEMA),
                "400": _json("A parameter is out of bounds.", error),
                "503": _json("The list cannot be read now.", error),
            },
            [
                _integer("limit", 1, 500, "At most so many.", 50),
                {
                    "name": "before",
                    "in": "query",
                    "description": "Only visits with a lower `seq`: `next` of the page before.",
                    "schema": {"type": "integer", "minimum": 0, "maximum": 2**53},
                },
                {"name": "camera", "in": "query", "schema": {"type": "string"}},
                {"name": "class", "in": "query", "schema": {"type": "string"}},
                _time("from_unix_ms", "Only visits that ended then or later."),
                _time("to_unix_ms", "Only visits that started before."),
            ],
        ),
        "/api/visits/{visit_id}": _get(
            "One visit",
            {
                "200": _json("The visit, and its neighbours.", _ONE_VISIT_SCHEMA),
                "404": _json("Nothing is kept of such a visit.", error),
                "503": _json("The list cannot be read now.", error),
            },
            [_VISIT_ID],
        ),
        "/api/visits/{visit_id}/picture.jpg": _get(
            "The best picture of a visit, without boxes",
            {
                "200": _typed("A JPEG.", "image/jpeg"),
                "206": _typed("A part of it (Range).", "image/jpeg"),
                "400": _json("A parameter is out of bounds.", error),
                "404": _json("There is none.", error),
                "503": _json("The list cannot be read now.", error),
            },
            [_VISIT_ID, _flag("crop", "1: only what is around the best box.")],
        ),
        "/api/visits/{visit_id}/clip.mp4": _get(
            "The video of a visit",
            {
                "200": _typed("An MP4.", "video/mp4"),
                "206": _typed("A part of it (Range).", "video/mp4"),
                "404": _json("There is none.", error),
                "503": _json("The list cannot be read now.", error),
            },
            [_VISIT_ID],
        ),
        "/api/timeline": _get(
            "What happened in a time, by camera; what no span covers was quiet",
            {
                "200": _json("Time lines.", _LINE_SCHEMA),
                "400": _json("A parameter is out of bounds.", error),
                "503": _json("The list cannot be read now.", error),
            },
            [
                _time("from_unix_ms", "Its begin.", required=True),
                _integer("hours", 1, 192, "How long it is.", 24),
            ],
        ),
        "/snapshot/{camera}.jpg": _get(
            "The newest picture",
            {
                "200": _typed("A JPEG.", "image/jpeg"),
                "400": _json("A parameter is out of bounds.", error),
                "404": _json("No such camera.", error),
                "503": _json(
                    "The camera has not delivered a frame yet, or too many ask at once.", error
                ),
            },
            [
                _CAMERA,
                _flag("boxes", "1: draw the detections."),
                _flag("small", "1: at most 640 wide."),
            ],
        ),
        "/healthz": _get(
            "Is the gateway alive?", {"200": _typed("It is.", "text/plain")}, is_open=True
        ),
        "/readyz": _get(
            "Are the cameras watched?",
            {
                "200": _json(
                    "At least one camera (with all=1: every camera) is watched: its frames, results and "
                    "decisions are fresh.",
                    _READY_SCHEMA,
                ),
                "400": _json("A parameter is out of bounds.", error),
                "503": _json("Not watched; each camera has its reason.", _READY_SCHEMA),
            },
            [_flag("all", "1: every camera must be watched.")],
            is_open=True,
        ),
        "/metrics": _get(
            "Metrics of the whole node",
            {
                "200": _typed("Prometheus text.", "text/plain"),
                "503": _json("No process has written any yet.", error),
            },
        ),
        "/api/openapi.json": _get("This document", {"200": _json("OpenAPI.", {"type": "object"})}),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tridetr gateway",
            "version": __version__,
            "description": "Pictures stream over the WebSocket /ws/{camera}: see docs/viewer-protocol.md.",
        },
        "security": [{"bearer": []}, {"session": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "tridetr_session"},
            },
            "schemas": {"Error": _ERROR},
            "responses": {
                "NoToken": _json("A token is needed, or it is wrong.", error),
                "UnknownHost": _json("The Host header is not this machine's.", error),
                "TooMany": _json("Too many requests, or too many wrong tokens.", error),
            },
        },
    }
