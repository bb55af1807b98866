"""In standby only a few of a camera's frames are decoded; once it is alarmed, all of them are."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np

from tridetr.capture.capture_process import Capture
from tridetr.capture.publisher import Publisher
from tridetr.capture.sentry import Sentry
from tridetr.capture.sources.base import (
    Grab,
    Layout,
    Picture,
    Source,
    SourceEndedError,
    SourceInfo,
)
from tridetr.capture.status import StatusReporter
from tridetr.config import Config
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState, SentryWriter
from tridetr.shm.frames import ColorMatrix, ColorRange

FPS, EACH = 30, 60


class Camera(Source):
    """Delivers frames without delay, with the times of a 30 fps camera, and becomes alarmed halfway."""

    def __init__(self, board: SentryWriter) -> None:
        self._board = board
        self._number = 0
        self._began_ns = time.monotonic_ns()
        self.decoded: list[int] = []

    def open(self) -> SourceInfo:
        self._show(SentryMode.STANDBY)
        return SourceInfo("v4l2", "a camera", "device", 64, 48, FPS)

    def next(self, timeout_s: float) -> Grab | None:
        number, self._number = self._number, self._number + 1
        if number == EACH:
            self._show(SentryMode.ALARMED)
        if number == 2 * EACH:
            raise SourceEndedError("enough")

        def decode() -> Picture:
            self.decoded.append(number)
            luma = np.full((48, 64), number, np.uint8)
            chroma = np.full((24, 32), 128, np.uint8)
            planes = (luma, chroma, chroma)
            return Picture(Layout.I420, planes, 64, 48, ColorRange.FULL, ColorMatrix.BT601)

        return Grab(number, self._began_ns + number * 10**9 // FPS, time.time_ns(), decode)

    def close(self) -> None: ...

    def _show(self, mode: SentryMode) -> None:
        state = SentryState.STANDBY if mode is SentryMode.STANDBY else SentryState.TRACKING
        until_ns = time.monotonic_ns() + 60 * 10**9
        self._board.write(SentrySnapshot(mode, state, 0, "", until_ns))


def test_standby_decodes_few_frames_and_the_alarm_all(instance: str, tmp_path: Path) -> None:
    config = Config.model_validate(
        {"instance": instance, "cameras": {"cam": {"source": "/dev/video0"}}, "run_dir": tmp_path}
    )
    with SentryWriter(instance, "cam") as board, Sentry(instance, "cam") as sentry:
        camera = Camera(board)
        with (
            StatusReporter(instance, "cam") as status,
            Publisher(instance, "cam", config.cameras["cam"]) as sink,
        ):
            Capture(config, "cam", threading.Event(), camera, status, sentry, sink).run()
    calm = [number for number in camera.decoded if number < EACH]
    assert EACH / FPS * 3 - 1 <= len(calm) <= EACH / FPS * 3 + 1, "standby_fps is 3"
    assert [number for number in camera.decoded if number >= EACH] == [*range(EACH, 2 * EACH)]
