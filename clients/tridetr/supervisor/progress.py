"""Watch every camera end to end: frames published → results → decisions.

A process whose main loop runs may still do nothing for a camera. So the supervisor opens the same rings and boards by
name as the processes do, and restarts the process at which a camera's frames get stuck.
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
# A process that reports why it makes no progress is only restarted in case the reason it reports is wrong
REPORTED_PATIENCE_S = 300.0
LONGEST_PATIENCE_S = 3600.0
STATUS_OLD_NS = 5_000_000_000
PACKET_OLD_NS = 5_000_000_000
TRITON = "triton"


class Stage(str, Enum):
    """The stages of a camera's data flow, in order."""

    FRAMES = "frames"
    RESULTS = "results"
    DECISIONS = "decisions"


_MISSING = {
    Stage.FRAMES: "live, but no frames in its ring",
    Stage.RESULTS: "frames, but no results",
    Stage.DECISIONS: "results, but no decisions",
}


@dataclass(frozen=True, slots=True)
class Look:
    """How far a camera's frames have come.

    Attributes:
        live: Whether capture recently reported the camera as live, or packets arrive that the GPU should decode.
        frame: Sequence number of the newest frame; 0 if there is none.
        result: Sequence number of the frame of the newest result; 0 if there is none.
        decided: Sequence number of the newest frame that was decided on; 0 if there is none.
    """

    live: bool
    frame: int
    result: int
    decided: int


class Progress:
    """Tracks how long each stage of one camera has been stalled. Without I/O.

    Example:
        >>> progress = Progress()
        >>> first = Look(live=True, frame=1, result=1, decided=1)
        >>> progress.stalled_s(first, 10.0)[Stage.RESULTS]
        0.0
        >>> stuck = Look(live=True, frame=9, result=1, decided=1)
        >>> progress.stalled_s(stuck, 30.0)[Stage.RESULTS]
        20.0
    """

    def __init__(self) -> None:
        self._last = Look(live=False, frame=0, result=0, decided=0)
        self._moved_s: dict[Stage, float] = {}

    def stalled_s(self, look: Look, now_s: float) -> dict[Stage, float]:
        """Return how long each stage has made no progress although it has work to do [s].

        Args:
            look: How far the frames have come now.
            now_s: Monotonic time [s].
        """
        last, self._last = self._last, look
        moves = {
            Stage.FRAMES: not look.live or look.frame != last.frame,
            # An empty ring is no work: an offline camera's frames are released after a while
            Stage.RESULTS: look.frame in (0, look.result) or look.result != last.result,
            Stage.DECISIONS: look.result in (0, look.decided) or look.decided != last.decided,
        }
        for stage, moved in moves.items():
            if moved or stage not in self._moved_s:
                self._moved_s[stage] = now_s
        return {stage: now_s - moved_s for stage, moved_s in self._moved_s.items()}


class CameraEyes(Closing):
    """Reads how far one camera's frames have come. Opens everything by name, and again when a name is replaced."""

    def __init__(self, instance: str, camera: str, *, decodes_packets: bool) -> None:
        """Prepare the readers; the segments need not exist yet.

        Args:
            instance: Name of the tridetr instance.
            camera: Name of the camera.
            decodes_packets: Whether the gpu process decodes the frames from the camera's packets.
        """
        self._frames = FrameReader(instance, camera, None)
        self._results = DetectionReader(instance, camera, None)
        self._sentry = SentryReader(instance, camera)
        self._status = StatusReader(instance, camera)
        self._packets = PacketReader(instance, camera) if decodes_packets else None
        self._could_decode = False

    def look(self) -> Look:
        """Return how far the frames have come.

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
        """Return whether packets arrived recently, including a key frame at which decoding can start."""
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
        """Close the rings and boards."""
        for reader in (self._frames, self._results, self._sentry, self._status, self._packets):
            if reader is not None:
                reader.close()


class PipelineWatch(Closing):
    """Watches all cameras of a node; reports where one is stalled, and restarts the process at fault."""

    def __init__(self, config: Config, processes: Mapping[str, ManagedProcess]) -> None:
        """Prepare the watch.

        Args:
            config: The configuration of the node.
            processes: The processes of this supervisor, by name.
        """
        # Not before the supervisor has set up its metric files
        from tridetr.telemetry import metrics

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
        self._at_fault_s: dict[str, float] = {}  # when each process was last at fault
        self._counters: Counters | None = None  # read once in a look, if a camera is stalled
        self._endpoint = 0
        self._serves_since_s = math.inf
        for gauge in self._gauges.values():
            gauge.set(0)

    def look(self, now_s: float) -> None:
        """Check all cameras; call it about once a second.

        Args:
            now_s: Monotonic time [s].
        """
        at_fault: set[str] = set()
        self._counters = None
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
                # The moment without a fault that follows each restart does not reset the patience
                if now_s - self._at_fault_s.get(name, -math.inf) > self._patience_s.get(name, 0.0):
                    self._patience_s.pop(name, None)
                with contextlib.suppress(OSError):
                    heartbeat.beat_for(self._config.run_dir, heartbeat.progress_of(name))

    def _look_at_server(self, now_s: float) -> None:
        """Note when the embedded server last published its address; before that, its own watcher handles it."""
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
                logger.info("%s arrive again", stage.value, extra={"camera": camera})
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
            if section.source.kind == "file":
                return math.inf  # played at its own pace, which may be that of a time lapse
            slowest_fps = min(config.sentry_for(camera).standby_fps, section.fps or math.inf)
            return max(PATIENCE_S, section.timeout_s + 5, 5 / slowest_fps)
        if stage is Stage.RESULTS:  # the cameras take turns
            return max(PATIENCE_S, config.triton.infer_timeout_s + 5) + len(config.cameras)
        return PATIENCE_S

    def _culprit(self, camera: str, stage: Stage) -> tuple[str, bool]:
        """Return the process at which the frames are stuck, and whether it reports the reason itself."""
        if stage is Stage.FRAMES:
            if self._config.cameras[camera].decode == "gpu":
                return "gpu", self._reports("tridetr_decoder_blocked", camera)
            return f"capture {camera}", False
        if stage is Stage.DECISIONS:
            return "controller", False
        if not self._reports("tridetr_detector_blocked", camera):
            return "detector", False
        return ("detector" if self._config.triton.url else TRITON), True

    def _reports(self, gauge: str, camera: str) -> bool:
        """Return whether a process has set a gauge of a camera."""
        if self._counters is None:
            self._counters = Counters.read(self._config.run_dir / "metrics")
        return bool(self._counters.total(gauge, camera=camera))

    def close(self) -> None:
        """Close all rings and boards."""
        for eyes in self._eyes.values():
            eyes.close()
