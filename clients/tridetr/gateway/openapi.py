"""Describe the gateway's HTTP API as an OpenAPI 3.1 document."""

from __future__ import annotations

from typing import Any

from tridetr import __version__

_OBJECT: dict[str, Any] = {"type": "object"}
_TEXT: dict[str, Any] = {"type": "string"}
_YES_NO: dict[str, Any] = {"type": "boolean"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_NUMBER: dict[str, Any] = {"type": "number"}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object whose properties are all required."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _or_null(schema: dict[str, Any], text: str = "") -> dict[str, Any]:
    return _described({**schema, "type": [schema["type"], "null"]}, text)


def _described(schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {**schema, "description": text} if text else schema


_ERROR = _object(error=_TEXT)
_AGE = _or_null(_NUMBER, "Age in seconds; null if never seen.")


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _typed(description: str, content_type: str) -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": _TEXT}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{name}"}


def _error(description: str) -> dict[str, Any]:
    return _json(description, _ref("schemas/Error"))


_REFUSED = {
    "401": _ref("responses/NoToken"),
    "421": _ref("responses/UnknownHost"),
    "429": _ref("responses/TooMany"),
}
_OPEN_REFUSED = {"421": _REFUSED["421"], "429": _REFUSED["429"]}
_INVALID = {"400": _error("A parameter is invalid.")}
_NO_CAMERA = {"404": _error("No such camera.")}
_UNREADABLE = {"503": _error("The disk cannot be read now.")}


def _query(name: str, schema: dict[str, Any], text: str = "", **more: Any) -> dict[str, Any]:
    return _described({"name": name, "in": "query", **more, "schema": schema}, text)


def _integer(name: str, low: int, high: int, text: str, **more: Any) -> dict[str, Any]:
    return _query(name, {**_INTEGER, "minimum": low, "maximum": high, **more}, text)


def _flag(name: str, text: str) -> dict[str, Any]:
    return _query(name, {**_TEXT, "enum": ["0", "1"], "default": "0"}, text)


_PARTS = ["", "camera", "capture", "detector", "controller", "model"]
_WATCHING = {
    "part": _described(
        {**_TEXT, "enum": _PARTS}, "The part that does not work; empty if the camera is watched."
    ),
    "reason": _TEXT,
    "since_unix_ms": _or_null(_NUMBER),
}
_CAMERAS_SCHEMA = _object(
    cameras=_list(
        _object(
            name=_TEXT,
            status=_object(state=_TEXT, message=_TEXT),
            state=_object(state=_TEXT, mode=_TEXT, last_event=_INTEGER),
            watching=_object(watching=_YES_NO, warnings=_list(_TEXT), **_WATCHING),
            frame_number=_or_null(_INTEGER),
            frame_age_s=_AGE,
            result_age_s=_AGE,
            detections=_or_null(_INTEGER),
            infer_ms=_or_null(_NUMBER),
            model=_or_null(_TEXT),
            width=_or_null(_INTEGER),
            height=_or_null(_INTEGER),
            viewers={**_INTEGER, "minimum": 0},
        )
    )
)
_EVENTS_SCHEMA = _object(
    events=_list(_object(seq=_INTEGER, unix_ms=_NUMBER, camera=_TEXT, kind=_TEXT, details=_OBJECT))
)
_READY = _object(ready=_YES_NO, **_WATCHING, frame_age_s=_AGE, result_age_s=_AGE)
_READY_SCHEMA = _object(ready=_YES_NO, cameras={**_OBJECT, "additionalProperties": _READY})
_PICTURE = _object(
    unix_ms=_NUMBER,
    width=_INTEGER,
    height=_INTEGER,
    crop=_described({"type": "array"}, "x, y, width and height in pixels."),
    boxes=_list(_OBJECT),
)
_CLIP = _object(
    started_unix_ms=_NUMBER,
    ended_unix_ms=_NUMBER,
    encoded=_described(
        _YES_NO, "Whether the recorder encoded the clip; false for the camera's own video."
    ),
)
_VISIT = {
    "seq": _INTEGER,
    "visit_id": _described(_TEXT, "The same ID as in events."),
    "camera": _TEXT,
    "class": _described(_TEXT, "The class that opened the visit."),
    "started_unix_ms": _described(_NUMBER, "Capture time of the first detection."),
    "ended_unix_ms": _described(_NUMBER, "Capture time of the last detection so far."),
    "open": _YES_NO,
    "complete": _described(_YES_NO, "Whether the visit has ended and no more files will be added."),
    "score": _or_null(_NUMBER, "Score of the picture's best box."),
    "picture": _or_null(_PICTURE),
    "clip": _or_null(_CLIP),
}
_ONE_VISIT_SCHEMA = _object(**_VISIT, newer=_or_null(_TEXT), older=_or_null(_TEXT))
_VISITS_SCHEMA = _object(
    enabled=_described(_YES_NO, "Whether `evidence` is configured."),
    classes=_list(_TEXT),
    visits=_list(_object(**_VISIT)),
    next=_or_null(_INTEGER, "Value of `before` for the next page; null on the last page."),
)
_SPAN = _object(
    kind={"enum": ["visit", "blind", "unrecorded"]},
    from_unix_ms=_NUMBER,
    to_unix_ms=_NUMBER,
    visit_id=_or_null(_TEXT),
)
_LINE_SCHEMA = _object(enabled=_YES_NO, cameras={**_OBJECT, "additionalProperties": _list(_SPAN)})
_ARMED_SCHEMA = _object(
    armed=_described(_YES_NO, "The node's switch."),
    cameras={**_OBJECT, "additionalProperties": _YES_NO},
)


def _in_path(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": text, "schema": _TEXT}


_CAMERA = _in_path("camera", "Name of the camera in the configuration.")
_VISIT_ID = _in_path("visit_id", "ID of the visit, as in events.")
_TIME_MS = {**_INTEGER, "minimum": 0, "maximum": 2**43}

_VISIT_FILTERS = [
    _query("camera", _TEXT),
    _query("class", _TEXT),
    _query("from_unix_ms", _TIME_MS, "Only visits that ended at or after this time."),
    _query("to_unix_ms", _TIME_MS, "Only visits that started before this time."),
]


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


def _arm(summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    operation = {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _object(armed=_YES_NO)}},
        },
        "responses": {
            "200": _json("All switches.", _ARMED_SCHEMA),
            "400": _error("The body is invalid."),
            "403": _error("The request comes from a page of another origin."),
            **_NO_CAMERA,
            "413": _error("The body is too long."),
            "503": _error("The controller is not running."),
            **_REFUSED,
        },
    }
    return {"put": operation}


