"""The ring of detection results: what the model saw in each frame."""

from tridetr.shm.detections.reader import DetectionLease, DetectionReader
from tridetr.shm.detections.table import DETECTION_DTYPE, ResultStamp
from tridetr.shm.detections.writer import DetectionWriter

__all__ = [
    "DETECTION_DTYPE",
    "DetectionLease",
    "DetectionReader",
    "DetectionWriter",
    "ResultStamp",
]
