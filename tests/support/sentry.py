"""Run a real controller process, with a simulated detector that writes a real detection ring."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from support.waiting import wait_for
from tridetr.shm.boards import (
    BlindReason,
    CameraState,
    CameraStatus,
    SentryMode,
    SentryReader,
    SentrySnapshot,
    SentryState,
    StatusWriter,
)
from tridetr.shm.detections import DETECTION_DTYPE, DetectionWriter, ResultStamp
from tridetr.shm.names import unlink_instance

PERSON = np.array([(100, 50, 200, 430, 0.9, 1, 0)], DETECTION_DTYPE)
EMPTY = np.zeros(0, DETECTION_DTYPE)
FRAME_NS = 100_000_000


class Actor:
    """Simulates capture and detector of one camera: 10 fps in media time, at any speed."""

    def __init__(self, instance: str, camera: str) -> None:
        self.camera = camera
        self.frame = 0
        self.time_ns = time.monotonic_ns()
        self._results = DetectionWriter(instance, camera)
        self._status = StatusWriter(instance, camera)
        self._board = SentryReader(instance, camera)
        self._doubtful_until_ns = 0
        self.be(CameraState.LIVE)

    def show(
        self,
        detections: np.ndarray = EMPTY,
        *,
        seconds: float = FRAME_NS / 1e9,
        age_s: float | None = None,
    ) -> int:
        """Publish the next frame's result; return the frame's sequence number.

        Args:
            detections: Detections in the frame.
            seconds: Media time since the previous frame [s].
            age_s: Age of a live camera's frame [s]; None for a recording.
        """
        self.be(self._state, self._blind, self._message)  # capture's heartbeat
        self.frame += 1
        self.time_ns += round(seconds * 1e9)
        now = time.monotonic_ns()
        if age_s is not None:
            self.time_ns = now - round(age_s * 1e9)
        stamp = ResultStamp(
            frame_number=self.frame + 1000,
            frame_sequence=self.frame,
            width=768,
            height=432,
            capture_monotonic_ns=self.time_ns,
            capture_unix_ns=time.time_ns(),
            lossless=age_s is None,
            taken_ns=now,
            infer_start_ns=now,
            infer_end_ns=now,
            published_ns=now,
            model_name="rfdetr_ort",
            model_version="1",
        )
        self._results.publish(stamp, detections)
        return self.frame

    def show_and_wait(self, detections: np.ndarray = EMPTY, frames: int = 1) -> None:
        """Publish frames one by one, each after the decision on the last one, as in lossless mode."""
        for _ in range(frames):
            sequence = self.show(detections)
            self.wait_decided(sequence)

    def wait_decided(self, sequence: int, within_s: float = 60) -> None:
        wait_for(
            lambda: (board := self._board.read()) and board.decided_frame_sequence >= sequence,
            within_s,
            f"frame {sequence} is not decided",
        )

    def board(self) -> SentrySnapshot:
        return wait_for(self._board.read, what="the controller wrote no board")

    def state(self) -> SentryState:
        return self.board().state

    def mode(self) -> SentryMode:
        return self.board().mode

    def doubt(self) -> None:
        """Let the last picture be one that may not show the scene."""
        self._doubtful_until_ns = self.time_ns
        self.be(self._state, self._blind, self._message)

    def be(
        self, state: CameraState, blind: BlindReason = BlindReason.NONE, message: str = ""
    ) -> None:
        """Write the camera's status."""
        self._state, self._blind, self._message = state, blind, message
        self._status.write(
            CameraStatus(
                state,
                time.time_ns(),
                time.monotonic_ns(),
                768,
                432,
                10.0,
                "file",
                message=message,
                blind_reason=blind,
                doubtful_until_monotonic_ns=self._doubtful_until_ns,
            )
        )

    def close(self) -> None:
        self._results.close()
        self._status.close()
        self._board.close()


class ControllerProcess:
    """``tridetr control`` as a process that can be killed and restarted."""

    def __init__(self, folder: Path, mqtt: dict[str, Any], **sections: Any) -> None:
        self.instance = "c" + uuid.uuid4().hex[:10]
        self.folder = folder
        self.config: dict[str, Any] = {
            "instance": self.instance,
            "cameras": {"hall": {"source": "synthetic"}},
            "mqtt": {"host": "127.0.0.1", "device": "node1", **mqtt},
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
            **sections,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        file = self.folder / "node.yaml"
        file.write_text(yaml.safe_dump(self.config))
        with (self.folder / "controller.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tridetr", "control", "--config", str(file)],
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """Kill it with SIGKILL, so that it cannot publish or save anything."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def terminate(self, within_s: float = 20) -> int:
        """Stop it like the supervisor; return the exit status."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def log(self) -> str:
        return (self.folder / "controller.log").read_text(errors="replace")[-5000:]


@contextlib.contextmanager
def running_controller(
    folder: Path, mqtt: dict[str, Any], *, start: bool = True, **sections: Any
) -> Iterator[tuple[ControllerProcess, Actor]]:
    """Run a controller for the camera ``hall``; afterwards, stop it and remove segments and queues."""
    folder.mkdir(parents=True, exist_ok=True)
    controller = ControllerProcess(folder, mqtt, **sections)
    actor = Actor(controller.instance, "hall")
    try:
        if start:
            controller.start()
        yield controller, actor
    except BaseException:
        print(controller.log() if controller.process else "never started")
        raise
    finally:
        if controller.process and controller.process.poll() is None:
            controller.kill()
        actor.close()
        unlink_instance(controller.instance, ["hall"])
