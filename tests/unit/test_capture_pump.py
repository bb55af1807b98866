"""The thread that reads a network stream, on a file that has an end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from support.clips import write_clip
from support.waiting import wait_for
from tridetr.capture.sources import av
from tridetr.capture.sources.av import FfmpegFeed
from tridetr.capture.sources.base import SourceLostError
from tridetr.capture.sources.pump import PacketPump


class _Watched:
    """A container that notes when it is closed."""

    def __init__(self, container: object, closed: threading.Event) -> None:
        self._container = container
        self._closed = closed

    def __getattr__(self, name: str) -> object:
        return getattr(self._container, name)

    def close(self) -> None:
        self._closed.set()


def test_a_stream_that_ended_may_be_looked_at_until_the_pump_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container was freed as soon as the connection broke; whoever still read its facts died of SIGSEGV."""
    clip = write_clip(tmp_path / "clip.mp4", 3)
    closed = threading.Event()
    real = av.open_video

    def watched(*args: Any, **kwargs: Any) -> tuple[_Watched, object]:
        container, stream = real(*args, **kwargs)
        return _Watched(container, closed), stream

    monkeypatch.setattr(av, "open_video", watched)
    reading = PacketPump(lambda: FfmpegFeed(str(clip), "clip", {}, 2.0), "clip", 2.0)
    stream = reading.start(threading.Event()).stream
    for _ in range(3):
        assert reading.get(2.0) is not None
    with pytest.raises(SourceLostError):
        reading.get(2.0)
    assert stream is not None
    assert stream.average_rate
    assert not closed.wait(0.2)
    reading.close()
    wait_for(closed.is_set)
