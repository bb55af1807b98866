"""Build the dictionaries that viewers and probes receive. Pure; docs/viewer-protocol.md lists every key."""

from __future__ import annotations

import math
from typing import Any

from tridetr.gateway.encode import EncodedImage
from tridetr.served_model import Labels
from tridetr.shm.boards import CameraState, CameraStatus, SentrySnapshot
from tridetr.shm.detections import DetectionLease, ResultStamp
from tridetr.shm.frames import FrameStamp

HEARTBEAT_S = 3.0  # age from which capture's status is stale; it is written at least once a second


def unix_ms(nanoseconds: int) -> float:
    """Return nanoseconds as milliseconds with three decimal places, which a JavaScript number can represent."""
    return round(nanoseconds / 1e6, 3)


def age_s(then_ns: int, now_ns: int) -> float:
    """Return the seconds from one monotonic time to another, rounded to milliseconds; 0 if it is later."""
    return max(0.0, round((now_ns - then_ns) / 1e9, 3))


def infer_ms(stamp: ResultStamp) -> float:
    """Return the milliseconds from the request to the server until its answer."""
    return round((stamp.infer_end_ns - stamp.infer_start_ns) / 1e6, 2)


def model(stamp: ResultStamp) -> str:
    """Return the name and version of the model that a result is from."""
    return f"{stamp.model_name}/{stamp.model_version}"


def frame(
    sequence: int, stamp: FrameStamp, width: int, height: int, image: EncodedImage
) -> dict[str, Any]:
    """Return the header of a `frame` message.

    Args:
        sequence: sequence number in the frame ring.
        stamp: metadata of the frame.
        width: width of the source frame in pixels.
        height: height of the source frame in pixels.
        image: the encoded picture.
    """
    return {
        "type": "frame",
        "sequence": sequence,
        "frame_number": stamp.frame_number,
        "width": width,
        "height": height,
        "image_width": image.width,
        "image_height": image.height,
        "original": image.is_original,
        "capture_unix_ms": unix_ms(stamp.capture_unix_ns),
    }


def boxes(lease: DetectionLease, labels: Labels) -> list[dict[str, Any]]:
    """Return the detections of a result as JSON-compatible dictionaries, best first.

    Invalid values of a faulty writer are not passed on: boxes with NaN or infinity are dropped, others are clipped to
    the frame.
    """
    size = (lease.stamp.width, lease.stamp.height) * 2
    return [
        {
            "xyxy": [
                round(min(max(0.0, float(row[name])), limit), 1)
                for name, limit in zip(("x1", "y1", "x2", "y2"), size, strict=True)
            ],
            "score": round(float(row["score"]), 3),
            "class": int(row["class_id"]),
            "label": labels.of(int(row["class_id"])),
            "track": int(row["track_id"]),
        }
        for row in lease.detections
        if all(math.isfinite(row[name]) for name in ("x1", "y1", "x2", "y2", "score"))
    ]


def detections(lease: DetectionLease, labels: Labels) -> dict[str, Any]:
    """Return the header of a `detections` message."""
    stamp = lease.stamp
    return {
        "type": "detections",
        "sequence": stamp.frame_sequence,
        "frame_number": stamp.frame_number,
        "width": stamp.width,
        "height": stamp.height,
        "capture_unix_ms": unix_ms(stamp.capture_unix_ns),
        "infer_ms": infer_ms(stamp),
        "total_ms": round((stamp.published_ns - stamp.taken_ns) / 1e6, 2),
        "model": model(stamp),
        "engine": labels.engine,
        "boxes": boxes(lease, labels),
    }


def state(snapshot: SentrySnapshot | None, now_ns: int) -> dict[str, Any]:
    """Return the header of a `state` message; without a live controller the state is `unknown`."""
    if snapshot is None or snapshot.expires_monotonic_ns <= now_ns:
        return {
            "type": "state",
            "state": "unknown",
            "mode": "alarmed",
            "reason": "no controller",
            "since_unix_ms": None,
            "visit_id": "",
            "visit_class": "",
            "last_event": snapshot.last_event_rowid if snapshot else 0,
        }
    return {
        "type": "state",
        "state": snapshot.state.name.lower(),
        "mode": snapshot.mode.name.lower(),
        "reason": "",
        "since_unix_ms": unix_ms(snapshot.state_since_unix_ns),
        "visit_id": snapshot.visit_id,
        "visit_class": snapshot.visit_class,
        "last_event": snapshot.last_event_rowid,
    }


def status(board: CameraStatus | None, now_ns: int) -> dict[str, Any]:
    """Return the header of a `status` message; without a live capture process the camera is `offline`."""
    if board is None:
        text = "no capture process has reported yet"
        board = CameraStatus(CameraState.OFFLINE, 0, now_ns, message=text)
    name, message = board.state.name.lower(), board.message
    if name != "ended" and now_ns - board.heartbeat_monotonic_ns > HEARTBEAT_S * 1e9:
        name, message = "offline", "the capture process has stopped reporting"
    return {
        "type": "status",
        "state": name,
        "message": message,
        "since_unix_ms": unix_ms(board.since_unix_ns) if board.since_unix_ns else None,
        "width": board.width,
        "height": board.height,
        "source_fps": round(board.source_fps, 2) if math.isfinite(board.source_fps) else 0.0,
        "source_kind": board.source_kind,
        "capture_clock": board.capture_clock,
        "reconnects": board.reconnects,
        "view_fault": board.view_fault,
    }
