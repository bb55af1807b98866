"""What the PyAV sources share: opening a container, and errors that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import av.error

from tridetr.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.video.stream import VideoStream

_NO_VIDEO_FORMATS = {"tty"}  # FFmpeg reads text files as animated terminal art
_REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (av.error.FileNotFoundError, "check the path (relative paths start where tridetr runs)"),
    (av.error.IsADirectoryError, "name a video file, not a folder"),
    (av.error.PermissionError, "let the user that runs tridetr read it"),
    (av.error.InvalidDataError, "it is no video that FFmpeg knows, or it is damaged"),
    (av.error.ConnectionRefusedError, "is the camera on, and are host and port right?"),
    (
        av.error.HTTPUnauthorizedError,
        "put `user:password` into a file and name it in credentials_file",
    ),
    (
        av.error.HTTPForbiddenError,
        "put `user:password` into a file and name it in credentials_file",
    ),
    (av.error.HTTPNotFoundError, "check the path of the URL in the camera's manual"),
    (av.error.ExitError, "it does not answer: are the camera and the network up?"),
    (av.error.TimeoutError, "it does not answer: are the camera and the network up?"),
)


def open_video(
    url: str, *, shown: str, options: dict[str, str], timeout_s: float | None
) -> tuple[InputContainer, VideoStream]:
    """Open a file or stream and find its video.

    Args:
        url: what FFmpeg opens; may hold a password.
        shown: the same without the password, for messages.
        options: FFmpeg's options for the container.
        timeout_s: for opening and for each read [s]; None = wait for ever (local files).

    Raises:
        SourceError: it cannot be opened or has no video.
    """
    try:
        container = av.open(url, options=options, timeout=timeout_s)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"cannot open {shown}: {explain(error)}") from None
    if container.format.name in _NO_VIDEO_FORMATS or not container.streams.video:
        found = container.format.long_name
        container.close()
        raise SourceError(f"cannot open {shown}: there is no video in it ({found})")
    return container, container.streams.video[0]


def packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """Yield the packets of a stream that hold something.

    Raises:
        FFmpegError: the container is damaged, or the connection is.
    """
    while True:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    yield packet
            return
        except IndexError:
            # Damaged MPEG-TS announces streams that PyAV did not see at opening; it trips over them
            continue


def explain(error: Exception) -> str:
    """Return cause and remedy of an FFmpeg error, without the URL (it may hold a password)."""
    cause = getattr(error, "strerror", None) or type(error).__name__
    for kind, remedy in _REMEDIES:
        if isinstance(error, kind):
            return f"{cause}; {remedy}"
    return str(cause)


def frame_rate(stream: VideoStream) -> float:
    """Return the stream's frames per second, 0.0 where it does not say or makes no sense."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and 0 < rate <= 1000:
            return float(rate)
    return 0.0
