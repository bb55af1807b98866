"""What a camera source is: it yields decoded frames as views, and never blocks for long.

The service calls `open` once, then `next` again and again, and `close` when it is done or before
it opens the same object again after a loss. A frame is decoded only when somebody asks for its
picture: pacing decides before that. All calls come from one thread.

A source is made as `SomeSource(section: CameraSection, stop: threading.Event, packets: PacketSink | None)`, and gives
each packet to the sink before it decodes it. `sources/jpeg_decoder.py` decodes JPEGs for all that deliver MJPEG.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tridetr.config.source import SourceKind
from tridetr.errors import SourceError
from tridetr.shm.frames import ColorMatrix, ColorRange

CaptureClock = Literal["device", "arrival", "playback", "media", "synthetic"]
Plane = NDArray[np.uint8]


class Layout(Enum):
    """How the bytes of a picture lie; odd sizes round the chroma planes up."""

    I420 = "i420"  # y [H, W], u [H/2, W/2], v [H/2, W/2]
    I422 = "i422"  # y [H, W], u [H, W/2],   v [H, W/2]
    NV12 = "nv12"  # y [H, W], uv [H/2, W] (u and v bytes in turn)
    YUYV = "yuyv"  # one plane [H, 2W]: y0 u y1 v ...


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture as views, valid until the source's next call.

    `planes` hold uint8 arrays shaped as the layout says; rows may be padded (strided arrays).
    `width` and `height` in pixels may be odd: the copy into the slot crops by one pixel then.
    `turned`: the planes are views that stand upright, while the camera's own JPEG does not.
    A source that can write anywhere sets `draw` and no planes: it is called with the slot's I420
    frame (uint8 [3H/2, W], writable), and nothing is copied.
    """

    layout: Layout
    planes: tuple[Plane, ...]
    width: int
    height: int
    color_range: ColorRange
    color_matrix: ColorMatrix
    turned: bool = False
    draw: Callable[[Plane], None] | None = None

    def luma_rows(self, step: int) -> Plane:
        """Return every `step`-th row of its luma, of a picture that has planes."""
        luma = self.planes[0][::step]
        # Y, U, Y, V in turn: every second byte
        return luma[:, ::2] if self.layout is Layout.YUYV else luma


@dataclass(frozen=True, slots=True)
class Grab:
    """One frame of the source, not necessarily decoded yet; valid until the source's next call.

    Attributes:
        number: the source's own index; grows over reopening too, gaps are frames that were lost.
        monotonic_ns: capture time on CLOCK_MONOTONIC: device clock, arrival before decoding, or
            media time.
        unix_ns: the same moment in Unix time.
        decode: gives the picture; called at most once; may raise `CorruptFrameError`.
        jpeg: a complete JPEG where the source delivers MJPEG, else None.
        decode_ns: time already spent on decoding it before `decode` is called.
    """

    number: int
    monotonic_ns: int
    unix_ns: int
    decode: Callable[[], Picture]
    jpeg: memoryview | None = None
    decode_ns: int = 0


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What a network stream says about itself.

    Attributes:
        codec: FFmpeg's name of the codec.
        width: pixels; 0 while unknown.
        height: pixels; 0 while unknown.
        fps: frames per second; 0.0 where the stream does not say.
    """

    codec: str
    width: int
    height: int
    fps: float


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What an opened source says about itself.

    Attributes:
        kind: what sort of source it is.
        description: what was chosen, for people ("MJPG 1920x1080 at 30 fps, uvcvideo").
        capture_clock: where the capture times come from.
        width: pixels; 0 while unknown (the first picture decides anyway).
        height: pixels; 0 while unknown.
        fps: frames per second; 0 where the source does not say.
        delivers_jpeg: whether grabs carry JPEG bytes.
        live: False where time waits for the detector (a file without loss).
    """

    kind: SourceKind
    description: str
    capture_clock: CaptureClock
    width: int = 0
    height: int = 0
    fps: float = 0.0
    delivers_jpeg: bool = False
    live: bool = True


class SourceLostError(SourceError):
    """The source stopped delivering (unplugged, closed, timed out): close it and open it again."""


class LoginRefusedError(SourceError):
    """The camera refused the login: asking again soon would lock the account."""

    def __init__(self, shown: str, code: int, with_password: bool) -> None:
        """Make the message.

        Args:
            shown: the camera's address without a password.
            code: 401 or 403.
            with_password: whether a password was sent.
        """
        remedy = "correct" if with_password else "put `user:password` into a file, named in"
        super().__init__(f"{shown}: login refused ({code}); {remedy} credentials_file")


class NoPictureYetError(SourceError):
    """The connection delivers, but no picture can be shown yet: go on; the message says why."""


class SourceEndedError(SourceError):
    """A file came to its end and shall not start again."""


class CorruptFrameError(SourceError):
    """This frame cannot be decoded; the next one may."""


class Source(Protocol):
    """A camera."""

    def open(self) -> SourceInfo:
        """Open it; may take up to the camera's `timeout_s`, but ends soon after stop is set.

        Raises:
            SourceError: it cannot be opened; the message names cause and remedy. The service
                tries again later.
        """
        ...

    def next(self, timeout_s: float) -> Grab | None:
        """Wait at most `timeout_s` for the next frame; None when there is none yet.

        Raises:
            SourceLostError: close it and open it again.
            NoPictureYetError: it delivers, but nothing that can be shown; go on.
            SourceEndedError: a file has ended.
            CorruptFrameError: a frame was lost to damaged data; go on.
        """
        ...

    def drop_stale(self) -> int:
        """Throw away all waiting frames but the newest (the camera went to alarmed).

        Returns:
            How many frames were thrown away.
        """
        ...

    def decode_only_keys(self, only: bool) -> None:
        """Decode key frames only from here on, or all again; sources that decode on demand need not do anything."""
        ...

    def close(self) -> None:
        """Free everything; may be called twice, and before a new `open`."""
        ...


def unix_from_monotonic(monotonic_ns: int) -> int:
    """Return the Unix time [ns] of a moment on CLOCK_MONOTONIC, as the clocks stand now."""
    return monotonic_ns + (time.time_ns() - time.monotonic_ns())


def matrix_for(height: int) -> ColorMatrix:
    """Return the matrix to assume where limited-range video says none: BT.601 below 720 lines."""
    return ColorMatrix.BT601 if height < 720 else ColorMatrix.BT709
