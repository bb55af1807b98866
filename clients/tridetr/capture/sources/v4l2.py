"""V4L2 camera source (`/dev/videoN`): frames are read in the driver's buffers, with the driver's timestamps."""

from __future__ import annotations

import errno
import logging
import threading
import time
from contextlib import suppress
from typing import Literal

from tridetr.capture.devices import list_cameras
from tridetr.capture.packets import PacketSink
from tridetr.capture.sources.base import (
    CorruptFrameError,
    Grab,
    Picture,
    Source,
    SourceInfo,
    SourceLostError,
    unix_from_monotonic,
)
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.capture.v4l2.access import explain
from tridetr.capture.v4l2.buffer_views import FrameFormat, picture
from tridetr.capture.v4l2.device import Buffer, Device
from tridetr.capture.v4l2.modes import Wish, choose, describe_modes
from tridetr.config.camera_sections import CameraSection
from tridetr.errors import SourceError
from tridetr.jpeg import complete_jpeg

log = logging.getLogger("tridetr.capture")

# One is being read, one filled, and two are waiting: a pause of two frames loses nothing.
BUFFERS = 4
# A timestamp that is older than this, or in the future, is from a driver with a broken clock.
OLDEST_PLAUSIBLE_NS = 30_000_000_000
FUTURE_PLAUSIBLE_NS = 100_000_000


