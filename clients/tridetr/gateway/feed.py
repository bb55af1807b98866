"""Feed one camera to all its viewers: read its rings only while there are viewers, and encode each frame once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from tridetr import jpeg
from tridetr.errors import ShmError
from tridetr.gateway import facts, message
from tridetr.gateway.encode import Color, EncodedImage, encode, small_size
from tridetr.gateway.readers import CameraReaders
from tridetr.gateway.video_track import video_facts
from tridetr.gateway.viewer_session import Size, Viewer, start_counters
from tridetr.served_model import Labels
from tridetr.shm.frames import ColorRange, FrameLease, FrameStamp, TraceContext
from tridetr.shm.wakeup import Wakeup
from tridetr.telemetry import metrics, tracing

logger = logging.getLogger("tridetr.gateway")
TICK_S = 1.0
_KEY_FRAME_S = 10.0  # longest key frame interval that cameras commonly use


class CameraFeed:
    """Reads a camera's rings and posts messages to its viewers; idle without viewers."""

    def __init__(
        self,
        camera: str,
        readers: CameraReaders,
        labels: Labels,
        pool: Executor,
        judge: Callable[[], tuple[dict[str, Any], dict[str, Any]]],
        *,
        max_fps: float,
        quality: int,
        withheld: str = "",
    ) -> None:
        self.camera = camera
        self.viewers: set[Viewer] = set()
        start_counters(camera)
        self._readers = readers
        self._labels = labels
        self._pool = pool
        self._judge = judge  # returns the headers of the `watching` and `node` messages
        self._interval = 1 / max_fps
        self._quality = quality
        self._withheld = withheld  # why the camera's own video is not sent; empty = it is
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._frame_wake = asyncio.Event()
        self._fact_wake = asyncio.Event()
        self._video: dict[str, Any] | None = None  # facts of the camera's own video, as last seen
        self._video_seen = float("-inf")
        self._stream_ns = 0  # when the stream was last checked
        self._sequence = 0  # sequence of the newest frame that was posted
        self._result = 0  # sequence of the newest result that was posted
        self._last: dict[str, bytes] = {}  # newest message of each kind except frames
        self._headers: dict[str, dict[str, Any]] = {}  # their headers, to detect changes
        self._encoded: dict[Size, bytes] = {}  # messages of the frame `_sequence`
        self._trace: TraceContext | None = None  # trace of the frame `_sequence`

    def join(self, viewer: Viewer) -> None:
        """Add a viewer; the first one starts the reading."""
        self.viewers.add(viewer)
        metrics.VIEWERS.labels(self.camera).set(len(self.viewers))
        if not self._tasks:
            self._start()
        for kind, packed in self._last.items():
            viewer.post(kind, packed)
        self.refresh()

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer; the last one stops the reading."""
        self.viewers.discard(viewer)
        metrics.VIEWERS.labels(self.camera).set(len(self.viewers))
        if not self.viewers and self._tasks:
            self._stop()

    def refresh(self) -> None:
        """Send the newest frame to viewers that do not have it in their size yet, even if it is not new."""
        self._frame_wake.set()

    def stream_facts(self) -> dict[str, Any]:
        """Return the header of a `stream` message: the camera's own video, if it is available to viewers."""
        now = time.monotonic()
        video = None if self._withheld else video_facts(self._readers.packets.newest_info())
        if video is not None:
            self._video, self._video_seen = video, now
        elif now - self._video_seen < _KEY_FRAME_S:
            video = self._video  # a restarted capture process has to wait for a key frame
        return {"type": "stream", "video": video, "reason": self._withheld}

    def forget_removed(self) -> None:
        """Close packet rings whose files were removed."""
        for viewer in self.viewers:
            viewer.forget_removed()

    async def close(self) -> None:
        """Stop the reading and wait until no thread uses a slot."""
        if self._tasks:
            self._stop()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        for wakeup, react in self._wakeups():
            loop.add_reader(wakeup.fileno(), _waker(wakeup, react))
        self._frame_wake.set()
        self._fact_wake.set()
        self._tasks = [
            asyncio.create_task(self._forever(self._facts)),
            asyncio.create_task(self._forever(self._frames)),
        ]

    def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        for wakeup, _ in self._wakeups():
            loop.remove_reader(wakeup.fileno())
        for task in self._tasks:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        self._tasks = []
        self._last.clear()
        self._headers.clear()
        self._encoded.clear()
        self._sequence = self._result = self._stream_ns = 0

    def _wakeups(self) -> list[tuple[Wakeup, Callable[[], None]]]:
        readers = self._readers
        view = readers.view.wakeup if readers.view is not None else None
        pairs = (
            (readers.frames.wakeup, self._frame_wake.set),
            (readers.detections.wakeup, self._fact_wake.set),
            (readers.sentry.wakeup, self._fact_wake.set),
            (readers.packets.wakeup, self._packets_came),
            (view, self._packets_came),
        )
        return [(wakeup, react) for wakeup, react in pairs if wakeup is not None]

    def _packets_came(self) -> None:
        for viewer in self.viewers:
            viewer.packets_came()

    async def _forever(self, work: Callable[[], Any]) -> None:
        while True:
            try:
                await work()
            except ShmError as error:
                # A damaged slot or ring: the next one may be valid.
                logger.warning("%s", error, extra={"camera": self.camera})
                await asyncio.sleep(TICK_S)
            # An unexpected failure must not end the task that all viewers of the camera depend on.
            except Exception:
                logger.exception("the feed of a camera failed", extra={"camera": self.camera})
                await asyncio.sleep(TICK_S)

    async def _facts(self) -> None:
        await _wait(self._fact_wake)
        now = time.monotonic_ns()
        self._post_changed("status", facts.status(self._readers.status.read(), now))
        self._post_changed("state", facts.state(self._readers.sentry.read(), now))
        if now - self._stream_ns >= TICK_S * 1e9:
            self._stream_ns = now
            self._post_changed("stream", self.stream_facts())
        watching, node = self._judge()
        self._post_changed("watching", watching)
        self._post_changed("node", node)
        lease = self._readers.detections.lease_newest(self._result)
        if lease is not None:
            with lease:
                self._result = lease.sequence
                header, trace = facts.detections(lease, self._labels), lease.stamp.trace
            self._post_changed("detections", header, trace)

    def _post_changed(
        self, kind: str, header: dict[str, Any], trace: TraceContext | None = None
    ) -> None:
        """Post a message to all viewers unless its header is the same as that of the last one."""
        if self._headers.get(kind) == header:
            return
        self._headers[kind] = header
        self._last[kind] = packed = message.pack(header)
        for viewer in self.viewers:
            viewer.post(kind, packed, trace)

    async def _frames(self) -> None:
        # The timeout also finds a recreated ring, whose queue may not have been signalled.
        await _wait(self._frame_wake)
        started = time.monotonic()
        wanted = self._wanted()
        if not wanted:
            return
        lease = self._readers.frames.lease_newest(self._sequence)
        if lease is not None:
            await self._encode(lease, wanted)
        elif missing := wanted - self._encoded.keys():
            lease = self._readers.frames.lease_newest()
            if lease is not None:
                await self._encode(lease, missing)
        self._post()
        await asyncio.sleep(max(0.0, self._interval - (time.monotonic() - started)))

    def _wanted(self) -> set[Size]:
        return {viewer.size for viewer in self.viewers if viewer.wants_pictures}

    def _post(self) -> None:
        for viewer in self.viewers:
            packed = self._encoded.get(viewer.size)
            key = (self._sequence, viewer.size)
            if packed is not None and viewer.wants_pictures and viewer.shown != key:
                viewer.shown = key
                viewer.post("frame", packed, self._trace)

    async def _encode(self, lease: FrameLease, sizes: set[Size]) -> None:
        """Encode a frame in the given sizes; the lease is released when no thread uses the planes any more."""
        with contextlib.ExitStack() as stack:
            stack.callback(lease.release)
            sequence, stamp = lease.sequence, lease.stamp
            width, height = lease.width, lease.height
            images: dict[Size, EncodedImage] = {}
            for size in sorted(sizes):
                fits = small_size(width, height) == (width, height)
                size_of_work: Size = "full" if fits else size
                if size_of_work not in images:
                    with tracing.step("encode", stamp.trace, camera=self.camera):
                        images[size_of_work] = await self._image(lease, stamp, size_of_work)
                images[size] = images[size_of_work]
        if sequence != self._sequence:
            self._encoded.clear()
            self._sequence, self._trace = sequence, stamp.trace
        for size in sizes:
            header = facts.frame(sequence, stamp, width, height, images[size])
            self._encoded[size] = message.pack(header, images[size].jpeg)

    async def _image(self, lease: FrameLease, stamp: FrameStamp, size: Size) -> EncodedImage:
        """Return the encoded picture: the camera's original JPEG if possible."""
        if size == "full" and (
            original := jpeg.for_browser(bytes(lease.jpeg), lease.width, lease.height)
        ):
            return EncodedImage(original, lease.width, lease.height, is_original=True)
        metrics.FRAMES_ENCODED.labels(self.camera).inc()
        return await encode_lease(
            self._pool, lease, stamp, quality=self._quality, small=size == "small"
        )


async def encode_lease(
    pool: Executor, lease: FrameLease, stamp: FrameStamp, *, quality: int, small: bool
) -> EncodedImage:
    """Encode a leased frame in a thread; the caller may release the lease once this returns or raises."""
    color = Color(stamp.color_range is ColorRange.FULL, stamp.color_matrix.name)

    def work() -> EncodedImage:
        return encode(lease, color, quality=quality, small=small)

    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        # The thread still reads the planes: the slot must be kept until it is done (a few milliseconds).
        await asyncio.wait([future])
        raise


async def _wait(event: asyncio.Event) -> None:
    """Wait for the event for at most TICK_S, then clear it."""
    # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that arrives together with the event.
    timer = asyncio.get_running_loop().call_later(TICK_S, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
    event.clear()


def _waker(wakeup: Wakeup, react: Callable[[], None]) -> Callable[[], None]:
    def wake() -> None:
        wakeup.drain()
        react()

    return wake
