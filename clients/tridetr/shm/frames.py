"""The ring of camera frames: I420 planes in place, the camera's JPEG beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tridetr.errors import ShmError
from tridetr.shm import layout, names
from tridetr.shm.layout import Geometry
from tridetr.shm.lease import Lease, Mapping, RegionKey
from tridetr.shm.names import RingName
from tridetr.shm.ring_reader import RingReader
from tridetr.shm.ring_writer import RingWriter
from tridetr.shm.values import (
    TRACE_CODE,
    ColorMatrix,
    ColorRange,
    TraceContext,
    trace_from_words,
    trace_to_words,
)
from tridetr.shm.wakeup import Wakeup
from tridetr.wire.spec import Inline, Scalar, TableSpec, Text, Vector
from tridetr.wire.view import TableView, WireError, locate

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ColorMatrix",
    "ColorRange",
    "FrameLease",
    "FrameReader",
    "FrameSlot",
    "FrameStamp",
    "FrameWriter",
    "RegionKey",
    "TraceContext",
]

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
    ),
)
MAX_SIDE = 16_384  # pixels
# Order of the values in a record (FRAME.record): trace, three times, width, height, range, matrix, lossless.


@dataclass(slots=True)
class FrameStamp:
    """What is known of a frame beside its pixels.

    Attributes:
        frame_number: Index at the source; gaps are allowed.
        capture_monotonic_ns: CLOCK_MONOTONIC.
        capture_unix_ns: Unix time.
        color_range: Range of the planes.
        color_matrix: Matrix of the planes.
        lossless: The writer waits for the decision on this frame: no reader may skip it.
        trace: Trace that the frame belongs to.
    """

    frame_number: int
    capture_monotonic_ns: int
    capture_unix_ns: int
    color_range: ColorRange
    color_matrix: ColorMatrix
    lossless: bool = False
    trace: TraceContext | None = None


def frame_bytes(width: int, height: int) -> int:
    """Return the bytes of an I420 frame.

    Raises:
        ShmError: A side is odd or out of bounds.
    """
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or width % 2 or height % 2:
        raise ShmError(f"a frame of {width}×{height} pixels: sides must be even, 2 to {MAX_SIDE}")
    return width * height * 3 // 2


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
        luma, chroma = width * height, width * height // 4
        self.planes = pixels.reshape(height * 3 // 2, width)
        self.y = pixels[:luma].reshape(height, width)
        self.u = pixels[luma : luma + chroma].reshape(height // 2, width // 2)
        self.v = pixels[luma + chroma :].reshape(height // 2, width // 2)
        start = table.spans["jpeg"].start
        self.jpeg = view[start : start + jpeg]


class FrameWriter:
    """Publishes the frames of one camera; a context manager.

    Example::

        with FrameWriter("default", "hall", width=1920, height=1080) as writer:
            if (slot := writer.begin()) is not None:
                slot.planes[:] = planes
                writer.publish(slot, stamp)
    """

    def __init__(
        self,
        instance: str,
        camera: str,
        *,
        width: int,
        height: int,
        slots: int = names.FRAME_SLOTS,
        jpeg_capacity: int = 0,
        consumers: Sequence[str] | None = None,
    ) -> None:
        """Take over or make the ring.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            width: Pixels, even.
            height: Pixels, even.
            slots: Number of slots: all leases there can be, plus 2.
            jpeg_capacity: Bytes for the camera's own JPEG; 0 for sources that have none.
            consumers: Whom to wake; None = all.

        Raises:
            ShmError: Odd sizes, another writer, or a limit of the system.
        """
        self._name = RingName(instance, camera, names.FRAMES)
        self._slot_count = slots
        self._jpeg_capacity = jpeg_capacity
        geometry = self._prepare(width, height)
        self._ring = RingWriter(self._name, geometry, consumers)
        self._slots: list[FrameSlot | None] = [None] * slots

    def _prepare(self, width: int, height: int) -> Geometry:
        counts = {"pixels": frame_bytes(width, height), "jpeg": self._jpeg_capacity}
        built = FRAME.build(counts)
        table = locate(FRAME, memoryview(built), 0, len(built))
        # What lies before the pixels; the rest is mutated with every frame.
        self._head = built[: table.spans["pixels"].start]
        self._width, self._height = width, height
        kind = names.KIND_NUMBERS[names.FRAMES]
        shape = (width, height, self._jpeg_capacity, 0)
        return Geometry(kind, self._slot_count, layout.round_to_page(len(built)), shape)

    @property
    def width(self) -> int:
        """Pixels."""
        return self._width

    @property
    def height(self) -> int:
        """Pixels."""
        return self._height

    @property
    def jpeg_capacity(self) -> int:
        """Bytes for the camera's own JPEG."""
        return self._jpeg_capacity

    def begin(self) -> FrameSlot | None:
        """Take a free slot, never the newest; None: readers hold all of them (skip the frame and count it)."""
        index = self._ring.begin()
        if index is None:
            return None
        return self._slots[index] or self._first_use(index)

    def publish(self, slot: FrameSlot, stamp: FrameStamp, *, jpeg_bytes: int = 0) -> int:
        """Publish a slot taken with :meth:`begin` and wake the consumers.

        Args:
            slot: The slot, with its planes written.
            stamp: What is known of the frame.
            jpeg_bytes: Bytes written to ``slot.jpeg``; 0: none.

        Returns:
            Its sequence.

        Raises:
            ShmError: ``jpeg_bytes`` exceeds the capacity; the slot is still taken.
        """
        if not 0 <= jpeg_bytes <= self._jpeg_capacity:
            raise ShmError(f"a JPEG of {jpeg_bytes} bytes exceeds {self._jpeg_capacity}")
        table, view = slot._table, self._ring.segment.view
        table.record.pack_into(
            view,
            table.record_at,
            *trace_to_words(stamp.trace),
            stamp.frame_number,
            stamp.capture_monotonic_ns,
            stamp.capture_unix_ns,
            self._width,
            self._height,
            stamp.color_range,
            stamp.color_matrix,
            stamp.lossless,
        )
        table.put_length(view, "jpeg", jpeg_bytes)
        return self._ring.publish(slot._index)

    def abandon(self, slot: FrameSlot) -> None:
        """Give a slot taken with :meth:`begin` back unpublished."""
        self._ring.abandon(slot._index)

    def resize(self, width: int, height: int, *, jpeg_capacity: int | None = None) -> None:
        """Go on with another size in a ring of the next generation; does nothing if nothing changes.

        Raises:
            ShmError: Odd sizes, or ``/dev/shm`` is too small; then the writer stays as it was.
        """
        before = self._width, self._height, self._jpeg_capacity, self._head
        if jpeg_capacity is not None:
            self._jpeg_capacity = jpeg_capacity
        if (width, height, self._jpeg_capacity) == before[:3]:
            return
        try:
            self._ring.renew(self._prepare(width, height))
        except BaseException:
            self._width, self._height, self._jpeg_capacity, self._head = before
            raise
        self._slots = [None] * self._slot_count

    def close(self) -> None:
        """Give the ring up; it stays for readers and for the next writer."""
        self._slots = []
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _first_use(self, index: int) -> FrameSlot:
        """Lay the table into a slot; under its lock, since readers may still have used the last writer's."""
        geometry, view = self._ring.segment.geometry, self._ring.segment.view
        start = geometry.slot_offset(index)
        view[start : start + len(self._head)] = self._head
        table = locate(FRAME, view, start, geometry.slot_size)
        table.put_text(view, "camera", self._name.camera, 32)
        slot = FrameSlot(index, table, view, self._width, self._height, self._jpeg_capacity)
        self._slots[index] = slot
        return slot


