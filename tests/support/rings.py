"""Frames and results with known content."""

from __future__ import annotations

from typing import Any

import numpy as np

from tridetr.shm.detections import DETECTION_DTYPE, ResultStamp
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameStamp, FrameWriter
from tridetr.shm.ring_reader import RingReader
from tridetr.shm.wakeup import Wakeup

W, H = 64, 32


def frame_writer(instance: str, **changes: Any) -> FrameWriter:
    """Return a writer of small frames."""
    fields: dict[str, Any] = {"width": W, "height": H}
    return FrameWriter(instance, "cam", **fields | changes)


def frame_stamp(number: int = 0, **changes: Any) -> FrameStamp:
    """Return a stamp whose times are derived from the frame number."""
    fields: dict[str, Any] = {
        "frame_number": number,
        "capture_monotonic_ns": number * 1000 + 1,
        "capture_unix_ns": number * 1000 + 2,
        "color_range": ColorRange.LIMITED,
        "color_matrix": ColorMatrix.BT709,
    }
    return FrameStamp(**fields | changes)


def wakeup_of(reader: RingReader[Any, Any]) -> Wakeup:
    """Return the queue of a reader that does not poll."""
    assert reader.wakeup is not None
    return reader.wakeup


def put_frame(writer: FrameWriter, value: int, number: int = 0, **changes: Any) -> int | None:
    """Publish a frame whose pixels are all ``value`` and return its sequence number; None if no slot is free."""
    slot = writer.begin()
    if slot is None:
        return None
    slot.planes[:] = value
    return writer.publish(slot, frame_stamp(number, **changes))


def result_stamp(number: int = 0, **changes: Any) -> ResultStamp:
    """Return the stamp of a result of a 640×480 frame."""
    fields: dict[str, Any] = {
        "frame_number": number,
        "frame_sequence": number + 1,
        "width": 640,
        "height": 480,
        "capture_monotonic_ns": number * 1000 + 1,
        "capture_unix_ns": number * 1000 + 2,
        "lossless": False,
        "taken_ns": number * 1000 + 3,
        "infer_start_ns": number * 1000 + 4,
        "infer_end_ns": number * 1000 + 5,
        "published_ns": number * 1000 + 6,
        "model_name": "rfdetr_ort",
        "model_version": "1",
    }
    return ResultStamp(**fields | changes)


def some_detections(count: int) -> np.ndarray[Any, np.dtype[np.void]]:
    """Return detections that are all different."""
    found = np.zeros(count, DETECTION_DTYPE)
    for index, name in enumerate(DETECTION_DTYPE.names or ()):
        found[name] = np.arange(count) * 10 + index
    return found
