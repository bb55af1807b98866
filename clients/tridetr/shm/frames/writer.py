"""Writing frames."""

from __future__ import annotations

from collections.abc import Sequence

from tridetr.cuda.memory import DeviceMemory
from tridetr.cuda.ring import CudaFrameRing
from tridetr.errors import ShmError
from tridetr.shm import layout, names
from tridetr.shm.closing import Closing
from tridetr.shm.device import DEVICE_MEMORY
from tridetr.shm.frames.slot import FrameSlot
from tridetr.shm.frames.table import FRAME, FrameStamp, frame_bytes
from tridetr.shm.layout import Geometry
from tridetr.shm.names import RingName
from tridetr.shm.ring_writer import RingWriter
from tridetr.shm.values import trace_to_words
from tridetr.wire.view import locate


class FrameWriter(Closing):
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
        device: DeviceMemory | None = None,
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
            device: Where the slots' device memory comes from; None: frames lie in host memory only.

        Raises:
            ShmError: Odd sizes, another writer, or a limit of the system.
            CudaError: There must be device memory, and there is none.
        """
        self._name = RingName(instance, camera, names.FRAMES)
        self._slot_count = slots
        self._jpeg_capacity = jpeg_capacity
        geometry = self._prepare(width, height)
        self._ring = RingWriter(self._name, geometry, consumers, in_turn=False)
        self._slots: list[FrameSlot | None] = [None] * slots
        self._memory = device
        self._device: CudaFrameRing | None = None
        try:
            self._allocate()
        except BaseException:
            self._ring.close()
            raise

    def _prepare(self, width: int, height: int) -> Geometry:
        pixels = frame_bytes(width, height)
        counts = {"device": 1, "pixels": pixels, "jpeg": self._jpeg_capacity}
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
        """Take a free slot, never the newest; None: readers hold all of them (skip the frame and count it).

        Only one slot may be taken at a time. A ring that was removed is made again.

        Raises:
            ShmError: The ring was removed, and another writer has its name, or ``/dev/shm`` is too small.
            CudaError: The ring was removed, and there is no device memory for another one.
        """
        if self._ring.look_after_names():
            self._begin_file()
        index = self._ring.begin()
        if index is None:
            return None
        slot = self._slots[index] or self._first_use(index)
        if slot.device is not None:
            slot.device.begin()
        return slot

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
            CudaError: The GPU failed (see :meth:`leave_device`); the slot is still taken.
        """
        if not 0 <= jpeg_bytes <= self._jpeg_capacity:
            raise ShmError(f"a JPEG of {jpeg_bytes} bytes exceeds {self._jpeg_capacity}")
        device_only = False
        if slot.device is not None:
            device_only = slot.device.finish(host=stamp.lossless)
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
            device_only,
        )
        table.put_length(view, "jpeg", jpeg_bytes)
        sequence = self._ring.publish(slot._index)
        if self._memory is not None:
            self._memory.sweep()
        return sequence

    def abandon(self, slot: FrameSlot) -> None:
        """Give a slot taken with :meth:`begin` back unpublished."""
        self._ring.abandon(slot._index)

    def resize(self, width: int, height: int, *, jpeg_capacity: int | None = None) -> None:
        """Go on with another size in a ring of the next generation; does nothing if nothing changes.

        Raises:
            ShmError: Odd sizes, or ``/dev/shm`` is too small; then the writer stays as it was.
            CudaError: There must be device memory, and there is none.
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
        self._begin_file()

    def leave_device(self) -> bool:
        """Go on without device memory, in a ring of the next generation: the GPU has failed. No slot may be taken.

        Returns:
            Whether there was any.

        Raises:
            ShmError: ``/dev/shm`` is too small.
        """
        if self._device is None:
            return False
        self._ring.renew(self._ring.segment.geometry)
        self._slots = [None] * self._slot_count
        self._retire()
        return True

    def close(self) -> None:
        """Give the ring up; it stays for readers and for the next writer."""
        self._slots = []
        self._ring.close()  # before the memory goes: whoever finds the ring without writer does not look for it
        if self._device is not None:
            self._device.close()
            self._device = None
        if self._memory is not None:
            self._memory.close()

    def _begin_file(self) -> None:
        """Prepare what belongs to one ring file, after the ring went on in another one."""
        self._slots = [None] * self._slot_count
        self._retire()
        self._allocate()

    def _allocate(self) -> None:
        """Make the device memory of the present ring file, if there is to be any."""
        if self._memory is not None:
            ring = self._ring.segment
            self._device = self._memory.allocate(
                names.SHM_DIR / ring.name,
                ring.view,
                slots=self._slot_count,
                frame_nbytes=frame_bytes(self._width, self._height),
            )

    def _retire(self) -> None:
        if self._device is not None and self._memory is not None:
            self._memory.retire(self._device)
        self._device = None

    def _first_use(self, index: int) -> FrameSlot:
        """Lay the table into a slot; under its lock, since readers may still have used the last writer's."""
        geometry, view = self._ring.segment.geometry, self._ring.segment.view
        start = geometry.slot_offset(index)
        view[start : start + len(self._head)] = self._head
        table = locate(FRAME, view, start, geometry.slot_size)
        table.put_text(view, "camera", self._name.camera, 32)
        slot = FrameSlot(index, table, view, self._width, self._height, self._jpeg_capacity)
        if self._device is not None:
            slot.device = self._device.planes(index, slot.planes)
            place = table.spans["device"].start
            view[place : place + DEVICE_MEMORY.size] = slot.device.describe(self._ring.epoch)
        table.put_length(view, "device", 0 if slot.device is None else 1)
        self._slots[index] = slot
        return slot