class _FrameView:
    """What is kept of a slot: the places of its fields, checked, and arrays over its planes."""

    __slots__ = ("height", "jpeg_start", "offset", "planes", "table", "width")

    def __init__(self, mapping: Mapping, table: TableView) -> None:
        self.table = table
        values = table.read(mapping.buffer)
        self.width, self.height = int(values[7]), int(values[8])
        size = frame_bytes(self.width, self.height)
        if table.length(mapping.buffer, "pixels") != size:
            raise WireError(f"the pixels are not those of {self.width}×{self.height} I420")
        self.offset = table.spans["pixels"].start
        pixels = np.frombuffer(mapping.buffer, np.uint8, size, self.offset)
        self.planes = pixels.reshape(self.height * 3 // 2, self.width)
        self.jpeg_start = table.spans["jpeg"].start


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
        """What is known of the frame beside its pixels.

        Raises:
            WireError: The slot names a colour range or matrix that does not exist.
        """
        high, low, span, flags, number, monotonic, unix, _, _, range_, matrix, lossless = (
            self._view.table.read(self._mapping.buffer)
        )
        try:
            color = ColorRange(range_), ColorMatrix(matrix)
        except ValueError as error:
            raise WireError(str(error)) from error
        trace = trace_from_words(high, low, span, flags)
        return FrameStamp(number, monotonic, unix, *color, lossless, trace)

    @property
    def jpeg(self) -> memoryview:
        """The camera's own JPEG, in place; empty if there is none. Copy it before it goes to a socket.

        Raises:
            WireError: Its length exceeds the slot.
        """
        start = self._view.jpeg_start
        return self._mapping.buffer[
            start : start + self._view.table.length(self._mapping.buffer, "jpeg")
        ]


class FrameReader(RingReader[_FrameView, FrameLease]):
    """Leases the newest frame of one camera; a context manager. One reader per thread.

    Attributes:
        wakeup: Becomes readable when a frame was published.
    """

    def __init__(self, instance: str, camera: str, consumer: str) -> None:
        """Open the consumer's wake-up queue; the ring need not exist yet.

        Raises:
            ShmError: A limit of the system is reached, or a name is not allowed.
        """
        name = RingName(instance, camera, names.FRAMES)
        self.wakeup = Wakeup(name.queue(consumer))
        super().__init__(name, FRAME, _FrameView, FrameLease)

    def close(self) -> None:
        """End all leases and let go of ring and queue."""
        super().close()
        self.wakeup.close()
