"""Judges every camera end to end, through the names: frames published → results → decisions.

A process whose main loop goes round may still do nothing for a camera. So the supervisor reads the same rings and
boards as the processes do, and restarts the process at which a camera's frames get no further.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from tridetr.config import Config
from tridetr.errors import ShmError
from tridetr.shm.boards import CameraState, SentryReader, StatusReader
from tridetr.shm.closing import Closing
from tridetr.shm.detections import DetectionReader
from tridetr.shm.frames import FrameReader
from tridetr.shm.packets import PacketReader
from tridetr.supervisor.counters import Counters
from tridetr.supervisor.process import ManagedProcess
from tridetr.telemetry import heartbeat
from tridetr.triton.endpoint import FILE_NAME as ENDPOINT_FILE

logger = logging.getLogger("tridetr.supervisor")

PATIENCE_S = 15.0
# A decoder that gets packets may wait for a key frame, and a restart interrupts the other cameras of the process.
DECODER_PATIENCE_S = 60.0
# A detector that reports why it has no results is restarted only in case it is wrong about that.
REPORTED_PATIENCE_S = 300.0
LONGEST_PATIENCE_S = 3600.0
STATUS_OLD_NS = 5_000_000_000
PACKET_OLD_NS = 5_000_000_000
TRITON = "triton"


class Stage(str, Enum):
    """What becomes of a camera's frames, one after the other."""

    FRAMES = "frames"
    RESULTS = "results"
    DECISIONS = "decisions"


_MISSING = {
    Stage.FRAMES: "it delivers, but no frame is in its ring",
    Stage.RESULTS: "frames come, but no result",
    Stage.DECISIONS: "results come, but no decision",
}


@dataclass(frozen=True, slots=True)
class Look:
    """How far a camera's frames have come.

    Attributes:
        live: Capture has reported lately that the camera is live, or packets come that the GPU should decode.
        frame: Sequence of the newest frame; 0: there is none.
        result: Sequence of the frame of the newest result; 0: there is none.
        decided: Sequence of the newest frame that was decided on; 0: there is none.
    """

    live: bool
    frame: int
    result: int
    decided: int


class Progress:
    """Finds for how long each stage of one camera has stood still. Pure."""

    def __init__(self) -> None:
        self._last = Look(live=False, frame=0, result=0, decided=0)
        self._moved_s: dict[Stage, float] = {}

    def stalled_s(self, look: Look, now_s: float) -> dict[Stage, float]:
        """Return for how long each stage has got nothing done although it has something to do [s].

        Args:
            look: How far the frames have come now.
            now_s: Monotonic time.
        """
        last, self._last = self._last, look
        moves = {
            Stage.FRAMES: not look.live or look.frame != last.frame,
            Stage.RESULTS: look.result == look.frame or look.result != last.result,
            Stage.DECISIONS: look.decided == look.result or look.decided != last.decided,
        }
        for stage, moved in moves.items():
            if moved or stage not in self._moved_s:
                self._moved_s[stage] = now_s
        return {stage: now_s - moved_s for stage, moved_s in self._moved_s.items()}


class CameraEyes(Closing):
    """Reads how far one camera's frames have come. Opens everything by name, again where a name leads elsewhere."""

    def __init__(self, instance: str, camera: str, *, decodes_packets: bool) -> None:
        """Open what need not exist yet.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            decodes_packets: Whether the gpu process makes the frames out of the camera's packets.
        """
        self._frames = FrameReader(instance, camera, None)
        self._results = DetectionReader(instance, camera, None)
        self._sentry = SentryReader(instance, camera)
        self._status = StatusReader(instance, camera)
        self._packets = PacketReader(instance, camera) if decodes_packets else None
        self._could_decode = False

    def look(self) -> Look:
        """Return how far they are.

        Raises:
            ShmError: A ring cannot be read.
        """
        self._frames.forget_if_removed()
        self._results.forget_if_removed()
        frame = result = 0
        if (frame_lease := self._frames.lease_newest()) is not None:
            frame = frame_lease.sequence
            frame_lease.release()
        if (result_lease := self._results.lease_newest()) is not None:
            with result_lease:
                result = result_lease.stamp.frame_sequence
        status, board = self._status.read(), self._sentry.read()
        live = (
            status is not None
            and status.state is CameraState.LIVE
            and time.monotonic_ns() - status.heartbeat_monotonic_ns < STATUS_OLD_NS
        )
        live = live or self._decodable_packets_come()
        return Look(live, frame, result, board.decided_frame_sequence if board else 0)

    def _decodable_packets_come(self) -> bool:
        """Return whether packets have come lately, and a key frame with which decoding can start."""
        if self._packets is None:
            return False
        self._packets.forget_if_removed()
        now_ns = time.monotonic_ns()
        if now_ns - self._packets.newest_ns() > PACKET_OLD_NS:
            self._could_decode = False
        elif not self._could_decode:
            self._could_decode = self._packets.seek(now_ns)
        return self._could_decode

    def close(self) -> None:
        """Let go of rings and boards."""
        for reader in (self._frames, self._results, self._sentry, self._status, self._packets):
            if reader is not None:
                reader.close()


