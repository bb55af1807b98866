"""The ring of detection results: what the model saw in each frame."""

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
from tridetr.shm.lease import Lease, Mapping
from tridetr.shm.names import RingName
from tridetr.shm.ring_reader import RingReader
from tridetr.shm.ring_writer import RingWriter
from tridetr.shm.values import TRACE_CODE, TraceContext, trace_from_words, trace_to_words
from tridetr.shm.wakeup import Wakeup
from tridetr.wire.spec import Inline, Scalar, TableSpec, Text, Vector
from tridetr.wire.view import TableView, locate

if TYPE_CHECKING:
    from typing_extensions import Self

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

_NAME_BYTES, _VERSION_BYTES = 64, 64
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
        Text("model_name", _NAME_BYTES),
        Text("model_version", _VERSION_BYTES),
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
        infer_start_ns: When it asked the server.
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


class _OutSlot:
    """A slot of the writer: the places of its fields."""

    __slots__ = ("model", "start", "table")

    def __init__(self, table: TableView) -> None:
        self.table = table
        self.start = table.spans["detections"].start
        self.model = ("", "")  # as it stands in the slot


class DetectionWriter:
    """Publishes the results of one camera; a context manager."""

    def __init__(
        self,
        instance: str,
        camera: str,
        *,
        slots: int = names.DETECTION_SLOTS,
        max_detections: int = names.MAX_DETECTIONS,
        consumers: Sequence[str] | None = None,
    ) -> None:
        """Take over or make the ring.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            slots: Number of slots: all leases there can be, plus 2.
            max_detections: Detections that a slot holds.
            consumers: Whom to wake; None = all.

        Raises:
            ShmError: Another writer, or a limit of the system.
        """
        name = RingName(instance, camera, names.DETECTIONS)
        built = RESULT.build({"detections": max_detections})
        table = locate(RESULT, memoryview(built), 0, len(built))
        self._head = built[: table.spans["detections"].start]
        self._camera = camera
        self._capacity = max_detections
        geometry = Geometry(
            names.KIND_NUMBERS[names.DETECTIONS],
            slots,
            layout.round_to_page(len(built)),
            (max_detections, 0, 0, 0),
        )
        self._ring = RingWriter(name, geometry, consumers)
        self._slots: list[_OutSlot | None] = [None] * slots

    def publish(self, stamp: ResultStamp, detections: NDArray[np.void]) -> int:
        """Publish a result and wake the consumers.

        Args:
            stamp: What is known of the result.
            detections: ``DETECTION_DTYPE`` [n], best first; what exceeds the capacity is left out.

        Returns:
            Its sequence.

        Raises:
            ShmError: Readers hold all slots.
            TypeError: The detections have another dtype.
        """
        ring = self._ring
        index = ring.begin()
        if index is None:
            raise ShmError(
                f"all slots of the detections of {self._camera} are leased: a reader does not release them"
            )
        slot = self._slots[index] or self._first_use(index)
        table, view = slot.table, ring.segment.view
        table.record.pack_into(
            view,
            table.record_at,
            *trace_to_words(stamp.trace),
            stamp.frame_number,
            stamp.frame_sequence,
            stamp.capture_monotonic_ns,
            stamp.capture_unix_ns,
            stamp.taken_ns,
            stamp.infer_start_ns,
            stamp.infer_end_ns,
            stamp.published_ns,
            stamp.width,
            stamp.height,
            stamp.lossless,
        )
        model = (stamp.model_name, stamp.model_version)
        if slot.model != model:
            table.put_text(view, "model_name", model[0], _NAME_BYTES)
            table.put_text(view, "model_version", model[1], _VERSION_BYTES)
            slot.model = model
        if detections.dtype != DETECTION_DTYPE:
            raise TypeError(f"detections are {detections.dtype}, not DETECTION_DTYPE")
        count = min(len(detections), self._capacity)
        # As bytes: numpy copies structs field by field, which takes ten times as long.
        data = detections[:count].tobytes()
        view[slot.start : slot.start + len(data)] = data
        table.put_length(view, "detections", count)
        return ring.publish(index)

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

    def _first_use(self, index: int) -> _OutSlot:
        geometry, view = self._ring.segment.geometry, self._ring.segment.view
        start = geometry.slot_offset(index)
        view[start : start + len(self._head)] = self._head
        table = locate(RESULT, view, start, geometry.slot_size)
        table.put_text(view, "camera", self._camera, 32)
        slot = _OutSlot(table)
        self._slots[index] = slot
        return slot


class _InView:
    """What is kept of a slot: the places of its fields, checked, and an array over all that fits behind them."""

    __slots__ = ("detections", "table")

    def __init__(self, mapping: Mapping, table: TableView) -> None:
        self.table = table
        span = table.spans["detections"]
        self.detections = np.frombuffer(
            mapping.buffer, DETECTION_DTYPE, min(span.limit, 65_536), span.start
        )


class DetectionLease(Lease):
    """A leased result."""

    __slots__ = ()
    _view: _InView

    @property
    def detections(self) -> NDArray[np.void]:
        """``DETECTION_DTYPE`` [n], read-only, in place, best first; copy what outlives the lease.

        Raises:
            WireError: Its length exceeds the slot.
        """
        view = self._view
        return view.detections[: view.table.length(self._mapping.buffer, "detections")]

    @property
    def stamp(self) -> ResultStamp:
        """What is known of the result beside the detections.

        Raises:
            WireError: A text exceeds the slot.
        """
        table, buffer = self._view.table, self._mapping.buffer
        values = table.read(buffer)
        high, low, span, flags, number, sequence, monotonic, unix = values[:8]
        taken, start, end, published, width, height, lossless = values[8:]
        return ResultStamp(
            number,
            sequence,
            width,
            height,
            monotonic,
            unix,
            lossless,
            taken,
            start,
            end,
            published,
            table.text(buffer, "model_name"),
            table.text(buffer, "model_version"),
            trace_from_words(high, low, span, flags),
        )


class DetectionReader(RingReader[_InView, DetectionLease]):
    """Leases the results of one camera; a context manager. One reader per thread.

    Attributes:
        wakeup: Becomes readable when a result was published; None for a reader that polls.
    """

    def __init__(self, instance: str, camera: str, consumer: str | None) -> None:
        """Open the consumer's wake-up queue (None: this reader polls); the ring need not exist yet.

        Raises:
            ShmError: A limit of the system is reached, or a name is not allowed.
        """
        name = RingName(instance, camera, names.DETECTIONS)
        self.wakeup = Wakeup(name.queue(consumer)) if consumer is not None else None
        super().__init__(name, RESULT, _InView, DetectionLease)

    def close(self) -> None:
        """End all leases and let go of ring and queue."""
        super().close()
        if self.wakeup is not None:
            self.wakeup.close()
