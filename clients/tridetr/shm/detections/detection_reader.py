"""Reader of detection results."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tridetr.shm import names
from tridetr.shm.detections.detection_table import DETECTION_DTYPE, RESULT, ResultStamp
from tridetr.shm.lease import Lease, Mapping
from tridetr.shm.names import RingName
from tridetr.shm.ring_reader import RingReader
from tridetr.shm.values import trace_from_words
from tridetr.wire.view import TableView


class _InView:
    """Cached view of a slot: the validated offsets of its fields, and an array over its whole capacity."""

    __slots__ = ("detections", "table")

    def __init__(self, mapping: Mapping, table: TableView) -> None:
        self.table = table
        span = table.spans["detections"]
        self.detections = np.frombuffer(mapping.buffer, DETECTION_DTYPE, span.limit, span.start)


class DetectionLease(Lease):
    """A leased result.

    Attributes:
        detections: ``DETECTION_DTYPE`` [n], read-only, in place, best first; copy what outlives the lease.
    """

    __slots__ = ("detections",)
    _view: _InView

    def __init__(self, mapping: Mapping, slot: int, sequence: int, view: _InView) -> None:
        super().__init__(mapping, slot, sequence, view)
        count = view.table.length(mapping.buffer, "detections")
        self.detections: NDArray[np.void] = view.detections[:count]

    @property
    def stamp(self) -> ResultStamp:
        """The result's metadata."""
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
    """Leases the results of one camera; a context manager. One reader per thread."""

    def __init__(self, instance: str, camera: str, consumer: str | None) -> None:
        """Open the consumer's wake-up queue (None: this reader polls); raises as :class:`RingReader`."""
        name = RingName(instance, camera, names.DETECTIONS)
        super().__init__(name, consumer, RESULT, _InView, DetectionLease)
