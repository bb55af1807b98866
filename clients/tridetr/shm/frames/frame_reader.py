"""Reader of camera frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tridetr.shm import names
from tridetr.shm.frames.frame_table import FRAME, FrameStamp, frame_bytes, read_stamp
from tridetr.shm.lease import Lease, Mapping
from tridetr.shm.names import RingName
from tridetr.shm.ring_reader import RingReader
from tridetr.wire.view import TableView, WireError


class _FrameView:
    """Cached view of a slot: the validated offsets of its fields, and arrays over its planes."""

    __slots__ = ("height", "offset", "planes", "table", "width")

    def __init__(self, mapping: Mapping, table: TableView) -> None:
        self.table = table
        values = table.read(mapping.buffer)
        self.width, self.height = int(values[7]), int(values[8])
        size = frame_bytes(self.width, self.height)
        if table.length(mapping.buffer, "pixels") != size:
            raise WireError(f"the pixel data does not match {self.width}×{self.height} I420")
        self.offset = table.spans["pixels"].start
        pixels = np.frombuffer(mapping.buffer, np.uint8, size, self.offset)
        self.planes = pixels.reshape(self.height * 3 // 2, self.width)


class FrameLease(Lease):
    """A leased frame: usable in place, by Triton too, until released.

    Attributes:
        planes: uint8 [3 * height / 2, width], read-only, in place: Y, then U, then V.
        width: Pixels.
        height: Pixels.
        pixels_offset: Bytes from the region's start to the planes.
        pixels_nbytes: Bytes of the planes.
    """

    __slots__ = ()
    _view: _FrameView

    @property
    def planes(self) -> NDArray[np.uint8]:
        return self._view.planes

    @property
    def width(self) -> int:
        return self._view.width

    @property
    def height(self) -> int:
        return self._view.height

    @property
    def pixels_offset(self) -> int:
        return self._view.offset

    @property
    def pixels_nbytes(self) -> int:
        return self._view.planes.nbytes

    @property
    def stamp(self) -> FrameStamp:
        """The frame's metadata."""
        return read_stamp(self._view.table.read(self._mapping.buffer))

    @property
    def jpeg(self) -> memoryview:
        """The camera's own JPEG, in place; empty if there is none. Copy it before sending it to a socket."""
        view, buffer = self._view, self._mapping.buffer
        start = view.table.spans["jpeg"].start
        return buffer[start : start + view.table.length_or_0(buffer, "jpeg")]


class FrameReader(RingReader[_FrameView, FrameLease]):
    """Leases the newest frame of one camera; a context manager. One reader per thread."""

    def __init__(self, instance: str, camera: str, consumer: str | None) -> None:
        """Open the consumer's wake-up queue (None: this reader polls); raises as :class:`RingReader`."""
        name = RingName(instance, camera, names.FRAMES)
        super().__init__(name, consumer, FRAME, _FrameView, FrameLease)
