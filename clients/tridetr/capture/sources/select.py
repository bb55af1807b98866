"""Which source reads what the configuration names."""

from __future__ import annotations

import threading

from tridetr.capture.gpu.api import GpuDecoders
from tridetr.capture.sources.base import Source
from tridetr.config import CameraSection
from tridetr.errors import ConfigError

_STREAMS = ("rtsp://", "rtsps://", "http://", "https://")


def make_source(
    camera: str,
    section: CameraSection,
    stop: threading.Event,
    gpu: GpuDecoders | None = None,
) -> Source:
    """Return the source of a camera, not opened yet.

    Each kind is imported only where it is used: a camera process holds no more than it needs.

    Raises:
        ConfigError: the source is of no known kind.
    """
    if section.source == "synthetic":
        from tridetr.capture.sources.synthetic import SyntheticSource

        return SyntheticSource(camera, section, stop)
    if section.source.startswith("/dev/"):
        from tridetr.capture.sources.v4l2 import V4l2Source

        return V4l2Source(section, stop, gpu)
    if section.source.startswith(_STREAMS):
        from tridetr.capture.sources.network import NetworkSource

        return NetworkSource(section, stop, gpu)
    if "://" in section.source:
        raise ConfigError(
            f"cameras.{camera}.source: {section.source.partition('://')[0]}:// is not known; use "
            f"{', '.join(_STREAMS)}, /dev/videoN, a video file or synthetic"
        )
    from tridetr.capture.sources.file import FileSource

    return FileSource(section, stop, gpu)
