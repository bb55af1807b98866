"""The second stream of a camera: the delays between attempts to open it."""

from __future__ import annotations

import time

import pytest

from support.waiting import wait_for
from tridetr.capture import view_stream
from tridetr.capture.sources.base import LoginRefusedError
from tridetr.config import CameraSection, PacketsSection
from tridetr.errors import SourceError


def test_time_to_refuse_a_login_does_not_count_as_working(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera that took 5 s to refuse was asked every 2 minutes without end, and locked the account."""
    worked: list[float] = []

    class Delays:
        def __init__(self, first_s: float) -> None:
            pass

        def failed(self, error: SourceError, worked_s: float) -> float:
            assert isinstance(error, LoginRefusedError)
            worked.append(worked_s)
            return 0.0

    def refuse(*_: object) -> None:
        time.sleep(0.02)
        raise LoginRefusedError("rtsp://camera/", 401, True)

    monkeypatch.setattr(view_stream, "ReconnectDelays", Delays)
    monkeypatch.setattr(view_stream, "connect", refuse)
    monkeypatch.setattr(view_stream, "_LOOK_S", 0.01)
    monkeypatch.setattr(view_stream.ViewStream, "_is_wanted", lambda _: True)
    section = CameraSection(source="rtsp://camera/1", view="rtsp://camera/2")
    with view_stream.ViewStream(instance, "hall", section, PacketsSection(), lambda _: None):
        wait_for(lambda: len(worked) >= 2)
    assert set(worked) == {0.0}
