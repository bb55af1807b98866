"""Run the real capture loop of one camera into a real ring, and record the frames that a reader sees."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from support.rings import wakeup_of
from support.waiting import slack, wait_for
from tridetr.capture.capture_process import run
from tridetr.config import Config
from tridetr.shm.boards import (
    CameraState,
    CameraStatus,
    SentryMode,
    SentrySnapshot,
    SentryState,
    SentryWriter,
    StatusReader,
)
from tridetr.shm.frames import FrameReader, FrameStamp
from tridetr.shm.names import unlink_instance


@dataclass(frozen=True)
class Seen:
    """A frame as a reader saw it; `planes` uint8 [3H/2, W] is a copy."""

    sequence: int
    stamp: FrameStamp
    planes: NDArray[np.uint8]
    jpeg: bytes
    generation: int
    seen_ns: int


@dataclass
class Rig:
    """A running capture."""

    config: Config
    camera: str
    stop: threading.Event = field(default_factory=threading.Event)
    frames: list[Seen] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def start(self) -> None:
        self._capture = threading.Thread(target=self._run)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._capture.start()

    def _run(self) -> None:
        try:
            run(self.config, self.camera, self.stop)
        except BaseException as error:
            self.errors.append(error)

    def _read(self) -> None:
        last = 0
        with FrameReader(self.config.instance, self.camera, "detector") as reader:
            while not self.stop.is_set():
                wakeup_of(reader).wait(0.05)
                while (lease := reader.lease_newest(last)) is not None:
                    with lease:
                        last = lease.sequence
                        region = reader.region
                        self.frames.append(
                            Seen(
                                last,
                                lease.stamp,
                                lease.planes.copy(),
                                bytes(lease.jpeg),
                                region.generation if region else 0,
                                time.monotonic_ns(),
                            )
                        )

    @property
    def running(self) -> bool:
        return self._capture.is_alive()

    def finish(self, within_s: float | None = None) -> None:
        """Stop capture, which must end in time (two seconds on a quiet machine)."""
        within_s = slack(2.0) if within_s is None else within_s
        self.stop.set()
        self._capture.join(within_s)
        self._reader.join(20)
        assert not self._capture.is_alive(), f"capture did not stop within {within_s} s"

    def status(self) -> CameraStatus | None:
        with StatusReader(self.config.instance, self.camera) as reader:
            return reader.read()

    def wait_state(self, state: CameraState, within_s: float = 30) -> CameraStatus:
        def reached() -> CameraStatus | None:
            status = self.status()
            return status if status is not None and status.state is state else None

        found = wait_for(reached, within_s, f"{state!r}; errors {self.errors}")
        assert found is not None
        return found

    def wait_frames(self, count: int, within_s: float = 30) -> list[Seen]:
        """Wait for ``count`` more frames and return them."""
        start = len(self.frames)
        wait_for(lambda: len(self.frames) >= start + count, within_s, f"{count} frames more")
        return self.frames[start : start + count]

    @property
    def published(self) -> int:
        return self._counted("tridetr_frames_published_total", camera=self.camera)

    def skipped(self, reason: str) -> int:
        return self._counted("tridetr_frames_skipped_total", camera=self.camera, reason=reason)

    def _counted(self, metric: str, **labels: str) -> int:
        return int(REGISTRY.get_sample_value(metric, labels) or 0)


@contextlib.contextmanager
def capturing(
    tmp_path: Path, source: str | Path, *, start: bool = True, **keys: Any
) -> Iterator[Rig]:
    """Run capture on a source with these keys of the camera section, and clean up afterwards."""
    camera = "c" + uuid.uuid4().hex[:8]  # of its own, so that counters start at 0
    config = Config.model_validate(
        {
            "instance": "t" + uuid.uuid4().hex[:10],
            # The smooth pictures of `clips` look like a covered camera
            "cameras": {camera: {"source": str(source), "blind_check": False, **keys}},
            "run_dir": tmp_path / "run",
            "state_dir": tmp_path / "state",
        }
    )
    rig = Rig(config, camera)
    try:
        if start:
            rig.start()
        yield rig
        if start:
            rig.finish()
            assert not rig.errors, rig.errors
    finally:
        rig.stop.set()
        if "_capture" in vars(rig):  # started, here or by the test
            rig.finish(20)
        unlink_instance(config.instance, [camera])


class FakeController:
    """Writes the sentry board of a rig in place of the controller."""

    def __init__(self, rig: Rig) -> None:
        self._writer = SentryWriter(rig.config.instance, rig.camera)

    def write(self, mode: SentryMode, *, decided: int = 0, lasts_s: float = 60) -> None:
        alarmed = mode is SentryMode.ALARMED
        self._writer.write(
            SentrySnapshot(
                mode=mode,
                state=SentryState.TRACKING if alarmed else SentryState.STANDBY,
                state_since_unix_ns=time.time_ns(),
                visit_id="",
                expires_monotonic_ns=time.monotonic_ns() + round(lasts_s * 1e9),
                decided_frame_sequence=decided,
            )
        )

    def close(self) -> None:
        self._writer.close()


class Decider(threading.Thread):
    """Decides on each frame of a rig after a delay, in place of detector and controller."""

    def __init__(self, rig: Rig, mode: SentryMode, delay_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.controller = FakeController(rig)
        self.ahead: list[int] = []
        self._rig, self._mode, self._delay_s = rig, mode, delay_s

    def run(self) -> None:
        decided = 0
        self.controller.write(self._mode)
        while not self._rig.stop.is_set():
            if len(self._rig.frames) > decided:
                self._rig.stop.wait(self._delay_s)
                self.ahead.append(len(self._rig.frames) - decided)
                frame = self._rig.frames[decided]
                decided += 1
                self.controller.write(self._mode, decided=frame.sequence)
            else:
                self._rig.stop.wait(0.001)
        self.controller.close()


def play_through(tmp_path: Path, clip: Path, mode: SentryMode = SentryMode.ALARMED) -> Rig:
    """Play a clip to its end without loss; the rig holds every frame."""
    with capturing(tmp_path, clip, start=False, loop=False, realtime=False) as rig:
        decider = Decider(rig, mode)
        decider.start()
        rig.start()
        wait_for(lambda: not rig.running, 30, "the end of the file")
        assert rig.wait_state(CameraState.ENDED)
        rig.finish()
        decider.join()
    assert not rig.errors
    return rig
