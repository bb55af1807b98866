"""One slot of a frame ring while it is being written."""

from __future__ import annotations

import numpy as np

from tridetr.i420 import planes
from tridetr.shm.frames.frame_table import frame_bytes
from tridetr.wire.view import TableView


class FrameSlot:
    """A slot being written.

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
