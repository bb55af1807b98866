"""All cameras of the node, for all viewers and probes."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tridetr.config import Config
from tridetr.errors import ShmError
from tridetr.gateway import facts
from tridetr.gateway.feed import TICK_S, CameraFeed
from tridetr.gateway.labels import Labels
from tridetr.gateway.readers import CameraReaders
from tridetr.gateway.session import Viewer
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.gateway")
_ENCODERS = 2  # threads: more would take cores from the detector


class Hub:
    """Opens the readers of every camera; use it in one event loop and close it in the end."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.labels = Labels(config.run_dir)
        self.pool = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="encode")
        self.readers: dict[str, CameraReaders] = {}
        self.feeds: dict[str, CameraFeed] = {}
        # Sequence of each camera's newest frame, and when it was first seen here (monotonic).
        self._seen: dict[str, tuple[int, int]] = {}
        self._ticker: asyncio.Task[None] | None = None
        try:
            for name in config.cameras:
                self.readers[name] = readers = CameraReaders(config.instance, name)
                self.feeds[name] = CameraFeed(
                    name,
                    readers,
                    self.labels,
                    self.pool,
                    max_fps=config.gateway.max_fps,
                    quality=config.gateway.jpeg_quality,
                )
        except BaseException:
            self._close_readers()
            raise

    @property
    def viewer_count(self) -> int:
        """Open WebSockets over all cameras."""
        return sum(len(feed.viewers) for feed in self.feeds.values())

    def start(self) -> None:
        """Begin to look at the rings once a second."""
        for name in self.feeds:
            metrics.VIEWERS.labels(name).set(0)  # a gateway that was killed left its last number
        self._ticker = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """End all feeds and free all readers."""
        if self._ticker is not None:
            self._ticker.cancel()
        await asyncio.gather(*(feed.close() for feed in self.feeds.values()))
        self._close_readers()

    def new_viewer(self, camera: str) -> Viewer:
        """Return a viewer of this camera; it takes part from ``feeds[camera].join`` on."""
        return Viewer(camera, self.config.gateway.max_fps, self.feeds[camera].refresh)

    def camera_facts(self, camera: str) -> dict[str, Any]:
        """Return what is known of a camera now; ages in seconds, None where nothing was ever seen."""
        readers, now = self.readers[camera], time.monotonic_ns()
        try:
            frame, result = readers.newest_frame(), readers.newest_result()
            status = facts.status(readers.status.read(), now)
            state = facts.state(readers.sentry.read(), now)
        except ShmError as error:
            logger.warning("%s", error, extra={"camera": camera})
            frame = result = None
            status = facts.status(None, now) | {"message": "the camera's shared memory is damaged"}
            state = facts.state(None, now)
        status.pop("type")
        state.pop("type")
        frame_age = None
        if frame is not None:
            # Media time tells nothing about now: there the age counts from when the frame was first seen here.
            frame_age = facts.age_s(
                self._first_seen(camera, frame.sequence, now)
                if frame.lossless
                else frame.capture_monotonic_ns,
                now,
            )
        return {
            "name": camera,
            "status": status,
            "state": state,
            "frame_number": frame.frame_number if frame else None,
            "frame_age_s": frame_age,
            "width": frame.width if frame else None,
            "height": frame.height if frame else None,
            "result_age_s": facts.age_s(result.published_ns, now) if result else None,
            "detections": result.count if result else None,
            "infer_ms": round(result.infer_ms, 2) if result else None,
            "model": result.model if result else None,
            "viewers": len(self.feeds[camera].viewers),
        }

    def readiness(self, camera: str) -> dict[str, Any]:
        """Return how old the camera's newest frame and result are, and whether that is fresh enough."""
        known = self.camera_facts(camera)
        frame_limit = self.config.cameras[camera].timeout_s
        result_limit = self.config.sentry_for(camera).unknown_s
        frame_age, result_age = known["frame_age_s"], known["result_age_s"]
        return {
            "frame_age_s": frame_age,
            "frame_limit_s": frame_limit,
            "result_age_s": result_age,
            "result_limit_s": result_limit,
            "camera": known["status"]["state"],
            "ready": frame_age is not None
            and frame_age <= frame_limit
            and result_age is not None
            and result_age <= result_limit,
        }

    def _first_seen(self, camera: str, sequence: int, now: int) -> int:
        seen = self._seen.get(camera)
        if seen is None or seen[0] != sequence:
            self._seen[camera] = seen = (sequence, now)
        return seen[1]

    async def _tick(self) -> None:
        while True:
            self.labels.refresh()
            for camera, readers in self.readers.items():
                try:
                    readers.forget_removed()
                    frame = readers.newest_frame()
                except ShmError:
                    continue  # told whenever somebody asks for the camera
                if frame is not None:
                    self._first_seen(camera, frame.sequence, time.monotonic_ns())
            await asyncio.sleep(TICK_S)

    def _close_readers(self) -> None:
        for readers in self.readers.values():
            readers.close()
        self.pool.shutdown(wait=True, cancel_futures=True)
