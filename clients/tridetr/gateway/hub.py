"""The hub: feeds, readers and health of all cameras, shared by all viewers and probes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tridetr.config import Config
from tridetr.errors import ShmError
from tridetr.gateway import facts
from tridetr.gateway.feed import TICK_S, CameraFeed
from tridetr.gateway.node_metrics import Broker
from tridetr.gateway.readers import CameraReaders
from tridetr.gateway.video_track import VideoTrack, why_withheld
from tridetr.gateway.viewer_session import Size, Viewer
from tridetr.gateway.watch import CameraWatch
from tridetr.served_model import Labels
from tridetr.telemetry import metrics
from tridetr.telemetry.logs import Limiter

logger = logging.getLogger("tridetr.gateway")
_ENCODERS = 2  # encoder threads; more would take cores away from the detector


class Hub:
    """Opens the readers of all cameras. Use it in one event loop, and close it at the end."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.labels = Labels(config.run_dir)
        self.pool = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="encode")
        self.readers: dict[str, CameraReaders] = {}
        self.feeds: dict[str, CameraFeed] = {}
        self.watches: dict[str, CameraWatch] = {}
        self.broker = Broker(config.run_dir)
        self._players = 0
        self._ticker: asyncio.Task[None] | None = None
        self._lines = Limiter(60.0)
        self._damage = Limiter(10.0)
        try:
            for name, section in config.cameras.items():
                self.readers[name] = readers = CameraReaders(
                    config.instance, name, has_view=section.view is not None
                )
                self.watches[name] = watch = CameraWatch(config, name, readers, self.labels)
                self.feeds[name] = CameraFeed(
                    name,
                    readers,
                    self.labels,
                    self.pool,
                    partial(self._verdict, watch),
                    max_fps=config.gateway.max_fps,
                    quality=config.gateway.jpeg_quality,
                    withheld=why_withheld(config, name),
                )
        except BaseException:
            self._close_readers()
            raise

    @property
    def viewer_count(self) -> int:
        """Number of open WebSockets and HTTP streams of all cameras."""
        return sum(len(feed.viewers) for feed in self.feeds.values()) + self._players

    @contextlib.contextmanager
    def streaming(self) -> Iterator[None]:
        """Count a client of an MP4 stream while the context is open."""
        self._players += 1
        try:
            yield
        finally:
            self._players -= 1

    def _verdict(self, watch: CameraWatch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the headers of the `watching` and `node` messages of a camera."""
        return watch.look(), self.broker.facts

    def start(self) -> None:
        """Start checking the rings once a second."""
        for name in self.feeds:
            metrics.VIEWERS.labels(name).set(0)  # a killed gateway leaves its last value behind
        self._ticker = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Stop all feeds and close all readers."""
        if self._ticker is not None:
            self._ticker.cancel()
        await asyncio.gather(*(feed.close() for feed in self.feeds.values()))
        self._close_readers()

    def new_viewer(self, camera: str, size: Size) -> Viewer:
        """Return a new viewer of a camera; it receives messages after ``feeds[camera].join``."""
        return Viewer(
            camera,
            size,
            self.config.gateway.max_fps,
            self.feeds[camera].refresh,
            self._track_of(camera),
            has_view=self.config.cameras[camera].view is not None,
        )

    def _track_of(self, camera: str) -> Callable[[bool], VideoTrack] | None:
        """Return a function that opens the camera's own video; None if the video is withheld.

        The function's argument selects whether to open the second stream too.
        """
        if why_withheld(self.config, camera):
            return None
        return lambda view: VideoTrack(self.config.instance, camera, view=view)

    def camera_facts(self, camera: str) -> dict[str, Any]:
        """Return the current facts about a camera for ``/api/cameras``; ages in seconds, None = never seen."""
        readers, now = self.readers[camera], time.monotonic_ns()
        try:
            frame, newest = readers.newest_frame(), readers.newest_result()
            status = facts.status(readers.status.read(), now)
            state = facts.state(readers.sentry.read(), now)
        except ShmError as error:
            if self._damage.allow(time.monotonic()) is not None:  # anyone can request /readyz
                logger.warning("%s", error, extra={"camera": camera})
            frame = newest = None
            status = facts.status(None, now) | {"message": "the camera's shared memory is damaged"}
            state = facts.state(None, now)
        status.pop("type")
        state.pop("type")
        watching = self.watches[camera].look()
        watching.pop("type")
        result, count = newest or (None, None)
        return {
            "name": camera,
            "status": status,
            "state": state,
            "frame_number": frame.stamp.frame_number if frame else None,
            "watching": watching,
            "frame_age_s": self.watches[camera].frame_age_s(frame, now),
            "width": frame.width if frame else None,
            "height": frame.height if frame else None,
            "result_age_s": facts.age_s(result.published_ns, now) if result else None,
            "detections": count,
            "infer_ms": facts.infer_ms(result) if result else None,
            "model": facts.model(result) if result else None,
            "viewers": len(self.feeds[camera].viewers),
        }

    def readiness(self, camera: str) -> dict[str, Any]:
        """Return for ``/readyz`` whether a camera is watched and, if not, why."""
        known = self.camera_facts(camera)
        watching = known["watching"]
        watch = self.watches[camera]
        frame_age, result_age = known["frame_age_s"], known["result_age_s"]
        return {
            "frame_age_s": frame_age,
            "frame_limit_s": watch.frame_limit_s,
            "result_age_s": result_age,
            "result_limit_s": watch.result_limit_s,
            "camera": known["status"]["state"],
            "ready": watching["watching"],
            "part": watching["part"],
            "reason": watching["reason"],
            "since_unix_ms": watching["since_unix_ms"],
        }

    def old_frame_s(self, camera: str) -> float | None:
        """Return the age in seconds of a camera's newest frame if it is too old to be shown as live; else None."""
        watch, frame = self.watches[camera], self.readers[camera].newest_frame()
        age_s = watch.frame_age_s(frame, time.monotonic_ns())
        return age_s if age_s is not None and age_s > watch.frame_limit_s else None

    async def _tick(self) -> None:
        while True:
            try:
                await self._check_rings()
            # The next attempt may succeed; without this task, recreated rings would never be found.
            except Exception:
                if self._lines.allow(time.monotonic()) is not None:
                    logger.exception("checking the rings and the broker failed; retrying")
            await asyncio.sleep(TICK_S)

    async def _check_rings(self) -> None:
        self.labels.refresh()
        for camera, readers in self.readers.items():
            with contextlib.suppress(ShmError):  # reported when the camera is next requested
                readers.forget_removed()
                self.feeds[camera].forget_removed()
            self.watches[camera].look()
        if self.viewer_count:
            await self.broker.refresh()

    def _close_readers(self) -> None:
        for readers in self.readers.values():
            readers.close()
        self.pool.shutdown(wait=True, cancel_futures=True)
