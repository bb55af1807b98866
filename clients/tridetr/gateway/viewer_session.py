"""The session of one viewer: its settings, and the messages that are waiting to be sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from tridetr.gateway import message
from tridetr.gateway.flight import Flight
from tridetr.gateway.limits import Bucket
from tridetr.gateway.video_track import VideoTrack
from tridetr.shm.values import TraceContext
from tridetr.telemetry import metrics, tracing

_PACKETS_PER_FRAME = 24  # packets in flight per frame of `window`: decoders delay and batch packets

Size = Literal["small", "full"]
Send = Callable[[bytes], Awaitable[None]]


class CommandError(Exception):
    """The viewer sent an invalid command, or too many; ``code`` is the WebSocket close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def start_counters(camera: str) -> None:
    """Create a camera's metrics at 0, which also resets the number of viewers that a dead gateway left behind."""
    for counter in (
        metrics.VIEWER_FRAMES,
        metrics.VIEWER_FRAMES_DROPPED,
        metrics.VIEWER_PACKETS,
        metrics.FRAMES_ENCODED,
    ):
        counter.labels(camera)
    metrics.VIEWERS.labels(camera).set(0)


class Viewer:
    """State of one WebSocket or MJPEG client; use it in the event loop only.

    Attributes:
        size: requested picture size.
        paused: whether pictures are paused (the card is hidden); other messages are still sent.
        shown: sequence and size of the frame that was posted last.
        frames_sent: number of frames sent.
    """

    def __init__(
        self,
        camera: str,
        size: Size,
        max_fps: float,
        on_change: Callable[[], None],
        open_track: Callable[[bool], VideoTrack] | None,
        *,
        has_view: bool,
    ) -> None:
        self.size = size

        self.paused = False
        self._open_track = open_track
        self._has_view = has_view
        self._track: VideoTrack | None = None
        self._is_view = False  # whether the track includes the second stream
        self._flight = Flight()
        self.shown: tuple[int, Size] | None = None
        self.frames_sent = 0
        self._window = 0
        self._acknowledged = 0
        self._camera = camera
        self._mailbox = Mailbox()
        self._traces: dict[str, TraceContext | None] = {}  # by kind, of the waiting messages
        self._wake = asyncio.Event()
        self._on_change = on_change
        self._sent = metrics.VIEWER_FRAMES.labels(camera)
        self._video_sent = metrics.VIEWER_PACKETS.labels(camera)
        self._dropped = metrics.VIEWER_FRAMES_DROPPED.labels(camera)
        # One acknowledgement per frame, and some pings.
        self._commands = Bucket(rate=max_fps + 10, burst=2 * max_fps + 40)

    @property
    def wants_pictures(self) -> bool:
        """Whether the viewer wants pictures that the gateway encodes."""
        return not self.paused and self._track is None

    def packets_came(self) -> None:
        """Wake the sender: new packets may be available."""
        if self._track is not None:
            self._wake.set()

    def forget_removed(self) -> None:
        """Close a packet ring whose file was removed."""
        if self._track is not None:
            self._track.forget_removed()
            self._wake.set()

    def close(self) -> None:
        """Close the packet ring."""
        if self._track is not None:
            self._track.close()
            self._track = None

    def post(self, kind: str, packed: bytes, trace: TraceContext | None = None) -> None:
        """Put a message into the mailbox."""
        self._traces[kind] = trace
        if self._mailbox.put(kind, packed) and kind == "frame":
            self._dropped.inc()
        self._wake.set()

    async def pump(self, send: Send) -> None:
        """Send messages as they arrive, only the newest of each kind, until cancelled."""
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
        """Execute a command from the viewer.

        Raises:
            CommandError: the command is invalid, or there are too many commands.
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
            self._flight.acknowledge(command.packets, time.monotonic())
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
        """Return the next message to send: facts before pictures and packets."""
        item = self._mailbox.take(frames=self._may_send_frame())
        if item is not None or self._track is None:
            return item
        if not self._may_send_packet():
            return None
        packed = self._track.next()
        if packed is None:
            return None
        self._flight.add(len(packed), time.monotonic())
        self._video_sent.inc()
        return "video", packed

    def _may_send_packet(self) -> bool:
        if not self._window:
            return True
        is_full = len(self._flight) >= self._window * _PACKETS_PER_FRAME
        return not is_full and self._flight.may_add(time.monotonic())

    def _may_send_frame(self) -> bool:
        return not self._window or self.frames_sent - self._acknowledged < self._window


# The order in which waiting messages are sent: facts first, detections before the picture they are drawn on.
KINDS = ("hello", "pong", "node", "status", "stream", "state", "watching", "detections", "frame")


class Mailbox:
    """Holds at most one message of each kind: a newer one replaces an older one.

    A viewer that does not read therefore never costs more than one frame of memory.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, bytes] = {}

    def put(self, kind: str, message: bytes) -> bool:
        """Add a message; return whether it replaced an older one of its kind.

        Raises:
            ValueError: ``kind`` is not one of KINDS.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown message kind {kind!r}")
        replaced = kind in self._waiting
        self._waiting[kind] = message
        return replaced

    def take(self, *, frames: bool = True) -> tuple[str, bytes] | None:
        """Remove and return the kind and bytes of the next message, or None; ``frames=False`` skips frames."""
        for kind in KINDS:
            if kind == "frame" and not frames:
                continue
            message = self._waiting.pop(kind, None)
            if message is not None:
                return kind, message
        return None

    def discard(self, kind: str) -> None:
        """Remove the waiting message of a kind, if there is one."""
        self._waiting.pop(kind, None)

    def __len__(self) -> int:
        return len(self._waiting)
