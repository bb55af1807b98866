"""Writes a camera's decoded pictures to its frame ring."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from tridetr.capture.mask import Mask
from tridetr.capture.planes import copy_picture, even_size
from tridetr.capture.sources.base import Grab, Picture
from tridetr.config import CameraSection
from tridetr.errors import ShmError
from tridetr.shm.closing import Closing
from tridetr.shm.frames import FrameSlot, FrameStamp, FrameWriter
from tridetr.telemetry import metrics, tracing
from tridetr.telemetry.logs import Limiter

_log = logging.getLogger("tridetr.capture")

_PAGE = 4096


def jpeg_capacity(width: int, height: int) -> int:
    """Return the bytes reserved for a camera's JPEG: 6 bits per pixel, considerably more than cameras use.

    >>> jpeg_capacity(1920, 1080)
    1560576
    """
    return -(-(width * height * 3 // 4 + _PAGE) // _PAGE) * _PAGE


class Publisher(Closing):
    """Writes the frame ring of one camera, which takes its size from the first picture and follows changes.

    Attributes:
        stamp: Metadata of the frame published last; None before the first.
    """

    def __init__(self, instance: str, camera: str, section: CameraSection) -> None:
        self._instance = instance
        self._camera = camera
        self._slots = section.slots
        self._mask = Mask(section.mask) if section.mask else None
        self.stamp: FrameStamp | None = None
        self._lossless = not section.realtime
        self._writer: FrameWriter | None = None
        self._lines = Limiter(1.0)  # of a camera whose size flips
        self._published = metrics.FRAMES_PUBLISHED.labels(camera)
        self._last_frame = metrics.LAST_FRAME.labels(camera)
        self._decode_seconds = metrics.DECODE_SECONDS.labels(camera)
        self._jpeg_too_big = metrics.JPEG_TOO_BIG.labels(camera)

    def close(self) -> None:
        """Close the ring; its file stays for readers."""
        if self._writer is not None:
            self._writer.close()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames in the ring [pixels]; (0, 0) before the first."""
        return (self._writer.width, self._writer.height) if self._writer else (0, 0)

    def give_memory_back(self) -> None:
        """Free the frame memory of a camera that delivers nothing; its next picture allocates it again."""
        if self._writer is not None:
            with suppress(ShmError):  # without a free page, it keeps its memory
                self._writer.resize(2, 2, jpeg_capacity=0)

    def publish(self, grab: Grab, picture: Picture, decode_ns: int) -> int | None:
        """Copy a picture into a slot and publish it.

        Args:
            grab: The frame, for its number, times and JPEG.
            picture: Its planes.
            decode_ns: Time spent decoding it [ns].

        Returns:
            The frame's sequence number; None if readers hold all slots.

        Raises:
            NoSpaceError: ``/dev/shm`` has no room for frames of that size.
            ShmError: A ring of that size cannot be created.
        """
        started = time.monotonic_ns()
        jpeg = None if picture.turned or self._mask is not None else grab.jpeg
        writer = self._fitting_writer(picture, with_jpeg=jpeg is not None)
        slot = writer.begin()
        if slot is None:
            return None
        try:
            if picture.draw is not None:
                picture.draw(slot.planes)
            else:
                copy_picture(picture, slot.y, slot.u, slot.v)
            if self._mask is not None:
                self._mask.apply(slot.y, slot.u, slot.v)
            jpeg_bytes = 0 if jpeg is None else self._keep_jpeg(jpeg, slot)
            written = time.monotonic_ns()
            start_ns = started - decode_ns
            if not self._lossless:  # lossless frames have media times
                start_ns = min(start_ns, grab.monotonic_ns)
            span = tracing.sample("frame", start_ns, camera=self._camera, frame__number=grab.number)
            stamp = FrameStamp(
                frame_number=grab.number,
                capture_monotonic_ns=grab.monotonic_ns,
                capture_unix_ns=grab.unix_ns,
                color_range=picture.color_range,
                color_matrix=picture.color_matrix,
                lossless=self._lossless,
                trace=span.context if span else None,
            )
            sequence = writer.publish(slot, stamp, jpeg_bytes=jpeg_bytes)
        except BaseException:
            writer.abandon(slot)
            raise
        self._decode_seconds.observe((decode_ns + written - started) / 1e9)
        self.stamp = stamp
        self._published.inc()
        self._last_frame.set(time.time())
        if span is not None:
            now_ns = time.monotonic_ns()
            tracing.record("decode", span.context, started - decode_ns, started)
            tracing.record("publish", span.context, started, now_ns)
            span.end(now_ns)
        return sequence

    def _fitting_writer(self, picture: Picture, *, with_jpeg: bool) -> FrameWriter:
        width, height = even_size(picture.width, picture.height)
        writer = self._writer
        if (
            writer is not None
            and (writer.width, writer.height) == (width, height)
            and (writer.jpeg_capacity or not with_jpeg)
        ):
            return writer
        is_odd = (width, height) != (picture.width, picture.height)
        if is_odd and self._lines.allow(time.monotonic()) is not None:
            _log.info(
                "the odd size %dx%d is cropped to %dx%d",
                picture.width,
                picture.height,
                width,
                height,
            )
        capacity = jpeg_capacity(width, height) if with_jpeg else 0
        if writer is None:
            writer = self._writer = FrameWriter(
                self._instance,
                self._camera,
                width=width,
                height=height,
                slots=self._slots,
                jpeg_capacity=capacity,
            )
        else:
            if self._lines.allow(time.monotonic()) is not None:
                _log.info("the picture size is now %dx%d", width, height)
            writer.resize(width, height, jpeg_capacity=capacity)
        return writer

    def _keep_jpeg(self, jpeg: memoryview, slot: FrameSlot) -> int:
        if jpeg.nbytes > len(slot.jpeg):
            self._jpeg_too_big.inc()
            return 0
        slot.jpeg[: jpeg.nbytes] = jpeg
        return jpeg.nbytes
