"""The ring of a camera's frames in GPU memory: metadata and sequences as in the frame ring, and memory locations."""

from __future__ import annotations

from tridetr.shm import layout, names
from tridetr.shm.closing import Closing
from tridetr.shm.device_region import DEVICE_MEMORY, DevicePlace, read_place
from tridetr.shm.frames.frame_table import FRAME, FrameStamp, frame_bytes, read_stamp, stamp_values
from tridetr.shm.layout import EPOCH_WORD, Geometry
from tridetr.shm.lease import Lease, Mapping
from tridetr.shm.names import RingName
from tridetr.shm.ring_reader import RingReader
from tridetr.shm.ring_writer import RingWriter
from tridetr.shm.segment import Segment
from tridetr.wire.view import TableView, WireError

_COUNTS = {"device": 1, "pixels": 0, "jpeg": 0}


class DeviceFrameWriter(Closing):
    """Publishes where the frames of one camera are in GPU memory; a context manager.

    It does not access the GPU: the owner of the memory passes its location.
    """

    def __init__(self, instance: str, camera: str, *, width: int, height: int, slots: int) -> None:
        """Take over or create the ring.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            width: Pixels, even.
            height: Pixels, even.
            slots: Number of slots.

        Raises:
            ShmError: A size is odd, another writer holds the ring, or a system limit is reached.
        """
        self.width, self.height = width, height
        self._camera = camera
        self._built = FRAME.build(_COUNTS)
        geometry = self._geometry(width, height, slots)
        self._ring = RingWriter(RingName(instance, camera, names.DEVICE), geometry)

    @property
    def segment(self) -> Segment:
        """The ring's current file."""
        return self._ring.segment

    @property
    def epoch(self) -> int:
        """Grows whenever a writer takes the ring over."""
        return self._ring.epoch

    def begin(self) -> int | None:
        """Take a free slot; None if readers hold all but the newest."""
        return self._ring.begin()

    def publish(self, slot: int, stamp: FrameStamp, sequence: int, place: bytes) -> None:
        """Publish a slot taken with :meth:`begin` and wake the detector.

        Args:
            slot: The slot, whose device memory must be written already.
            stamp: The frame's metadata.
            sequence: The frame's sequence in the frame ring.
            place: The frame's location, packed as ``DEVICE_MEMORY``.
        """
        view = self.segment.view
        table = self._ring.write_table(slot, self._built, FRAME)
        table.put_text(view, "camera", self._camera, 32)
        at = table.spans["device"].start
        view[at : at + DEVICE_MEMORY.size] = place
        table.record.pack_into(view, table.record_at, *stamp_values(stamp, self.width, self.height))
        self._ring.publish(slot, sequence)

    def abandon(self, slot: int) -> None:
        """Release a slot taken with :meth:`begin` without publishing it."""
        self._ring.abandon(slot)

    def follow_name(self) -> bool:
        """Create the ring again if it was removed, and return whether it was. No slot may be taken."""
        return self._ring.look_after_names()

    def resize(self, width: int, height: int) -> None:
        """Continue with another size, in a ring of the next generation. No slot may be taken."""
        self._ring.renew(self._geometry(width, height, self.segment.geometry.slots))
        self.width, self.height = width, height

    def close(self) -> None:
        """Close the ring; its file stays for the next writer."""
        self._ring.close()

    def _geometry(self, width: int, height: int, slots: int) -> Geometry:
        frame_bytes(width, height)  # raises ShmError if the size is invalid
        kind = names.KIND_NUMBERS[names.DEVICE]
        size = layout.round_to_page(len(self._built))
        return Geometry(kind, slots, size, (width, height, 0, 0))


class _DeviceView:
    """Cached view of a slot: its table and its memory location, validated."""

    __slots__ = ("place", "table")

    def __init__(self, mapping: Mapping, table: TableView) -> None:
        self.table = table
        buffer = mapping.buffer
        values = table.read(buffer)
        width, height = int(values[7]), int(values[8])
        frame_bytes(width, height)
        if table.length(buffer, "device") != 1:
            raise WireError("a slot of a device ring describes no device memory")
        start = table.spans["device"].start
        data = bytes(buffer[start : start + DEVICE_MEMORY.size])
        self.place = read_place(data, mapping.region, mapping.words[EPOCH_WORD], width, height)


class DeviceFrameLease(Lease):
    """A leased frame in GPU memory.

    Attributes:
        device: The frame's location.
        width: Pixels.
        height: Pixels.
    """

    __slots__ = ()
    _view: _DeviceView

    @property
    def device(self) -> DevicePlace:
        return self._view.place

    @property
    def width(self) -> int:
        return self._view.place.width

    @property
    def height(self) -> int:
        return self._view.place.height

    @property
    def stamp(self) -> FrameStamp:
        """The frame's metadata."""
        return read_stamp(self._view.table.read(self._mapping.buffer))


class DeviceFrameReader(RingReader[_DeviceView, DeviceFrameLease]):
    """Leases the newest frame of one camera in GPU memory; a context manager. One reader per thread."""

    def __init__(self, instance: str, camera: str, consumer: str | None) -> None:
        """Open the consumer's wake-up queue (None: this reader polls); raises as :class:`RingReader`."""
        name = RingName(instance, camera, names.DEVICE)
        super().__init__(name, consumer, FRAME, _DeviceView, DeviceFrameLease)
