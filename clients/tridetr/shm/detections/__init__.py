"""The ring of detection results: what the model detected in each frame."""

from tridetr.shm.detections.detection_reader import DetectionLease, DetectionReader
from tridetr.shm.detections.detection_table import DETECTION_DTYPE, ResultStamp
from tridetr.shm.detections.detection_writer import DetectionWriter

__all__ = [
    "DETECTION_DTYPE",
    "DetectionLease",
    "DetectionReader",
    "DetectionWriter",
    "ResultStamp",
]
