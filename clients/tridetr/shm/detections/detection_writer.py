"""Writer of detection results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tridetr.errors import ShmError
from tridetr.shm import layout, names
from tridetr.shm.closing import Closing
from tridetr.shm.detections.detection_table import (
    DETECTION_DTYPE,
    NAME_BYTES,
    RESULT,
    VERSION_BYTES,
    ResultStamp,
)
from tridetr.shm.layout import Geometry
from tridetr.shm.names import RingName
from tridetr.shm.ring_writer import RingWriter
from tridetr.shm.values import trace_to_words
from tridetr.wire.view import TableView, locate


class _OutSlot:
    """A slot of the writer, with the offsets of its fields."""

    __slots__ = ("model", "start", "table")

    def __init__(self, table: TableView) -> None:
        self.table = table
        self.start = table.spans["detections"].start
        self.model = ("", "")  # as written in the slot


class DetectionWriter(Closing):
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
        """Take over or create the ring.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            slots: Number of slots: the most leases at a time, plus 2.
            max_detections: Detections that a slot holds.
            consumers: Consumers to wake; None for all.

        Raises:
            ShmError: Another writer holds the ring, or a system limit is reached.
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
            stamp: The result's metadata.
            detections: ``DETECTION_DTYPE`` [n], best first; those beyond the capacity are left out.

        Returns:
            The result's sequence.

        Raises:
            ShmError: Readers hold all slots.
            TypeError: The detections have another dtype.
        """
        ring = self._ring
        if ring.look_after_names():
            self._slots = [None] * len(self._slots)
        index = ring.begin()
        if index is None:
            raise ShmError(
                f"all slots of the detection ring of camera {self._camera} are leased: a reader does not release them"
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
            table.put_text(view, "model_name", model[0], NAME_BYTES)
            table.put_text(view, "model_version", model[1], VERSION_BYTES)
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
        """Close the ring; its file stays for readers and for the next writer."""
        self._slots = []
        self._ring.close()

    def _first_use(self, index: int) -> _OutSlot:
        table = self._ring.write_table(index, self._head, RESULT)
        table.put_text(self._ring.segment.view, "camera", self._camera, 32)
        slot = self._slots[index] = _OutSlot(table)
        return slot
