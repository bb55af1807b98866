"""The inference loop of one camera: lease the newest frame, infer it, publish the result."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import numpy as np

from tridetr.config import DetectSection
from tridetr.detector.account import CameraMetrics, FrameAccount
from tridetr.detector.color import RangeCheck
from tridetr.detector.frames import AnyFrame, NewestFrames
from tridetr.detector.gate import Answer, MotionGate
from tridetr.detector.selection import Selection
from tridetr.detector.server import Server, pause_s
from tridetr.errors import ModelUnavailable, RegionNotRegistered, ShmError, TritonError
from tridetr.model_card import ModelInfo
from tridetr.shm.detections import DetectionReader, DetectionWriter, ResultStamp
from tridetr.shm.device_region import AnyRegion
from tridetr.shm.frames import DeviceFrameLease
from tridetr.shm.wakeup import Wakeup
from tridetr.telemetry import tracing
from tridetr.telemetry.logs import Limiter
from tridetr.triton.answers import are_corners
from tridetr.triton.client import Prediction

log = logging.getLogger("tridetr.detector")

_INVALID_BOXES_EVERY_S = 3600.0  # between two log lines about them


class CameraDetector:
    """Infers the frames of one camera, one at a time, until stopped.

    A frame is done only when its result is published. After an error the newest frame is leased again, which may be the
    same one. A lossless source waits for the decision on each frame, so it loses none.

    Attributes:
        in_flight: Whether the server is working on a frame.
    """

    def __init__(
        self,
        instance: str,
        camera: str,
        section: DetectSection,
        server: Server,
        slow_s: float,
        alarming: Sequence[str] = (),
    ) -> None:
        """Open the rings of a camera.

        Args:
            instance: Instance name of the node.
            camera: Name of the camera.
            section: The camera's `detect` section: scores, classes, motion gate.
            server: The inference server.
            slow_s: Answers that take longer than this are logged and counted as slow, but still waited for.
            alarming: Names of the classes that can trigger the camera's alarm.

        Raises:
            ShmError: Another detector runs, or a limit of the system is reached.
        """
        self.camera = camera
        self.in_flight = False
        self._section = section
        self._server = server
        self._slow_s = slow_s
        self._selection: Selection | None = None
        self._alarming = alarming
        self._alarming_ids: frozenset[int] = frozenset()
        self._gate = MotionGate(instance, camera, section)
        self._model = ("", "")
        self._metrics = CameraMetrics(camera)
        self._account = FrameAccount(_last_result(instance, camera))
        # 0: infer the newest frame even if it has a result, which may not have been read.
        self._after = 0
        self._region: AnyRegion | None = None
        self._damaged = 0
        self._failures = 0
        self._pause_s = 0.0
        self._logged: str | None = None
        self._range = RangeCheck(camera)
        self._invalid_boxes = Limiter(_INVALID_BOXES_EVERY_S)
        self._stopping = False
        self._woken = asyncio.Event()
        self._extra = {"camera": camera}
        self._writer = DetectionWriter(instance, camera)
        try:
            self._frames = NewestFrames(instance, camera)
        except ShmError:
            self._writer.close()
            raise

    def use_model(self, info: ModelInfo) -> None:
        """Use the model that serves from now on.

        Raises:
            ConfigError: The camera wants classes that the model does not know.
        """
        score = self._section.min_score
        least = info.default_score if score is None else score
        self._selection = Selection(least, self._section.classes, info.classes)
        self._model = (info.name, info.version)
        self._metrics.name_classes(info.classes)
        self._alarming_ids = frozenset(
            info.classes[name] for name in self._alarming if name in info.classes
        )
        self._gate.forget()
        self._range.use_model(info.color)

    def tick(self) -> None:
        """Check for a new frame without a wake-up; call this about once a second."""
        self._frames.forget_if_removed()
        self._woken.set()

    async def run(self) -> None:
        """Infer frames until stopped.

        Raises:
            ConfigError: The camera wants classes that the model does not know.
            ModelError: The model does not conform to the contract.
            CudaError: ``device`` is `cuda`, and the server cannot open GPU memory.
        """
        loop = asyncio.get_running_loop()
        for wakeup in self._frames.wakeups:
            loop.add_reader(wakeup.fileno(), self._wake, wakeup)
        try:
            self._woken.set()
            while not self._stopping:
                await self._woken.wait()
                self._woken.clear()
                while not self._stopping and await self._step():
                    pass
        finally:
            for wakeup in self._frames.wakeups:
                loop.remove_reader(wakeup.fileno())

    def stop(self) -> None:
        """Make :meth:`run` return after the frame in flight."""
        self._stopping = True
        self._woken.set()

    def close(self) -> None:
        """Release all rings."""
        self._frames.close()
        self._writer.close()
        self._gate.close()

    def _wake(self, wakeup: Wakeup) -> None:
        wakeup.drain()
        self._woken.set()

    async def _step(self) -> bool:
        """Infer the newest frame; return False if there is none."""
        if not self._server.is_up:
            self._metrics.blocked(True)
            await self._server.available()
        sequence = 0
        try:
            async with self._server.turns:
                lease = self._frames.lease(self._after, gpu=self._server.regions.may_open_device)
                if lease is None:
                    self._note_damage()
                    return False
                with lease:
                    sequence = lease.sequence
                    known = self._known_answer(lease)
                    if known is not None:
                        self._repeat(lease, known)
                    elif not await self._infer(lease):
                        return await self._infer_host()
        except RegionNotRegistered as error:
            self._server.restarted()
            self._failed("region", sequence, error, quietly=not self._failures)
        except ModelUnavailable as error:
            self._server.failed(error)  # logs it once, and makes all cameras wait
            self._failed("unavailable", sequence, error, quietly=True)
        except TritonError as error:
            self._failed("refused", sequence, error)
        except ShmError as error:
            self._failed("shared_memory", sequence, error)
        else:
            self._succeeded()
            return True
        await asyncio.sleep(self._pause_s)
        return True

    def _known_answer(self, lease: AnyFrame) -> Answer | None:
        """Return the earlier answer if it is still valid for a frame; None: run inference."""
        if not isinstance(lease, DeviceFrameLease):
            return self._gate.answer_for(lease)
        if not self._gate.is_on:
            return None
        host = self._frames.host_of(lease)
        if host is None:
            self._gate.unseen()
            return None
        with host:
            return self._gate.answer_for(host)

    async def _infer_host(self) -> bool:
        """Infer the newest frame in host memory, because the server cannot read GPU memory; False if there is none."""
        lease = self._frames.host.lease_newest(self._after)
        if lease is None:
            return False
        with lease:
            self._gate.unseen()
            await self._infer(lease)
        self._succeeded()
        return True

    async def _infer(self, lease: AnyFrame) -> bool:
        """Infer a leased frame and publish the result; returns when the server no longer reads the frame.

        Returns:
            False if the frame is in GPU memory that the server cannot read.
        """
        taken_ns = time.monotonic_ns()
        frame = lease.stamp
        self._range.check(frame.color_range)
        place = await self._server.regions.place(lease)
        if place is None:
            return False
        before, self._region = self._region, place.region
        if before is not None and before.shm_name != place.region.shm_name:
            self._server.regions.retire(before)
        detect = tracing.begin("detect", frame.trace, taken_ns, camera=self.camera)
        trace = detect.context if detect else frame.trace
        infer = tracing.begin("infer", trace, time.monotonic_ns(), model=self._model[0])
        request = infer.context if infer else trace
        slow = asyncio.get_running_loop().call_later(self._slow_s, self._log_slow)
        self.in_flight = True
        try:
            start_ns, answer, end_ns = await self._server.infer(
                place, request.traceparent if request else None
            )
        finally:
            self.in_flight = False
            slow.cancel()
        assert self._selection is not None  # set before the server counts as available
        self._note_invalid_boxes(answer)
        found = self._selection(answer.boxes, answer.scores, answer.classes)
        result = ResultStamp(
            frame_number=frame.frame_number,
            frame_sequence=lease.sequence,
            width=lease.width,
            height=lease.height,
            capture_monotonic_ns=frame.capture_monotonic_ns,
            capture_unix_ns=frame.capture_unix_ns,
            lossless=frame.lossless,
            taken_ns=taken_ns,
            infer_start_ns=start_ns,
            infer_end_ns=end_ns,
            published_ns=time.monotonic_ns(),
            model_name=self._model[0],
            model_version=self._model[1],
            trace=trace,
        )
        self._writer.publish(result, found)
        self._after = lease.sequence
        self._metrics.skipped(*self._account.inferred(lease.sequence))
        self._metrics.published(result, found)
        self._gate.inferred(result, found, self._alarming_ids, self._likeness(answer))
        if infer and detect:
            infer.end(end_ns)
            tracing.record("post", trace, end_ns, result.published_ns)
            detect.end(result.published_ns, detections=len(found))
        return True

    def _likeness(self, answer: Prediction) -> float:
        """Return the best score of the alarming classes, relative to the minimum score of a detection."""
        assert self._selection is not None
        alarming = np.isin(answer.classes, list(self._alarming_ids))
        best = float(answer.scores[alarming].max(initial=0.0))
        return best / max(self._selection.min_score, 1e-6)

    def _repeat(self, lease: AnyFrame, known: Answer) -> None:
        """Publish the answer to an earlier frame for this one, which is unchanged."""
        result = known.stamp_for(lease, time.monotonic_ns())
        self._writer.publish(result, known.rows)
        self._after = lease.sequence
        self._metrics.skipped(*self._account.inferred(lease.sequence))
        self._metrics.repeated(result)

    def _succeeded(self) -> None:
        if self._logged is not None:
            log.info("inference results are available again", extra=self._extra)
        self._logged, self._failures, self._pause_s = None, 0, 0.0
        self._metrics.blocked(False)

    def _failed(
        self, reason: str, sequence: int, error: Exception, *, quietly: bool = False
    ) -> None:
        self._metrics.error(reason)
        self._metrics.blocked(True)
        self._account.failed(sequence)
        self._gate.forget()
        self._failures += 1
        # No pause if the server makes all cameras wait anyway, or was only restarted.
        self._pause_s = 0.0 if quietly else pause_s(self._failures)
        if not quietly and str(error) != self._logged:
            self._logged = str(error)
            log.warning("inference of a frame failed: %s", error, extra=self._extra)

    def _note_invalid_boxes(self, answer: Prediction) -> None:
        invalid = int((~are_corners(answer.boxes[answer.scores > 0])).sum())
        if not invalid:
            return
        self._metrics.boxes_invalid.inc(invalid)
        if self._invalid_boxes.allow(time.monotonic()) is not None:
            log.warning(
                "dropped boxes of the model that are inverted, NaN or infinite (tridetr_boxes_invalid_total counts "
                "them). Remedy if they are many: set model.precision: fp32, or use another model",
                extra=self._extra,
            )

    def _log_slow(self) -> None:
        self._metrics.error("slow")
        self._metrics.blocked(True)
        log.warning(
            "no answer from the inference server for %g s; still waiting",
            self._slow_s,
            extra=self._extra,
        )

    def _note_damage(self) -> None:
        damaged = self._frames.host.damaged
        if damaged != self._damaged:
            self._metrics.error("damaged")
            if not self._damaged:
                log.warning(
                    "a ring slot contains an invalid frame, which is skipped: %s",
                    self._frames.host.damage,
                    extra=self._extra,
                )
            self._damaged = damaged


def _last_result(instance: str, camera: str) -> int:
    """Return the sequence of the last frame that a previous detector published a result for; 0 = none."""
    with DetectionReader(instance, camera, None) as reader:
        lease = reader.lease_newest()
        if lease is None:
            return 0
        with lease:
            return lease.stamp.frame_sequence
