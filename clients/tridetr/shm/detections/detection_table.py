"""What a slot of a detection ring holds (``schemas/detection.fbs``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tridetr.shm.values import TRACE_CODE, TraceContext
from tridetr.wire.spec import Inline, Scalar, TableSpec, Text, Vector

# Struct `Detection` of detection.fbs; align=True makes the 2 bytes of padding that FlatBuffers has, too.
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
    """What is known of a result beside the detections. Times in ns of CLOCK_MONOTONIC but for ``capture_unix_ns``.

    Attributes:
        frame_number: The frame's index at its source.
        frame_sequence: The frame's sequence in its ring.
        width: Pixels of the frame.
        height: Pixels of the frame.
        capture_monotonic_ns: When the frame was captured.
        capture_unix_ns: The same in Unix time.
        lossless: The frame's writer waits for the decision.
        taken_ns: When the detector took the frame.
        infer_start_ns: When it asked the server; before ``taken_ns`` where the picture had not changed since, so that
            the answer to an earlier frame stands for this one too.
        infer_end_ns: When the server had answered.
        published_ns: When the result was published.
        model_name: At most 64 bytes of UTF-8.
        model_version: At most 64 bytes of UTF-8.
        trace: Trace that the frame belongs to.
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
        """Whether this repeats the answer to an earlier frame."""
        return self.infer_start_ns < self.taken_ns
