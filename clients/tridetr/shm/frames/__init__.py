"""The rings of camera frames: I420 planes with the camera's JPEG, and the same frames in GPU memory."""

from tridetr.shm.frames.device_frames import DeviceFrameLease, DeviceFrameReader, DeviceFrameWriter
from tridetr.shm.frames.frame_reader import FrameLease, FrameReader
from tridetr.shm.frames.frame_table import FrameSlot, FrameStamp, frame_bytes
from tridetr.shm.frames.frame_writer import FrameWriter
from tridetr.shm.values import ColorMatrix, ColorRange, TraceContext

__all__ = [
    "ColorMatrix",
    "ColorRange",
    "DeviceFrameLease",
    "DeviceFrameReader",
    "DeviceFrameWriter",
    "FrameLease",
    "FrameReader",
    "FrameSlot",
    "FrameStamp",
    "FrameWriter",
    "TraceContext",
    "frame_bytes",
]
