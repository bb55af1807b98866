"""A V4L2 capture device that streams through mmap: frames are read in the driver's own buffers."""

from __future__ import annotations

import errno
import mmap
import os
import select
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tridetr.capture.v4l2.calls import (
    CAPTURE,
    IOC,
    call,
    fourcc_code,
    fourcc_text,
    rate_of,
    raw,
    read_modes,
)
from tridetr.capture.v4l2.modes import Mode
from tridetr.capture.v4l2.pictures import FrameFormat, colors

MMAP = int(raw.Memory.MMAP)
_CAPTURE_CAPABILITY = 0x0000_0001
_MULTIPLANAR_CAPABILITY = 0x0000_1000
_STREAMING_CAPABILITY = 0x0400_0000
_ERROR_FLAG = 0x40
_TIMESTAMP_MASK, _TIMESTAMP_MONOTONIC = 0xE000, 0x2000


@dataclass(frozen=True, slots=True)
class Capability:
    """What a device says it is."""

    driver: str
    card: str
    bus: str
    captures: bool
    multiplanar: bool
    streams: bool


@dataclass(frozen=True, slots=True)
class Buffer:
    """A filled buffer that belongs to us until it is given back.

    Attributes:
        index: The driver's number of the buffer.
        data: Its bytes in place, uint8 [bytes used].
        sequence: The driver's count of frames since the stream started; gaps are lost frames.
        timestamp_ns: When the frame was taken.
        monotonic: Whether that is on CLOCK_MONOTONIC.
        damaged: Whether the driver says that data is missing.
    """

    index: int
    data: NDArray[np.uint8]
    sequence: int
    timestamp_ns: int
    monotonic: bool
    damaged: bool


@dataclass(frozen=True, slots=True)
class Stream:
    """What the driver granted: how many buffers, and timestamps on CLOCK_MONOTONIC or not."""

    buffers: int
    monotonic: bool


class Device:
    """An open device file. All methods raise OSError with the driver's errno."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._maps: list[mmap.mmap] = []
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def close(self) -> None:
        """Stop streaming and free everything; may be called twice."""
        if self._fd < 0:
            return
        with suppress(OSError):  # an unplugged device has forgotten its stream already
            self.stop()
        os.close(self._fd)
        self._fd = -1

    def capability(self) -> Capability:
        answer = call(self._fd, IOC.QUERYCAP, raw.v4l2_capability())
        # device_caps tells of this node, capabilities of all nodes of the device together
        flags = answer.device_caps or answer.capabilities
        return Capability(
            driver=answer.driver.decode(errors="replace"),
            card=answer.card.decode(errors="replace"),
            bus=answer.bus_info.decode(errors="replace"),
            captures=bool(flags & _CAPTURE_CAPABILITY),
            multiplanar=bool(flags & _MULTIPLANAR_CAPABILITY),
            streams=bool(flags & _STREAMING_CAPABILITY),
        )

    def modes(self) -> list[Mode]:
        """Return what the device offers; a format without sizes is left out."""
        return read_modes(self._fd)

    def set_format(self, fourcc: str, width: int, height: int) -> FrameFormat:
        """Ask for a format; the driver answers with the nearest that it can do."""
        wish = raw.v4l2_format(type=CAPTURE)
        wish.fmt.pix.width = width
        wish.fmt.pix.height = height
        wish.fmt.pix.pixelformat = fourcc_code(fourcc)
        wish.fmt.pix.field = int(raw.Field.NONE)
        pix = call(self._fd, IOC.S_FMT, wish).fmt.pix
        if pix.field not in (raw.Field.NONE, raw.Field.INTERLACED):
            raise OSError(errno.EINVAL, "the device delivers single fields instead of frames")
        color_range, color_matrix = colors(pix.colorspace, pix.ycbcr_enc, pix.quantization)
        return FrameFormat(
            fourcc=fourcc_text(pix.pixelformat),
            width=pix.width,
            height=pix.height,
            bytes_per_line=pix.bytesperline,
            size_image=pix.sizeimage,
            color_range=color_range,
            color_matrix=color_matrix,
        )

    def set_rate(self, fps: float) -> float:
        """Ask for frames per second (0: ask what it is); return the driver's answer, 0: unknown."""
        parameters = raw.v4l2_streamparm(type=CAPTURE)
        try:
            call(self._fd, IOC.G_PARM, parameters)
            if fps:
                parameters.parm.capture.timeperframe.numerator = 1000
                parameters.parm.capture.timeperframe.denominator = round(fps * 1000)
                call(self._fd, IOC.S_PARM, parameters)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):  # it has no rate that can be set
                return 0.0
            raise
        return rate_of(parameters.parm.capture.timeperframe)

    def start(self, buffers: int) -> Stream:
        """Map the driver's buffers, hand them to it and start the stream."""
        request = raw.v4l2_requestbuffers(count=buffers, type=CAPTURE, memory=MMAP)
        call(self._fd, IOC.REQBUFS, request)
        if request.count < 2:
            raise OSError(errno.ENOMEM, f"the driver grants {request.count} buffers of {buffers}")
        flags = 0
        for index in range(request.count):
            answer = call(self._fd, IOC.QUERYBUF, _buffer(index))
            flags = answer.flags
            self._maps.append(
                mmap.mmap(
                    self._fd, answer.length, mmap.MAP_SHARED, mmap.PROT_READ, offset=answer.m.offset
                )
            )
            self.give_back(index)
        call(self._fd, IOC.STREAMON, raw.cint(CAPTURE))
        return Stream(request.count, flags & _TIMESTAMP_MASK == _TIMESTAMP_MONOTONIC)

    def stop(self) -> None:
        """End the stream; views of buffers stay readable until nobody holds them."""
        self._maps.clear()
        call(self._fd, IOC.STREAMOFF, raw.cint(CAPTURE))
        # A view that somebody still holds keeps the file open, and with it the device busy,
        # unless the buffers are given up by name.
        call(self._fd, IOC.REQBUFS, raw.v4l2_requestbuffers(count=0, type=CAPTURE, memory=MMAP))

    def wait(self, timeout_s: float) -> bool:
        """Wait for a filled buffer.

        Raises:
            OSError: ENODEV where the device is gone or its stream broke.
        """
        ready = self._poll.poll(max(0.0, timeout_s) * 1000)
        if ready and ready[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return bool(ready)

    def take(self) -> Buffer | None:
        """Take the oldest filled buffer out of the queue; None where none is filled."""
        try:
            got = call(self._fd, IOC.DQBUF, _buffer(0))
        except BlockingIOError:
            return None
        used = got.bytesused or got.length
        return Buffer(
            index=got.index,
            data=np.frombuffer(self._maps[got.index], np.uint8, min(used, got.length)),
            sequence=got.sequence,
            timestamp_ns=got.timestamp.secs * 1_000_000_000 + got.timestamp.usecs * 1000,
            monotonic=got.flags & _TIMESTAMP_MASK == _TIMESTAMP_MONOTONIC,
            damaged=bool(got.flags & _ERROR_FLAG),
        )

    def give_back(self, index: int) -> None:
        """Let the driver fill this buffer again."""
        call(self._fd, IOC.QBUF, _buffer(index))


def _buffer(index: int) -> Any:
    return raw.v4l2_buffer(index=index, type=CAPTURE, memory=MMAP)
