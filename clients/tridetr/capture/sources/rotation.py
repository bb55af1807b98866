"""The rotation that a stream requests for its pictures; H.264 signals it with few of them, for all that follow."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from av.sidedata.sidedata import Type

if TYPE_CHECKING:
    import av


def signalled(frame: av.VideoFrame, *, is_turned: bool) -> int | None:
    """Return by how many degrees anticlockwise a picture must be turned; None if nothing was signalled with it.

    Args:
        frame: the picture.
        is_turned: whether those before it are turned, so that no longer to turn them is a signal, too. It comes with
            key frames.
    """
    if frame.rotation or not (is_turned and frame.key_frame):
        return frame.rotation or None
    found = Type.DISPLAYMATRIX in frame.side_data
    # PyAV makes the picture part of a reference cycle: it would stay in memory until a later collection
    gc.collect()
    return 0 if found else None


class CheckedRotation:
    """The rotation of a network stream's pictures; another one looks like damage.

    A lost packet can look like a rotation, which FFmpeg then repeats with each picture of H.265. If it is a real one,
    the camera is opened again because of the damage. With H.264, FFmpeg passes a rotation on only with the pictures
    that it comes with: it holds for all that follow, and a different one counts once it has come a second time.
    """

    def __init__(self, codec: str) -> None:
        self._holds = codec == "h264"
        self._degrees: int | None = None
        self._odd: int | None = None  # another one
        self._is_odd_over = False  # a picture without a signal has come since

    def of(self, frame: av.VideoFrame) -> int | None:
        """Return by how many degrees anticlockwise a picture must be turned; None if that looks like damage."""
        degrees = signalled(frame, is_turned=bool(self._degrees))
        if degrees is None:
            degrees = (self._degrees or 0) if self._holds else 0
            self._is_odd_over = self._holds
        elif degrees == self._odd and self._is_odd_over:
            self._degrees = degrees
        if self._degrees is None:
            self._degrees = degrees
        if degrees != self._degrees:
            self._odd, self._is_odd_over = degrees, False
            return None
        return degrees
