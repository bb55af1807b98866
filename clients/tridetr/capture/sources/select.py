"""Chooses the source that reads a camera's configured `source`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tridetr.capture.sources.base import Source
from tridetr.config import CameraSection

if TYPE_CHECKING:
    from tridetr.capture.packets import PacketSink


def make_source(
    camera: str, section: CameraSection, stop: threading.Event, packets: PacketSink | None = None
) -> Source:
    """Create the source of a camera, without opening it.

    Each kind is imported only when it is used, which keeps camera processes small.
    """
    match section.source.kind:
        case "synthetic":
            from tridetr.capture.sources.synthetic import SyntheticSource

            return SyntheticSource(camera, section, stop)
        case "v4l2":
            from tridetr.capture.sources.v4l2 import V4l2Source

            return V4l2Source(section, stop, packets)
        case "rtsp" | "http":
            from tridetr.capture.sources.network import NetworkSource

            return NetworkSource(section, stop, packets)
        case "file":
            from tridetr.capture.sources.file import FileSource

            return FileSource(section, stop, packets)