def description() -> dict[str, Any]:
    """Return the OpenAPI document."""
    paths = {
        "/api/cameras": _get(
            "All cameras and their state", {"200": _json("Cameras.", _CAMERAS_SCHEMA)}
        ),
        "/api/events": _get(
            "Events, newest first",
            {"200": _json("Events.", _EVENTS_SCHEMA), **_INVALID, **_NO_CAMERA, **_UNREADABLE},
            [
                _integer("limit", 1, 500, "Maximum number of events.", default=100),
                _integer(
                    "after",
                    0,
                    2**62,
                    "Only events with a greater `seq`. A replaced database counts from 1 again; to notice that, pass "
                    "the newest known `seq` minus 1: that event is then missing or has another time.",
                    default=0,
                ),
                _query("camera", _TEXT),
            ],
        ),
        "/api/armed": {
            **_get(
                "Arming state of the node and its cameras",
                {
                    "200": _json("All switches.", _ARMED_SCHEMA),
                    "503": _error("The controller is not running."),
                },
            ),
            **_arm("Arm or disarm the node", []),
        },
        "/api/armed/{camera}": _arm("Arm or disarm a camera", [_CAMERA]),
        "/api/visits": _get(
            "Visits with a saved picture or clip, newest first",
            {"200": _json("Visits.", _VISITS_SCHEMA), **_INVALID, **_UNREADABLE},
            [
                _integer("limit", 1, 500, "Maximum number of visits.", default=50),
                _integer("before", 0, 2**53, "Only visits with a lower `seq`: `next` of a page."),
                *_VISIT_FILTERS,
            ],
        ),
        "/api/visits/{visit_id}": _get(
            "One visit, with the next newer and older visit that match the filters",
            {
                "200": _json("The visit and its neighbours.", _ONE_VISIT_SCHEMA),
                **_INVALID,
                "404": _error("No such visit, or its files were removed."),
                **_UNREADABLE,
            },
            [_VISIT_ID, *_VISIT_FILTERS],
        ),
        "/api/visits/{visit_id}/picture.jpg": _get(
            "The best picture of a visit, without boxes",
            {
                "200": _typed("A JPEG.", "image/jpeg"),
                "206": _typed("A part of it (Range).", "image/jpeg"),
                **_INVALID,
                "404": _error("No such picture."),
                **_UNREADABLE,
            },
            [_VISIT_ID, _flag("crop", "1: only the area around the best box.")],
        ),
        "/api/visits/{visit_id}/clip.mp4": _get(
            "The video of a visit",
            {
                "200": _typed("An MP4.", "video/mp4"),
                "206": _typed("A part of it (Range).", "video/mp4"),
                "404": _error("No such clip."),
                **_UNREADABLE,
            },
            [_VISIT_ID],
        ),
        "/api/timeline": _get(
            "Timeline of each camera; times that no span covers were quiet",
            {"200": _json("Timelines.", _LINE_SCHEMA), **_INVALID, **_UNREADABLE},
            [
                _query("from_unix_ms", _TIME_MS, "Start of the timeline.", required=True),
                _integer("hours", 1, 192, "Length in hours.", default=24),
            ],
        ),
        "/snapshot/{camera}.jpg": _get(
            "The newest picture",
            {
                "200": _typed("A JPEG.", "image/jpeg"),
                **_INVALID,
                **_NO_CAMERA,
                "503": _error(
                    "The camera has not delivered a frame yet, its last one is old, or there are too many requests."
                ),
            },
            [
                _CAMERA,
                _flag(
                    "boxes",
                    "1: draw the detections, unless the newest are of a frame more than 1.5 s older than the picture.",
                ),
                _flag("small", "1: at most 640 pixels wide."),
            ],
        ),
        "/healthz": _get(
            "Liveness of the gateway", {"200": _typed("Alive.", "text/plain")}, is_open=True
        ),
        "/readyz": _get(
            "Readiness: whether the cameras are watched",
            {
                "200": _json(
                    "At least one camera (with all=1: every camera) is watched: its frames, results and "
                    "decisions are fresh.",
                    _READY_SCHEMA,
                ),
                **_INVALID,
                "503": _json("Not watched; each camera has a reason.", _READY_SCHEMA),
            },
            [_flag("all", "1: every camera must be watched.")],
            is_open=True,
        ),
        "/metrics": _get(
            "Metrics of the whole node",
            {
                "200": _typed("Prometheus text.", "text/plain"),
                "503": _error("No process has written metrics yet."),
            },
        ),
        "/api/openapi.json": _get("This document", {"200": _json("OpenAPI.", _OBJECT)}),
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
                "NoToken": _error("The token is missing or wrong."),
                "UnknownHost": _error("The Host header is not trusted."),
                "TooMany": _error("Too many requests, or too many wrong tokens."),
            },
        },
    }
