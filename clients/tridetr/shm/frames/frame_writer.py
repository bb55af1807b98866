"""Writer of camera frames."""

from __future__ import annotations

from collections.abc import Sequence

from tridetr.errors import ShmError
from tridetr.shm import layout, names
from tridetr.shm.closing import Closing
from tridetr.shm.frames.frame_table import FRAME, FrameSlot, FrameStamp, frame_bytes, stamp_values
from tridetr.shm.layout import Geometry
from tridetr.shm.names import RingName
from tridetr.shm.ring_writer import RingWriter
from tridetr.wire.view import locate


class FrameWriter(Closing):
    """Publishes the frames of one camera; a context manager.

    Example::

        with FrameWriter("default", "hall", width=1920, height=1080) as writer:
            if (slot := writer.begin()) is not None:
                slot.planes[:] = planes
                writer.publish(slot, stamp)

    Attributes:
        width: Pixels.
        height: Pixels.
        jpeg_capacity: Bytes reserved for the camera's own JPEG.
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
        """Take over or create the ring.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            width: Pixels, even.
            height: Pixels, even.
            slots: Number of slots: the most leases at a time, plus 2.
            jpeg_capacity: Bytes reserved for the camera's own JPEG; 0 for sources that have none.
            consumers: Consumers to wake; None for all.

        Raises:
            ShmError: A size is odd, another writer holds the ring, or a system limit is reached.
        """
        self._name = RingName(instance, camera, names.FRAMES)
        self._slot_count = slots
        self.jpeg_capacity = jpeg_capacity
        geometry = self._prepare(width, height)
        self._ring = RingWriter(self._name, geometry, consumers, in_turn=False)
        self._slots: list[FrameSlot | None] = [None] * slots

    def _prepare(self, width: int, height: int) -> Geometry:
        pixels = frame_bytes(width, height)
        counts = {"device": 0, "pixels": pixels, "jpeg": self.jpeg_capacity}
        built = FRAME.build(counts)
        table = locate(FRAME, memoryview(built), 0, len(built))
        # Everything before the pixels; the rest changes with every frame.
        self._head = built[: table.spans["pixels"].start]
        self.width, self.height = width, height
        kind = names.KIND_NUMBERS[names.FRAMES]
        shape = (width, height, self.jpeg_capacity, 0)
        return Geometry(kind, self._slot_count, layout.round_to_page(len(built)), shape)

    def begin(self) -> FrameSlot | None:
        """Take a free slot, never the newest; None if readers hold all of them (then skip the frame and count it).

        Only one slot may be taken at a time. A ring that was removed is created again.

        Raises:
            ShmError: The ring was removed, and another writer has its name, or ``/dev/shm`` is too small.
        """
        if self._ring.look_after_names():
            self._slots = [None] * self._slot_count
        index = self._ring.begin()
        if index is None:
            return None
        return self._slots[index] or self._first_use(index)

    def publish(self, slot: FrameSlot, stamp: FrameStamp, *, jpeg_bytes: int = 0) -> int:
        """Publish a slot taken with :meth:`begin` and wake the consumers.

        Args:
            slot: The slot, with its planes written.
            stamp: The frame's metadata.
            jpeg_bytes: Bytes written to ``slot.jpeg``; 0 for none.

        Returns:
            The frame's sequence.

        Raises:
            ShmError: ``jpeg_bytes`` exceeds the capacity; the slot stays taken.
        """
        if not 0 <= jpeg_bytes <= self.jpeg_capacity:
            raise ShmError(
                f"a JPEG of {jpeg_bytes} bytes exceeds the capacity of {self.jpeg_capacity} bytes"
            )
        table, view = slot._table, self._ring.segment.view
        table.record.pack_into(
            view,
            table.record_at,
            *stamp_values(stamp, self.width, self.height),
        )
        table.put_length(view, "jpeg", jpeg_bytes)
        return self._ring.publish(slot._index)

    def abandon(self, slot: FrameSlot) -> None:
        """Release a slot taken with :meth:`begin` without publishing it."""
        self._ring.abandon(slot._index)

    def resize(self, width: int, height: int, *, jpeg_capacity: int | None = None) -> None:
        """Continue with another size, in a ring of the next generation; do nothing if nothing changes.

        Raises:
            ShmError: A size is odd, or ``/dev/shm`` is too small; the writer stays unchanged.
        """
        before = self.width, self.height, self.jpeg_capacity, self._head
        if jpeg_capacity is not None:
            self.jpeg_capacity = jpeg_capacity
        if (width, height, self.jpeg_capacity) == before[:3]:
            return
        try:
            self._ring.renew(self._prepare(width, height))
        except BaseException:
            self.width, self.height, self.jpeg_capacity, self._head = before
            raise
        self._slots = [None] * self._slot_count

    def close(self) -> None:
        """Close the ring; its file stays for readers and for the next writer."""
        self._slots = []
        self._ring.close()

    def _first_use(self, index: int) -> FrameSlot:
        """Write the table to a slot, under its lock, because readers may have been using the last writer's table."""
        view = self._ring.segment.view
        table = self._ring.write_table(index, self._head, FRAME)
        table.put_text(view, "camera", self._name.camera, 32)
        slot = FrameSlot(index, table, view, self.width, self.height, self.jpeg_capacity)
        self._slots[index] = slot
        return slot
