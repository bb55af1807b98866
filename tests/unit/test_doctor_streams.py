"""`tridetr doctor` ends soon after Ctrl-C, even if a camera does not answer."""

from __future__ import annotations

import threading

import pytest

from tridetr.config import CameraSection, Config
from tridetr.doctor import streams
from tridetr.doctor.finding import Finding


def test_an_interrupted_check_stops_the_cameras_being_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def check(name: str, camera: CameraSection, key: str, stop: threading.Event) -> Finding:
        if name == "yard":
            begun.wait(20)
            raise KeyboardInterrupt
        begun.set()
        if stop.wait(20):
            ended.set()
        return Finding(name, "ok", key)

    monkeypatch.setattr(streams, "check_camera", check)
    config = Config.model_validate(
        {"cameras": {name: {"source": "synthetic"} for name in ("yard", "gate")}}
    )
    with pytest.raises(KeyboardInterrupt):
        list(streams.check_cameras(config))
    assert ended.is_set()
