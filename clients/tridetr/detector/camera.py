"""One camera's loop: newest frame, inference in place, result; one frame in flight."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

from tridetr.config import Config
from tridetr.detector.selection import Selection
from tridetr.detector.session import Session
from tridetr.errors import ShmError, TritonError
from tridetr.shm.detections import DetectionWriter, ResultStamp
from tridetr.shm.frames import FrameLease, FrameReader, FrameStamp, RegionKey
from tridetr.telemetry import metrics
from tridetr.triton.client import Prediction
from tridetr.triton.errors import ModelUnavailable, RegionNotRegistered

logger = logging.getLogger("tridetr.detector")

IDLE_S = 1.0  # without a wake-up: look for a ring that was made anew
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0  # after failed inferences


class CameraDetector:
    """Brings the frames of one camera to the model."""

    def __init__(self, config: Config, camera: str, session: Session) -> None:
        """Open the ring's wake-up queue and the result ring.

        Raises:
            ShmError: a limit of the system, or another detector runs.
        """
        self._camera = camera
        self._session = session
        self._wanted = config.detect_for(camera)
        self._frames = FrameReader(config.instance, camera, "detector")
        self._results = DetectionWriter(config.instance, camera)
        self._woken = asyncio.Event()
        self._registered: tuple[int, RegionKey] | None = None  # (connection, region)
        self._connection = 0
        self._selection: Selection | None = None
        self._pause_s = FIRST_PAUSE_S
        self._fault = ""

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            ModelError: the model does not keep the contract or lacks a wanted class.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._frames.wakeup.fileno(), self._wake)
        try:
            await self._connect()
            after = 0
            while True:
                lease = self._frames.lease_newest(after)
                if lease is None:
                    await self._wait()
                    continue
                with lease:
                    self._count_superseded(lease.sequence, after)
                    after = lease.sequence
                    await self._process(lease)
        finally:
            loop.remove_reader(self._frames.wakeup.fileno())

    def close(self) -> None:
        """Let go of the rings; no inference may be under way."""
        self._frames.close()
        self._results.close()

    def _wake(self) -> None:
        self._frames.wakeup.drain()
        self._woken.set()

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), IDLE_S)
        except asyncio.TimeoutError:
            self._frames.forget_if_removed()
        self._woken.clear()

    def _count_superseded(self, sequence: int, after: int) -> None:
        if after and sequence > after + 1:
            skipped = sequence - after - 1
            metrics.FRAMES_SKIPPED.labels(self._camera, "superseded").inc(skipped)

    async def _connect(self) -> None:
        model = await self._session.ready(self._connection)
        self._connection = self._session.connection
        score = self._wanted.min_score
        self._selection = Selection(
            self._camera,
            model.classes,
            self._wanted.classes,
            model.default_score if score is None else score,
        )

    async def _process(self, lease: FrameLease) -> None:
        """Infer and publish one frame; a lossless one is tried until it succeeds."""
        taken_ns = time.monotonic_ns()
        try:
            stamp = lease.stamp
        except ShmError as error:
            self._count_error("damaged", str(error))
            return
        while True:
            try:
                await self._register(lease.region)
                start_ns = time.monotonic_ns()
                trace = stamp.trace
                prediction = await self._session.client.infer(
                    lease,
                    request_id=f"{trace.trace_id:032x}" if trace else "",
                    traceparent=trace.traceparent if trace else None,
                )
                end_ns = time.monotonic_ns()
                break
            except RegionNotRegistered:
                self._registered = None
                metrics.INFERENCE_ERRORS.labels(self._camera, "region_not_registered").inc()
                continue
            except ModelUnavailable as error:
                self._count_error("unavailable", str(error))
                await self._pause()
                await self._connect()
            except TritonError as error:
                self._count_error("failed", str(error))
                await self._pause()
            if not stamp.lossless:
                metrics.FRAMES_SKIPPED.labels(self._camera, "error").inc()
                return
        self._pause_s = FIRST_PAUSE_S
        if self._fault:
            logger.info("inference works again", extra={"camera": self._camera})
            self._fault = ""
        self._publish(lease, stamp, prediction, (taken_ns, start_ns, end_ns))

    async def _register(self, region: RegionKey) -> None:
        """Make the ring known to the server; forget the ring of the generation before."""
        if self._registered == (self._connection, region):
            return
        before, self._registered = self._registered, None
        await self._session.client.register(region)
        self._registered = (self._connection, region)
        if before and before[0] == self._connection and before[1].shm_name != region.shm_name:
            await self._session.client.unregister(before[1])

    def _publish(
        self,
        lease: FrameLease,
        stamp: FrameStamp,
        prediction: Prediction,
        times_ns: tuple[int, int, int],
    ) -> None:
        selection, model = self._selection, self._session.model
        if selection is None or model is None:
            return
        found = selection.apply(prediction.boxes, prediction.scores, prediction.classes)
        taken_ns, start_ns, end_ns = times_ns
        published_ns = time.monotonic_ns()
        result = ResultStamp(
            frame_number=stamp.frame_number,
            frame_sequence=lease.sequence,
            width=lease.width,
            height=lease.height,
            capture_monotonic_ns=stamp.capture_monotonic_ns,
            capture_unix_ns=stamp.capture_unix_ns,
            lossless=stamp.lossless,
            taken_ns=taken_ns,
            infer_start_ns=start_ns,
            infer_end_ns=end_ns,
            published_ns=published_ns,
            model_name=model.name,
            model_version=model.version,
            trace=stamp.trace,
        )
        try:
            self._results.publish(result, found)
        except ShmError as error:
            self._count_error("result_ring_full", str(error))
            return
        camera = self._camera
        metrics.FRAMES_INFERRED.labels(camera).inc()
        metrics.LAST_RESULT.labels(camera).set(time.time())
        metrics.INFERENCE_SECONDS.labels(camera).observe((end_ns - start_ns) / 1e9)
        metrics.TOTAL_SECONDS.labels(camera).observe((published_ns - taken_ns) / 1e9)
        if not stamp.lossless:
            age_s = (taken_ns - stamp.capture_monotonic_ns) / 1e9
            metrics.FRAME_AGE_SECONDS.labels(camera).observe(age_s)
        for class_id, count in Counter(found["class_id"].tolist()).items():
            name = selection.names.get(class_id, str(class_id))
            metrics.DETECTIONS.labels(camera, name).inc(count)

    def _count_error(self, reason: str, text: str) -> None:
        """Count every fault, log each new one once."""
        metrics.INFERENCE_ERRORS.labels(self._camera, reason).inc()
        if reason != self._fault:
            self._fault = reason
            logger.warning("no result: %s", text, extra={"camera": self._camera})

    async def _pause(self) -> None:
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
