"""Interface of camera sources: they deliver frames as views and never block for long.

The capture loop calls `open` once, then `next` repeatedly, and `close` at the end or before it reopens
the source after a failure. A frame is decoded only when its picture is requested, after pacing has
decided to keep it. All calls come from one thread.

A source that reads packets is created as `SomeSource(section: CameraSection, stop: threading.Event, packets: PacketSink
| None)`, and passes each packet to the sink before it decodes it. `sources/jpeg_decoder.py` decodes MJPEG for them all.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tridetr.config.source import SourceKind
from tridetr.errors import SourceError
from tridetr.shm.frames import ColorMatrix, ColorRange

CaptureClock = Literal["device", "arrival", "playback", "media", "synthetic"]
Plane = NDArray[np.uint8]


class Layout(Enum):
    """Memory layout of a picture; for odd sizes, the chroma planes are rounded up."""

    I420 = "i420"  # y [H, W], u [H/2, W/2], v [H/2, W/2]
    I422 = "i422"  # y [H, W], u [H, W/2],   v [H, W/2]
    NV12 = "nv12"  # y [H, W], uv [H/2, W] (u and v bytes alternate)
    YUYV = "yuyv"  # one plane [H, 2W]: y0 u y1 v ...


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture as views, valid until the source's next call.

    Attributes:
        layout: Layout of the planes.
        planes: uint8 arrays, shaped as the layout specifies; rows may be padded (strided arrays).
        width: Pixels; an odd one is cropped by one when the picture is copied into a slot.
        height: Pixels; likewise.
        color_range: Range of the samples.
        color_matrix: Matrix of the samples.
        turned: Whether the planes are rotated views, so that the camera's own JPEG does not match them.
        draw: Writes the picture to a slot's I420 frame (uint8 [3H/2, W], writable), so that nothing is
            copied; for sources that can write to any address and then set no planes.
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
        """Return every `step`-th luma row, uint8; the picture must have planes."""
        luma = self.planes[0][::step]
        # Y, U, Y, V: luma is every second byte
        return luma[:, ::2] if self.layout is Layout.YUYV else luma


@dataclass(frozen=True, slots=True)
class Grab:
    """One frame of the source, not necessarily decoded yet; valid until the source's next call.

    Attributes:
        number: The source's frame index; keeps growing when the source is reopened, gaps are lost frames.
        monotonic_ns: Capture time on CLOCK_MONOTONIC [ns]: device clock, arrival before decoding, or
            media time.
        unix_ns: The same moment in Unix time [ns].
        decode: Returns the picture; called at most once; may raise `CorruptFrameError`.
        jpeg: A complete JPEG if the source delivers MJPEG, else None.
        decode_ns: Time spent decoding it before `decode` is called [ns].
        is_doubtful: Whether it can show traces of an earlier picture that was damaged.
    """

    number: int
    monotonic_ns: int
    unix_ns: int
    decode: Callable[[], Picture]
    jpeg: memoryview | None = None
    decode_ns: int = 0
    is_doubtful: bool = False


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """Properties that a network stream reports.

    Attributes:
        codec: FFmpeg's name of the codec.
        width: Pixels; 0 while unknown.
        height: Pixels; 0 while unknown.
        fps: Frames per second; 0.0 if unknown.
    """

    codec: str
    width: int
    height: int
    fps: float


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Properties of an opened source.

    Attributes:
        kind: Kind of the source.
        description: Readable summary of the stream, such as "MJPG 1920x1080 at 30 fps, uvcvideo".
        capture_clock: Where the capture times come from.
        width: Pixels; 0 while unknown (the first picture decides the size anyway).
        height: Pixels; 0 while unknown.
        fps: Frames per second; 0 if unknown.
        live: False for a file that is read without loss, at the detector's speed.
    """

    kind: SourceKind
    description: str
    capture_clock: CaptureClock
    width: int = 0
    height: int = 0
    fps: float = 0.0
    live: bool = True


class SourceLostError(SourceError):
    """The source stopped delivering (unplugged, closed, timed out): close it and open it again."""


class LoginError(SourceError):
    """User and password must not be sent again soon.

    Attributes:
        was_sent: Whether they were sent at all.
    """

    was_sent = True


class LoginRefusedError(LoginError):
    """The camera refused the login; retrying soon could lock the account."""

    def __init__(self, shown: str, code: int, with_password: bool) -> None:
        """Build the message.

        Args:
            shown: The camera's address without a password.
            code: 401 or 403.
            with_password: Whether a password was sent.
        """
        self.was_sent = with_password
        remedy = "correct" if with_password else "put `user:password` into a file, named in"
        super().__init__(f"{shown}: login refused ({code}); {remedy} credentials_file")


class LoginTakenError(LoginError):
    """Another host may have received user and password; so it may at the next attempt.

    Attributes:
        is_reported: Whether the camera waits for this reason. Nobody awaits the error of an attempt that was given up.
    """

    is_reported = False


class NoPictureYetError(SourceError):
    """Data arrives, but no picture can be shown yet, for the reason in the message. Call the method again."""


class SourceEndedError(SourceError):
    """A file that does not loop has ended."""


class CorruptFrameError(SourceError):
    """This frame cannot be decoded; the next one may."""


class Source(ABC):
    """A camera source (see the module's description)."""

    @property
    def fault(self) -> str:
        """What is wrong with its pictures, although they arrive; empty if nothing is, as far as known."""
        return ""

    @abstractmethod
    def open(self) -> SourceInfo:
        """Open the source; may take up to the camera's `timeout_s`, but returns soon after stop is set.

        Raises:
            NoPictureYetError: It works, but has no new picture yet.
            SourceError: It cannot be opened; the message names cause and remedy. The capture loop
                tries again later.
        """

    @abstractmethod
    def next(self, timeout_s: float) -> Grab | None:
        """Wait at most `timeout_s` for the next frame; return None if there is none yet.

        Raises:
            SourceLostError: Close the source and open it again.
            NoPictureYetError: It delivers data, but nothing that can be shown yet; call again.
            SourceEndedError: A file has ended.
            CorruptFrameError: A frame was lost to damaged data; call again.
        """

    def drop_stale(self) -> int:
        """Discard all waiting frames except the newest (the camera has become alarmed); by default none wait.

        Returns:
            Number of frames discarded.
        """
        return 0

    def decode_only_keys(self, only: bool) -> None:  # noqa: B027
        """Decode only key frames from now on, or all frames again; sources that decode on demand ignore it."""

    @abstractmethod
    def close(self) -> None:
        """Free everything; may be called twice, and before a new `open`."""


def unix_from_monotonic(monotonic_ns: int) -> int:
    """Convert a time on CLOCK_MONOTONIC [ns] to Unix time [ns], using the current offset of the clocks."""
    return monotonic_ns + (time.time_ns() - time.monotonic_ns())


def matrix_for(height: int) -> ColorMatrix:
    """Return the matrix to assume for limited-range video that names none: BT.601 below 720 lines, else BT.709."""
    return ColorMatrix.BT601 if height < 720 else ColorMatrix.BT709