class PipelineWatch(Closing):
    """Looks at all cameras of a node; shows where one stands still and restarts the process that is at fault."""

    def __init__(self, config: Config, processes: Mapping[str, ManagedProcess]) -> None:
        """Begin.

        Args:
            config: The configuration of the node.
            processes: Those of its processes that run here, by name.
        """
        from tridetr.telemetry import (
            metrics,
        )  # not before the supervisor has set up its metric files

        self._config = config
        self._processes = processes
        self._eyes = {
            name: CameraEyes(config.instance, name, decodes_packets=camera.decode == "gpu")
            for name, camera in config.cameras.items()
        }
        self._progress = {name: Progress() for name in config.cameras}
        self._gauges = {
            (name, stage): metrics.STALLED.labels(name, stage.value)
            for name in config.cameras
            for stage in Stage
        }
        self._stalled: set[tuple[str, Stage]] = set()
        self._patience_s: dict[str, float] = {}
        self._at_fault_s: dict[str, float] = {}  # when each was last seen at fault
        self._endpoint = 0
        self._serves_since_s = math.inf
        for gauge in self._gauges.values():
            gauge.set(0)

    def look(self, now_s: float) -> None:
        """Look once; call it about once a second (monotonic seconds)."""
        at_fault: set[str] = set()
        self._look_at_server(now_s)
        for camera, eyes in self._eyes.items():
            try:
                look = eyes.look()
            except ShmError as error:
                logger.debug("%s", error, extra={"camera": camera})
                continue
            for stage, stalled_s in self._progress[camera].stalled_s(look, now_s).items():
                self._judge(camera, stage, stalled_s, now_s, at_fault)
        for name in self._processes:
            if name in at_fault:
                self._at_fault_s[name] = now_s
            else:
                # A moment without a fault follows each restart, and proves nothing
                if now_s - self._at_fault_s.get(name, -math.inf) > self._patience_s.get(name, 0.0):
                    self._patience_s.pop(name, None)
                with contextlib.suppress(OSError):
                    heartbeat.beat_for(self._config.run_dir, heartbeat.progress_of(name))

    def _look_at_server(self, now_s: float) -> None:
        """Note since when the embedded server has claimed to serve; until then its own watcher is in charge."""
        try:
            endpoint = (self._config.run_dir / ENDPOINT_FILE).stat().st_ino
        except OSError:
            endpoint = 0
        if endpoint != self._endpoint or not endpoint:
            self._endpoint, self._serves_since_s = endpoint, now_s

    def _judge(
        self, camera: str, stage: Stage, stalled_s: float, now_s: float, at_fault: set[str]
    ) -> None:
        key, patience_s = (camera, stage), self._patience_of(camera, stage)
        if stalled_s < patience_s:
            if key in self._stalled:
                self._stalled.discard(key)
                self._gauges[key].set(0)
                logger.info("%s come again", stage.value, extra={"camera": camera})
            return
        name, reported = self._culprit(camera, stage)
        if key not in self._stalled:
            self._stalled.add(key)
            self._gauges[key].set(1)
            logger.warning(
                "camera %s: %s for %.0f s (%s)", camera, _MISSING[stage], stalled_s, name
            )
        if reported:
            patience_s = REPORTED_PATIENCE_S
            waited_s = stalled_s if name != TRITON else min(stalled_s, now_s - self._serves_since_s)
            if waited_s < patience_s:
                return
        at_fault.add(name)
        process = self._processes.get(name)
        if process is None:
            return
        patience_s = max(patience_s, self._patience_s.get(name, 0.0))
        if process.up_s(now_s) >= patience_s:
            self._patience_s[name] = min(2 * patience_s, LONGEST_PATIENCE_S)
            process.replace(f"camera {camera}: {_MISSING[stage]} for {stalled_s:.0f} s")

    def _patience_of(self, camera: str, stage: Stage) -> float:
        config, section = self._config, self._config.cameras[camera]
        if stage is Stage.FRAMES:
            if section.decode == "gpu":
                return DECODER_PATIENCE_S
            if (
                section.source.kind == "file"
            ):  # read at its own pace, which may be that of a time lapse
                return math.inf
            slowest_fps = min(config.sentry_for(camera).standby_fps, section.fps or math.inf)
            return max(PATIENCE_S, section.timeout_s + 5, 5 / slowest_fps)
        if stage is Stage.RESULTS:  # the cameras take turns
            return max(PATIENCE_S, config.triton.infer_timeout_s + 5) + len(config.cameras)
        return PATIENCE_S

    def _culprit(self, camera: str, stage: Stage) -> tuple[str, bool]:
        """Return the process at which the frames get no further, and whether it is known to report why."""
        if stage is Stage.FRAMES:
            if self._config.cameras[camera].decode == "gpu":
                counters = Counters.read(self._config.run_dir / "metrics")
                return "gpu", bool(counters.total("tridetr_decoder_blocked", camera=camera))
            return f"capture {camera}", False
        if stage is Stage.DECISIONS:
            return "controller", False
        counters = Counters.read(self._config.run_dir / "metrics")
        if not counters.total("tridetr_detector_blocked", camera=camera):
            return "detector", False
        return ("detector" if self._config.triton.url else TRITON), True

    def close(self) -> None:
        """Let go of all rings and boards."""
        for eyes in self._eyes.values():
            eyes.close()
