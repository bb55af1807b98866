"""A V4L2 capture device that streams with mmap: frames are read in place, in the driver's buffers."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tridetr.capture.v4l2.buffer_views import FrameFormat, colors
from tridetr.capture.v4l2.calls import IOC, call, fourcc_code, fourcc_text, rate_of, raw, read_modes
from tridetr.capture.v4l2.modes import Mode

MMAP = int(raw.Memory.MMAP)
# Multi-planar drivers (image processors of single-board computers) can deliver the planes of a picture
# separately. The formats read here are contiguous in these drivers too; only the structures differ.
_SINGLE, _MULTI = int(raw.BufType.VIDEO_CAPTURE), int(raw.BufType.VIDEO_CAPTURE_MPLANE)
_CAPTURE_CAPABILITY = 0x0000_0001
_MULTIPLANAR_CAPABILITY = 0x0000_1000
_STREAMING_CAPABILITY = 0x0400_0000
_ERROR_FLAG = 0x40
_TIMESTAMP_MASK, _TIMESTAMP_MONOTONIC = 0xE000, 0x2000


@dataclass(frozen=True, slots=True)
class Capability:
    """What a device reports about itself; `captures` is whether it streams video."""

    driver: str
    card: str
    bus: str
    captures: bool


@dataclass(frozen=True, slots=True)
class Buffer:
    """A filled buffer, owned by the caller until it is enqueued again.

    Attributes:
        index: The driver's number of the buffer.
        data: Its bytes in place, uint8 [bytes used].
        sequence: The driver's count of frames since the stream started; gaps are lost frames.
        timestamp_ns: When the frame was taken.
        monotonic: Whether that is on CLOCK_MONOTONIC.
        damaged: Whether the driver reports that data is missing, or no data at all.
    """

    index: int
    data: NDArray[np.uint8]
    sequence: int
    timestamp_ns: int
    monotonic: bool
    damaged: bool


@dataclass(frozen=True, slots=True)
class Stream:
    """A started stream: its number of buffers, and whether its timestamps are on CLOCK_MONOTONIC."""

    buffers: int
    monotonic: bool


class Device:
    """An open V4L2 device. All methods raise OSError with the driver's errno."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._maps: list[mmap.mmap] = []
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        try:
            self.capability, self._type = _query(self._fd)
        except OSError:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Stop streaming and free everything; may be called twice."""
        if self._fd < 0:
            return
        with suppress(OSError):  # an unplugged device no longer has a stream
            self.stop()
        os.close(self._fd)
        self._fd = -1

    def modes(self) -> list[Mode]:
        """Return the modes that the device offers; a format without sizes is left out."""
        return read_modes(self._fd, self._type)

    def set_format(self, fourcc: str, width: int, height: int) -> FrameFormat:
        """Request a format and return the nearest one that the driver supports."""
        wish = raw.v4l2_format(type=self._type)
        pix = wish.fmt.pix_mp if self._type == _MULTI else wish.fmt.pix
        pix.width = width
        pix.height = height
        pix.pixelformat = fourcc_code(fourcc)
        pix.field = int(raw.Field.NONE)
        call(self._fd, IOC.S_FMT, wish)
        if pix.field not in (raw.Field.NONE, raw.Field.INTERLACED):
            raise OSError(errno.EINVAL, "the device delivers single fields instead of frames")
        size = pix.plane_fmt[0] if self._type == _MULTI else pix
        color_range, color_matrix = colors(pix.colorspace, pix.ycbcr_enc, pix.quantization)
        return FrameFormat(
            fourcc=fourcc_text(pix.pixelformat),
            width=pix.width,
            height=pix.height,
            bytes_per_line=size.bytesperline,
            color_range=color_range,
            color_matrix=color_matrix,
        )

    def set_rate(self, fps: float) -> float:
        """Request a frame rate [fps], or 0 to query it; return the driver's actual rate, 0 if unknown."""
        parameters = raw.v4l2_streamparm(type=self._type)
        try:
            call(self._fd, IOC.G_PARM, parameters)
            if fps:
                parameters.parm.capture.timeperframe.numerator = 1000
                parameters.parm.capture.timeperframe.denominator = round(fps * 1000)
                call(self._fd, IOC.S_PARM, parameters)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):  # the rate cannot be set
                return 0.0
            raise
        return rate_of(parameters.parm.capture.timeperframe)

    def start(self, buffers: int) -> Stream:
        """Map the driver's buffers, enqueue them and start the stream."""
        request = raw.v4l2_requestbuffers(count=buffers, type=self._type, memory=MMAP)
        call(self._fd, IOC.REQBUFS, request)
        if request.count < 2:
            raise OSError(errno.ENOMEM, f"the driver granted {request.count} of {buffers} buffers")
        flags = 0
        for index in range(request.count):
            answer = call(self._fd, IOC.QUERYBUF, self._buffer(index))
            flags = answer.flags
            length, offset = answer.length, answer.m.offset
            if self._type == _MULTI:
                length, offset = answer.m.planes[0].length, answer.m.planes[0].m.mem_offset
            self._maps.append(
                mmap.mmap(self._fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset)
            )
            self.enqueue(index)
        call(self._fd, IOC.STREAMON, raw.cint(self._type))
        return Stream(request.count, flags & _TIMESTAMP_MASK == _TIMESTAMP_MONOTONIC)

    def stop(self) -> None:
        """Stop the stream; existing views of buffers stay readable."""
        self._maps.clear()
        call(self._fd, IOC.STREAMOFF, raw.cint(self._type))
        # A view that is still referenced keeps the file open, and so the device busy, unless the
        # buffers are freed explicitly.
        call(self._fd, IOC.REQBUFS, raw.v4l2_requestbuffers(count=0, type=self._type, memory=MMAP))

    def wait(self, timeout_s: float) -> bool:
        """Wait for a filled buffer, and return whether there is one.

        Raises:
            OSError: ENODEV if the device is gone or its stream failed.
        """
        ready = self._poll.poll(max(0.0, timeout_s) * 1000)
        if ready and ready[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return bool(ready)

    def dequeue(self) -> Buffer | None:
        """Dequeue the oldest filled buffer; None if none is filled."""
        try:
            got = call(self._fd, IOC.DQBUF, self._buffer(0))
        except BlockingIOError:
            return None
        used = got.m.planes[0].bytesused if self._type == _MULTI else got.bytesused
        start = got.m.planes[0].data_offset if self._type == _MULTI else 0
        data = np.frombuffer(self._maps[got.index], np.uint8)
        return Buffer(
            index=got.index,
            data=data[start:used],
            sequence=got.sequence,
            timestamp_ns=got.timestamp.secs * 1_000_000_000 + got.timestamp.usecs * 1000,
            monotonic=got.flags & _TIMESTAMP_MASK == _TIMESTAMP_MONOTONIC,
            damaged=bool(got.flags & _ERROR_FLAG) or used == 0,
        )

    def enqueue(self, index: int) -> None:
        """Enqueue a buffer, so that the driver can fill it again."""
        call(self._fd, IOC.QBUF, self._buffer(index))

    def _buffer(self, index: int) -> Any:
        buffer = raw.v4l2_buffer(index=index, type=self._type, memory=MMAP)
        if self._type == _MULTI:
            buffer.m.planes = ctypes.pointer(raw.v4l2_plane())
            buffer.length = 1
        return buffer


def _query(fd: int) -> tuple[Capability, int]:
    """Return the device's capability and its buffer type."""
    answer = call(fd, IOC.QUERYCAP, raw.v4l2_capability())
    # device_caps describes this node, capabilities all nodes of the device together
    flags = answer.device_caps or answer.capabilities
    multi = flags & _MULTIPLANAR_CAPABILITY
    capability = Capability(
        driver=answer.driver.decode(errors="replace"),
        card=answer.card.decode(errors="replace"),
        bus=answer.bus_info.decode(errors="replace"),
        captures=bool((multi or flags & _CAPTURE_CAPABILITY) and flags & _STREAMING_CAPABILITY),
    )
    return capability, _MULTI if multi else _SINGLE
