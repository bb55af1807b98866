"""Contents of a slot of a frame ring (``schemas/frame.fbs``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tridetr.errors import ShmError
from tridetr.i420 import planes
from tridetr.shm.device_region import DEVICE_MEMORY
from tridetr.shm.values import (
    TRACE_CODE,
    ColorMatrix,
    ColorRange,
    TraceContext,
    trace_from_words,
    trace_to_words,
)
from tridetr.wire.spec import Inline, Scalar, TableSpec, Text, Vector
from tridetr.wire.view import TableView

FRAME = TableSpec(
    b"TDFR",
    (
        Text("camera", 32),
        Scalar("frame_number", "Q"),
        Scalar("capture_monotonic_ns", "Q"),
        Scalar("capture_unix_ns", "Q"),
        Scalar("width", "I"),
        Scalar("height", "I"),
        Scalar("color_range", "B"),
        Scalar("color_matrix", "B"),
        Scalar("lossless", "?"),
        Inline("trace", TRACE_CODE),
        Vector("pixels", 1, 64),
        Vector("jpeg", 1, 4),
        Vector("device", DEVICE_MEMORY.size, 8),
    ),
)
MAX_SIDE = 16_384  # pixels
_RANGES = {int(member): member for member in ColorRange}
_MATRICES = {int(member): member for member in ColorMatrix}
# Order of the values in a record (FRAME.record): trace, three times, width, height, range, matrix, lossless.


@dataclass(slots=True)
class FrameStamp:
    """Metadata of a frame.

    Attributes:
        frame_number: Index at the source; gaps are allowed.
        capture_monotonic_ns: Capture time on CLOCK_MONOTONIC [ns].
        capture_unix_ns: Capture time in Unix time [ns].
        color_range: Range of the planes.
        color_matrix: Matrix of the planes.
        lossless: Whether the writer waits for the decision on this frame, so that readers must not skip it.
        trace: Trace that the frame belongs to; None if it is not traced.
    """

    frame_number: int
    capture_monotonic_ns: int
    capture_unix_ns: int
    color_range: ColorRange
    color_matrix: ColorMatrix
    lossless: bool = False
    trace: TraceContext | None = None


def frame_bytes(width: int, height: int) -> int:
    """Return the size of an I420 frame [bytes].

    Raises:
        ShmError: Width or height is odd or out of bounds.

    >>> frame_bytes(1920, 1080)
    3110400
    """
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or width % 2 or height % 2:
        raise ShmError(
            f"invalid frame size {width}×{height}: width and height must be even, 2 to {MAX_SIDE} pixels"
        )
    return width * height * 3 // 2


def stamp_values(stamp: FrameStamp, width: int, height: int) -> tuple[int, ...]:
    """Return the values of a frame's record, in the order of ``FRAME.record``."""
    return (
        *trace_to_words(stamp.trace),
        stamp.frame_number,
        stamp.capture_monotonic_ns,
        stamp.capture_unix_ns,
        width,
        height,
        stamp.color_range,
        stamp.color_matrix,
        stamp.lossless,
    )


def read_stamp(values: tuple[int, ...]) -> FrameStamp:
    """Return the metadata in a frame's record; an unknown colour range or matrix is read as LIMITED or BT601."""
    high, low, span, flags, number, monotonic, unix, _, _, range_, matrix, lossless = values
    return FrameStamp(
        number,
        monotonic,
        unix,
        _RANGES.get(range_, ColorRange.LIMITED),
        _MATRICES.get(matrix, ColorMatrix.BT601),
        bool(lossless),
        trace_from_words(high, low, span, flags),
    )


class FrameSlot:
    """A frame slot that is being written.

    Attributes:
        planes: uint8 [3 * height / 2, width], writable, in place: Y, then U, then V.
        y: uint8 [height, width].
        u: uint8 [height / 2, width / 2].
        v: uint8 [height / 2, width / 2].
        jpeg: Space for the camera's own JPEG.
    """

    __slots__ = ("_index", "_table", "jpeg", "planes", "u", "v", "y")

    def __init__(
        self, index: int, table: TableView, view: memoryview, width: int, height: int, jpeg: int
    ) -> None:
        self._index = index
        self._table = table
        size = frame_bytes(width, height)
        pixels = np.frombuffer(view, np.uint8, size, table.spans["pixels"].start)
        self.planes = pixels.reshape(height * 3 // 2, width)
        self.y, self.u, self.v = planes(self.planes)
        start = table.spans["jpeg"].start
        self.jpeg = view[start : start + jpeg]
