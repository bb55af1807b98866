"""Contents of a slot of a detection ring (``schemas/detection.fbs``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tridetr.shm.values import TRACE_CODE, TraceContext
from tridetr.wire.spec import Inline, Scalar, TableSpec, Text, Vector

# Struct `Detection` of detection.fbs; align=True adds the 2 bytes of padding that FlatBuffers has.
DETECTION_DTYPE = np.dtype(
    [
        ("x1", "<f4"),
        ("y1", "<f4"),
        ("x2", "<f4"),
        ("y2", "<f4"),
        ("score", "<f4"),
        ("class_id", "<u2"),
        ("track_id", "<u4"),
    ],
    align=True,
)
assert DETECTION_DTYPE.itemsize == 28

NAME_BYTES, VERSION_BYTES = 64, 64
RESULT = TableSpec(
    b"TDDE",
    (
        Text("camera", 32),
        Scalar("frame_number", "Q"),
        Scalar("frame_sequence", "Q"),
        Scalar("capture_monotonic_ns", "Q"),
        Scalar("capture_unix_ns", "Q"),
        Scalar("taken_ns", "Q"),
        Scalar("infer_start_ns", "Q"),
        Scalar("infer_end_ns", "Q"),
        Scalar("published_ns", "Q"),
        Scalar("width", "I"),
        Scalar("height", "I"),
        Scalar("lossless", "?"),
        Inline("trace", TRACE_CODE),
        Text("model_name", NAME_BYTES),
        Text("model_version", VERSION_BYTES),
        Vector("detections", DETECTION_DTYPE.itemsize, 4),
    ),
)


@dataclass(slots=True)
class ResultStamp:
    """Metadata of a detection result. Times are on CLOCK_MONOTONIC [ns], except ``capture_unix_ns``.

    Attributes:
        frame_number: The frame's index at its source.
        frame_sequence: The frame's sequence in its ring.
        width: Pixels of the frame.
        height: Pixels of the frame.
        capture_monotonic_ns: When the frame was captured.
        capture_unix_ns: The same moment in Unix time [ns].
        lossless: Whether the frame's writer waits for the decision.
        taken_ns: When the detector took the frame.
        infer_start_ns: When it sent the request; before ``taken_ns`` if the picture had not changed since then, so that
            the result of an earlier frame is reused for this one.
        infer_end_ns: When it received the response.
        published_ns: When the result was published.
        model_name: At most 64 bytes of UTF-8.
        model_version: At most 64 bytes of UTF-8.
        trace: Trace that the frame belongs to; None if it is not traced.
    """

    frame_number: int
    frame_sequence: int
    width: int
    height: int
    capture_monotonic_ns: int
    capture_unix_ns: int
    lossless: bool
    taken_ns: int
    infer_start_ns: int
    infer_end_ns: int
    published_ns: int
    model_name: str
    model_version: str
    trace: TraceContext | None = None

    @property
    def repeated(self) -> bool:
        """Whether the result of an earlier frame is reused."""
        return self.infer_start_ns < self.taken_ns
