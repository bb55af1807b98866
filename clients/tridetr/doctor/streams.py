"""Check the cameras by opening each for a few seconds, as its capture process does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tridetr.capture.sources.base import (
    CorruptFrameError,
    Grab,
    NoPictureYetError,
    Source,
    SourceEndedError,
    SourceInfo,
)
from tridetr.capture.sources.select import make_source
from tridetr.config import CameraSection, Config
from tridetr.doctor.finding import Finding
from tridetr.errors import SourceError, TridetrError

_LOOK_S = 3.0  # time to measure the frame rate
_LONGEST_S = 25.0
_NEWS_S = 12.0  # longest wait for a new segment of a playlist
_AT_ONCE = 8


def check_cameras(config: Config) -> Iterator[Finding]:
    """Yield codec, size and measured rate of each camera and its second stream, or why there is no picture."""
    streams: list[tuple[str, CameraSection, str, threading.Event]] = []
    for name, camera in config.cameras.items():
        streams.append((name, camera, "source", threading.Event()))
        if camera.view is not None:
            section = camera.model_copy(update={"source": camera.view, "decode": "cpu"})
            streams.append((name, section, "view", threading.Event()))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield from pool.map(lambda stream: check_camera(*stream), streams)
        finally:  # Ctrl-C: the pool waits for those that have begun
            for *_, stop in streams:
                stop.set()


def check_camera(
    name: str, camera: CameraSection, key: str = "source", stop: threading.Event | None = None
) -> Finding:
    """Open one camera and return what it delivers, or why there is no picture.

    Args:
        name: Name of the camera.
        camera: Section of the camera; its ``source`` is the stream that is opened.
        key: Configuration key that the stream is set in: "source" or "view".
        stop: Ends the check early once it is set.
    """
    subject = f"camera {name}" if key == "source" else f"camera {name}, {key}"
    if camera.source.kind == "synthetic":
        return Finding(subject, "ok", "synthetic")
    stop = stop or threading.Event()
    timer = threading.Timer(_LONGEST_S, stop.set)
    timer.daemon = True
    timer.start()
    source = make_source(name, camera, stop)
    try:
        info = _opened(source, stop)
        width, height, fps = _watch(source, info, max(camera.timeout_s, _LOOK_S), stop)
    except (TridetrError, ValueError) as error:
        return _fault(subject, str(error), f"cameras.{name}.{key}")
    finally:
        source.close()
        timer.cancel()
        stop.set()
    rate = f", {fps:.1f} fps measured" if fps else ""
    # Some sources do not know their size when they are opened (0x0); the first picture has it
    described = info.description.replace("0x0", f"{width}x{height}")
    return Finding(subject, "ok", f"{described}, picture {width}x{height}{rate}")


def _opened(source: Source, stop: threading.Event) -> SourceInfo:
    started = time.monotonic()
    while True:
        try:
            return source.open()
        except NoPictureYetError:
            if stop.is_set() or time.monotonic() - started > _NEWS_S:
                raise
            source.close()


def _watch(
    source: Source, info: SourceInfo, timeout_s: float, stop: threading.Event
) -> tuple[int, int, float]:
    """Return width, height and frames per second (0: unknown).

    Raises:
        SourceError: No picture arrived in time.
    """
    started = time.monotonic()
    first: Grab | None = None
    size = (0, 0)
    newest_ns, frames, why = 0, 0, "no picture"
    while not stop.is_set() and time.monotonic() - started < (
        _LOOK_S if first else timeout_s + _LOOK_S
    ):
        try:
            grab = source.next(0.2)
            if grab is None:
                continue
            if first is None:
                picture = grab.decode()
                size, first = (picture.width, picture.height), grab
                started = time.monotonic()
            newest_ns, frames = grab.monotonic_ns, grab.number - first.number
            if not info.live:
                break
        except (NoPictureYetError, CorruptFrameError) as error:
            why = str(error)

        except SourceEndedError:
            break
    if first is None:
        raise SourceError(f"{why} within {timeout_s:g} s")
    spent_s = (newest_ns - first.monotonic_ns) / 1e9
    return *size, frames / spent_s if spent_s > 0 else 0.0


def _fault(subject: str, message: str, key: str) -> Finding:
    """Return a fault; a message of the form "found; remedy" is split at the semicolon."""
    text, separator, remedy = message.partition("; ")
    return Finding(subject, "fault", text, remedy if separator else f"correct {key}")
