"""One viewer: what it asked for, and the messages that wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from tridetr.gateway import message
from tridetr.gateway.limits import Bucket
from tridetr.gateway.video_track import VideoTrack
from tridetr.shm.values import TraceContext
from tridetr.telemetry import metrics, tracing

_PACKETS_PER_FRAME = 24  # of `window`: decoders hold packets back, and answer for several at once

Size = Literal["small", "full"]
Send = Callable[[bytes], Awaitable[None]]


class CommandError(Exception):
    """The viewer sent what it must not; ``code`` is the WebSocket close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def start_counters(camera: str) -> None:
    """Make a camera's metrics before anybody watches; the viewers of a gateway that died are gone."""
    for counter in (
        metrics.VIEWER_FRAMES,
        metrics.VIEWER_FRAMES_DROPPED,
        metrics.VIEWER_PACKETS,
        metrics.FRAMES_ENCODED,
    ):
        counter.labels(camera)
    metrics.VIEWERS.labels(camera).set(0)


class Viewer:
    """State of one WebSocket; used in the event loop only.

    Attributes:
        size: the picture it wants.
        paused: it wants no pictures now (hidden), but all the rest.
        shown: sequence and size of the frame that was posted last.
        frames_sent: frames that went to the socket.
    """

    def __init__(
        self,
        camera: str,
        max_fps: float,
        on_change: Callable[[], None],
        open_track: Callable[[bool], VideoTrack] | None = None,
        *,
        has_view: bool = False,
    ) -> None:
        self.size: Size = "full"
        self.paused = False
        self._open_track = open_track
        self._has_view = has_view
        self._track: VideoTrack | None = None
        self._is_view = False  # the track is of the second stream, too
        self._packets_sent = 0
        self._packets_acknowledged = 0
        self.shown: tuple[int, Size] | None = None
        self.frames_sent = 0
        self._window = 0
        self._acknowledged = 0
        self._camera = camera
        self._mailbox = Mailbox()
        self._traces: dict[str, TraceContext | None] = {}  # of the message of each kind that waits
        self._wake = asyncio.Event()
        self._on_change = on_change
        self._sent = metrics.VIEWER_FRAMES.labels(camera)
        self._video_sent = metrics.VIEWER_PACKETS.labels(camera)
        self._dropped = metrics.VIEWER_FRAMES_DROPPED.labels(camera)
        # One acknowledgement a frame, and some pings.
        self._commands = Bucket(rate=max_fps + 10, burst=2 * max_fps + 40)

    @property
    def wants_pictures(self) -> bool:
        """Whether it is shown pictures that are encoded here."""
        return not self.paused and self._track is None

    def packets_came(self) -> None:
        """Look for packets that can be sent."""
        if self._track is not None:
            self._wake.set()

    def forget_removed(self) -> None:
        """Let go of a packet ring whose file was removed."""
        if self._track is not None:
            self._track.forget_removed()
            self._wake.set()

    def close(self) -> None:
        """Let go of the packet ring."""
        if self._track is not None:
            self._track.close()
            self._track = None

    def post(self, kind: str, packed: bytes, trace: TraceContext | None = None) -> None:
        """Lay a message into the mailbox."""
        self._traces[kind] = trace
        if self._mailbox.put(kind, packed) and kind == "frame":
            self._dropped.inc()
        self._wake.set()

    async def pump(self, send: Send) -> None:
        """Send what comes, newest first of each kind, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (item := self._take()) is not None:
                kind, packed = item
                if kind == "frame":
                    self.frames_sent += 1
                    self._sent.inc()
                with tracing.step("send", self._traces.get(kind), camera=self._camera, kind=kind):
                    await send(packed)

    def handle(self, data: str | bytes | None) -> None:
        """Follow a command.

        Raises:
            CommandError: it is none, or there are too many.
        """
        if not self._commands.take(time.monotonic()):
            raise CommandError(1008, "too many commands")
        try:
            command = message.parse_command(data or b"")
        except message.MessageError as error:
            raise CommandError(1008 if isinstance(data, str) else 1003, str(error)) from error
        if isinstance(command, message.Ping):
            pong = {"type": "pong", "t": command.t, "server_unix_ms": time.time_ns() / 1e6}
            self.post("pong", message.pack(pong))
        elif isinstance(command, message.Ack):
            self._acknowledged = max(self._acknowledged, min(command.frames, self.frames_sent))
            packets = min(command.packets, self._packets_sent)
            self._packets_acknowledged = max(self._packets_acknowledged, packets)
            self._wake.set()
        else:
            self._follow(command)

    def _follow(self, view: message.View) -> None:
        wants_track = bool(view.video) and not view.paused and self._open_track is not None
        is_view = wants_track and self._has_view and view.video is True and view.size == "full"
        turned = (wants_track, is_view) != (self._track is not None, self._is_view)
        changed = turned or (view.size, view.paused) != (self.size, self.paused)
        self.size, self.paused, self._window = view.size, view.paused, view.window
        if turned:
            self.close()
            self._is_view = is_view
            if wants_track and self._open_track is not None:
                self._track = self._open_track(is_view)
        if view.paused or wants_track:
            self._mailbox.discard("frame")
        elif changed:
            self.shown = None
        self._wake.set()
        if changed:
            self._on_change()

    def _take(self) -> tuple[str, bytes] | None:
        """Return the next message to send, facts before pictures and packets."""
        item = self._mailbox.take(frames=self._may_send_frame())
        if item is not None or self._track is None:
            return item
        under_way = self._packets_sent - self._packets_acknowledged
        if self._window and under_way >= self._window * _PACKETS_PER_FRAME:
            return None
        packed = self._track.next()
        if packed is None:
            return None
        self._packets_sent += 1
        self._video_sent.inc()
        return "video", packed

    def _may_send_frame(self) -> bool:
        return not self._window or self.frames_sent - self._acknowledged < self._window


# The order in which waiting messages leave: facts first, boxes before the picture that they lie on.
KINDS = ("hello", "pong", "node", "status", "stream", "state", "watching", "detections", "frame")


class Mailbox:
    """Holds at most one message of each kind; a newer one replaces the older.

    So a viewer that does not read costs one frame of memory, whatever the time it sleeps.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, bytes] = {}

    def put(self, kind: str, message: bytes) -> bool:
        """Lay ``message`` down and return whether an older one of its kind was lost by that.

        Raises:
            ValueError: ``kind`` is not one of KINDS.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown kind of message {kind!r}")
        replaced = kind in self._waiting
        self._waiting[kind] = message
        return replaced

    def take(self, *, frames: bool = True) -> tuple[str, bytes] | None:
        """Remove and return the next message, or None; ``frames=False`` leaves the frame where it is."""
        for kind in KINDS:
            if kind == "frame" and not frames:
                continue
            message = self._waiting.pop(kind, None)
            if message is not None:
                return kind, message
        return None

    def discard(self, kind: str) -> None:
        """Forget the waiting message of this kind, if there is one."""
        self._waiting.pop(kind, None)

    def __len__(self) -> int:
        return len(self._waiting)