class V4l2Source(Source):
    """A camera with a V4L2 device file (see `base.Source` for its methods)."""

    def __init__(
        self, section: CameraSection, stop: threading.Event, packets: PacketSink | None = None
    ) -> None:
        self._packets = packets
        self._path = section.source.text
        self._wish = Wish(section.width, section.height, section.fps, _pixel_format(section))
        self._decoder = JpegDecoder()
        self._device: Device | None = None
        self._format: FrameFormat | None = None
        self._held: Buffer | None = None
        self._views: tuple[memoryview, ...] = ()
        self._buffers = BUFFERS
        self._clock_complained = False
        self._numbers_start = 0
        self._last_number = -1

    def open(self) -> SourceInfo:
        self.close()
        device = self._open_device()
        try:
            self._format, fps = self._negotiate(device)
            stream = device.start(BUFFERS)
            capability = device.capability
        except OSError as error:
            device.close()
            raise SourceError(explain(self._path, error)) from error
        except SourceError:
            device.close()
            raise
        self._device = device
        self._buffers = stream.buffers
        self._numbers_start = self._last_number + 1
        form = self._format
        if form.compressed and self._packets is not None:
            self._packets.open_jpegs(form.width, form.height, fps)
        rate = f" at {fps:g} fps" if fps else ""
        chosen = f"{form.fourcc} {form.width}x{form.height}{rate}"
        description = f"{chosen}, {capability.card} ({capability.driver})"
        log.info("%s: asked for %s, got %s", self._path, self._wish, description)
        if not stream.monotonic:
            log.warning(
                "%s: the driver's timestamps are not on the monotonic clock; "
                "capture times are arrival times",
                self._path,
            )
        return SourceInfo(
            kind="v4l2",
            description=description,
            capture_clock="device" if stream.monotonic else "arrival",
            width=form.width,
            height=form.height,
            fps=fps,
        )

    def next(self, timeout_s: float) -> Grab | None:
        """Wait for a frame, and return the newest if several are waiting (older ones leave a gap in the numbers)."""
        device = self._opened()
        try:
            return self._next(device, time.monotonic() + timeout_s)
        except OSError as error:
            lost = self._lost(error)
        # Raised outside `except`: a chained traceback would keep the frame's views (see `_drop_views`).
        raise lost

    def close(self) -> None:
        self._held = None
        self._drop_views()
        if self._device:
            self._device.close()
        self._device = None

    def _open_device(self) -> Device:
        try:
            return Device(self._path)
        except FileNotFoundError:
            cameras = [f"\n  {camera}" for camera in list_cameras()]
            there = (
                "Available cameras:" + "".join(cameras) if cameras else "No camera is connected."
            )
            raise SourceError(f"{self._path} does not exist. {there}") from None
        except OSError as error:
            raise SourceError(explain(self._path, error)) from error

    def _negotiate(self, device: Device) -> tuple[FrameFormat, float]:
        capability = device.capability
        if not capability.captures:
            raise SourceError(
                f"{self._path} ({capability.card}) does not capture video: a camera's other device "
                "files carry metadata. `tridetr doctor` lists the cameras"
            )
        modes = device.modes()
        choice = choose(modes, self._wish)
        if choice is None:
            wanted = self._wish.pixel_format or "MJPEG, YUYV, NV12 or I420"
            raise SourceError(
                f"{self._path} ({capability.card}) does not offer {wanted}. It offers:\n"
                f"{describe_modes(modes) or 'nothing at all'}"
            )
        mode = choice.mode
        got = device.set_format(mode.fourcc, mode.width, mode.height)
        if got.fourcc != mode.fourcc:
            raise SourceError(f"{self._path} offers {mode.fourcc}, but then delivers {got.fourcc}")
        return got, device.set_rate(choice.fps)

    def _grab(self, buffer: Buffer) -> Grab:
        form = self._format
        assert form is not None  # open set it
        if buffer.damaged:
            raise CorruptFrameError(f"{self._path}: data of frame {buffer.sequence} is missing")
        if not form.compressed and buffer.data.size < form.needed_bytes:
            raise CorruptFrameError(
                f"{self._path}: the frame has {buffer.data.size} bytes, a picture needs {form.needed_bytes}"
            )
        self._last_number = self._numbers_start + buffer.sequence
        captured_ns = self._capture_time(buffer)
        if form.compressed:
            data = buffer.data.data
            self._views = (complete_jpeg(data), data)
            if self._packets is not None:
                self._packets.put_jpeg(
                    self._views[0], captured_ns, unix_from_monotonic(captured_ns)
                )
        return Grab(
            number=self._last_number,
            monotonic_ns=captured_ns,
            unix_ns=unix_from_monotonic(captured_ns),
            decode=self._decode,
            jpeg=self._views[0] if form.compressed else None,
        )

    def _decode(self) -> Picture:
        if not self._held or not self._format:
            raise CorruptFrameError(
                f"{self._path}: the frame has already been returned to the driver"
            )
        if self._format.compressed:
            return self._decoder.decode(self._views[0])
        return picture(self._held.data, self._format)

    def _capture_time(self, buffer: Buffer) -> int:
        now = time.monotonic_ns()
        if not buffer.monotonic:
            return now
        age = now - buffer.timestamp_ns
        if -FUTURE_PLAUSIBLE_NS <= age <= OLDEST_PLAUSIBLE_NS:
            return min(buffer.timestamp_ns, now)
        if not self._clock_complained:
            self._clock_complained = True
            log.warning(
                "%s: a frame's timestamp is %.3f s off; using the arrival time of such frames",
                self._path,
                age / 1e9,
            )
        return now

    def _next(self, device: Device, deadline_s: float) -> Grab | None:
        self._release(device)
        while device.wait(deadline_s - time.monotonic()):
            waiting = self._take_newest(device)
            if self._held and waiting < self._buffers - 1:
                return self._grab(self._held)
            # All buffers were full, so the driver had none for the newest frames, and these are as
            # old as the pause was long. Wait for a fresh one.
            self._release(device)
        return None

    def _take_newest(self, device: Device) -> int:
        taken = 0
        while newer := device.dequeue():
            self._release(device)
            self._held = newer
            taken += 1
        return taken

    def _release(self, device: Device) -> None:
        if self._held:
            held, self._held = self._held, None
            self._drop_views()
            device.enqueue(held.index)

    def _drop_views(self) -> None:
        # A view of a buffer keeps the device file open, even after `close`, and a camera that is
        # plugged in again would then get another number. So an abandoned Grab must not hold any.
        for view in self._views:
            with suppress(BufferError):  # a decoder is still reading it
                view.release()
        self._views = ()

    def _opened(self) -> Device:
        if self._device is None:
            raise SourceLostError(f"{self._path} is not open")
        return self._device

    def _lost(self, error: OSError) -> SourceLostError:
        if error.errno in (errno.ENODEV, errno.EIO, errno.EINVAL):
            return SourceLostError(f"{self._path}: the camera is gone or its stream failed")
        return SourceLostError(explain(self._path, error))


def _pixel_format(section: CameraSection) -> Literal["mjpeg", "yuyv", "nv12", "i420"] | None:
    """Return the configured format; None for the best one. The gpu process decodes only MJPEG."""
    if section.decode == "gpu":
        return "mjpeg"
    return None if section.pixel_format == "auto" else section.pixel_format
