"""Run a real gateway on a free port, with cameras whose rings the test fills."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from support.waiting import wait_for
from tridetr.config import Config
from tridetr.gateway.auth import BEARER_SUBPROTOCOL
from tridetr.gateway.connection import Limits
from tridetr.gateway.gateway_process import ADDRESS_FILE, run
from tridetr.gateway.message import PROTOCOL, unpack
from tridetr.shm.boards import (
    CameraState,
    CameraStatus,
    SentryMode,
    SentrySnapshot,
    SentryState,
    SentryWriter,
    StatusWriter,
)
from tridetr.shm.detections import DETECTION_DTYPE, DetectionWriter, ResultStamp
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameStamp, FrameWriter
from tridetr.shm.names import unlink_instance

GROUND = (120, 128, 128)  # Y, U, V
FIGURE = (200, 90, 180)


class FakeCamera:
    """Writes frames with a rectangle at a known position, results, and boards of one camera."""

    def __init__(
        self,
        instance: str,
        name: str,
        *,
        width: int = 640,
        height: int = 480,
        jpeg_capacity: int = 0,
        noise: bool = False,
    ) -> None:
        self.name = name
        self.width, self.height = width, height
        self.frames = FrameWriter(
            instance, name, width=width, height=height, jpeg_capacity=jpeg_capacity
        )
        self.results = DetectionWriter(instance, name)
        self.sentry = SentryWriter(instance, name)
        self.status = StatusWriter(instance, name)
        self.number = 0
        self.skipped = 0
        self.stamps: dict[int, tuple[int, int, int]] = {}
        self._noise = (
            np.random.default_rng(3).integers(0, 255, (height * 3 // 2, width), dtype=np.uint8)
            if noise
            else None
        )
        self._ticker: threading.Thread | None = None
        self._stop = threading.Event()
        self.state = SentryState.STANDBY
        self.camera_state = CameraState.LIVE
        self.message = ""
        self.source_kind = "synthetic"
        self.alive = True
        self.gives_results = self.decides = True
        self.turns = 0
        self.decided = 0

    def truth(self, number: int) -> tuple[int, int, int, int]:
        """Return the position of the rectangle in a frame: x1, y1, x2, y2, even numbers."""
        x = 40 + (number * 8) % (self.width - 200) // 2 * 2
        return x, 100, x + 120, 340

    def frame(self, jpeg: bytes = b"") -> int | None:
        """Publish the next frame and return its sequence number; None if readers hold all slots."""
        self.number += 1
        slot = self.frames.begin()
        if slot is None:
            self.skipped += 1
            return None
        if self._noise is not None:
            slot.planes[:] = self._noise
        else:
            x1, y1, x2, y2 = self.truth(self.number)
            for plane, ground, figure, scale in zip(
                (slot.y, slot.u, slot.v), GROUND, FIGURE, (1, 2, 2), strict=True
            ):
                plane[:] = ground
                plane[y1 // scale : y2 // scale, x1 // scale : x2 // scale] = figure
        slot.jpeg[: len(jpeg)] = jpeg
        now = time.monotonic_ns(), time.time_ns()
        stamp = FrameStamp(self.number, *now, ColorRange.FULL, ColorMatrix.BT601)
        sequence = self.frames.publish(slot, stamp, jpeg_bytes=len(jpeg))
        self.stamps[sequence] = (self.number, *now)
        return sequence

    def result(self, sequence: int, *further: tuple[float, ...]) -> None:
        """Publish the true box of a frame, and further ones: x1, y1, x2, y2, score, class, track."""
        number, monotonic, unix = self.stamps[sequence]
        found = np.zeros(1 + len(further), DETECTION_DTYPE)
        found[0] = (*self.truth(number), 0.9, 1, 0)
        for index, box in enumerate(further, start=1):
            found[index] = box
        now = time.monotonic_ns()
        stamp = ResultStamp(
            number, sequence, self.width, self.height, monotonic, unix, False,
            now - 50_000_000, now - 45_000_000, now - 5_000_000, now, "rfdetr_ort", "1",
        )  # fmt: skip
        self.results.publish(stamp, found)
        if self.decides:
            self.decided = sequence

    def report(self, state: SentryState | None = None) -> None:
        """Write both boards."""
        if state is not None:
            self.state = state
        now = time.monotonic_ns()
        self.sentry.write(
            SentrySnapshot(
                SentryMode.STANDBY,
                self.state,
                time.time_ns(),
                "",
                now + 3_000_000_000,
                self.decided,
                0,
            )
        )
        self.status.write(
            CameraStatus(
                self.camera_state, time.time_ns(), now, self.width, self.height, 15.0,
                self.source_kind, "synthetic", 0, self.message,
            )
        )  # fmt: skip

    def play(self, fps: float = 15) -> None:
        """Start publishing frames, their results and the boards in a thread."""

        def work() -> None:
            while not self._stop.wait(1 / fps):
                if self.alive:
                    sequence = self.frame()
                    if sequence is not None and self.gives_results:
                        self.result(sequence)
                self.report()
                self.turns += 1

        self._ticker = threading.Thread(target=work)
        self._ticker.start()

    def stand_still(self) -> int:
        """Stop publishing; return the number of the last frame."""
        self.alive = False
        before = self.turns
        wait_for(lambda: self.turns > before + 1)  # the current iteration may still publish one
        return self.number

    def close(self) -> None:
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
        for writer in (self.frames, self.results, self.sentry, self.status):
            writer.close()


@dataclass(frozen=True)
class Answer:
    """An HTTP response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Gateway:
    """A gateway in a thread, with its own event loop."""

    config: Config
    limits: Limits | None = None
    url: str = ""
    error: BaseException | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _stop: asyncio.Event | None = None
    _thread: threading.Thread | None = None

    def start(self) -> Gateway:
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        file = self.config.run_dir / ADDRESS_FILE
        wait_for(lambda: file.exists() or self.error, what="the gateway's address")
        if self.error is not None:
            raise self.error
        self.url = json.loads(file.read_text())["url"].rstrip("/")
        return self

    def _main(self) -> None:
        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await run(self.config, self._stop, limits=self.limits)

        try:
            asyncio.run(main())
        except BaseException as error:
            self.error = error

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stop(self) -> float:
        """Stop it and return how long it took [s]."""
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        begun = time.monotonic()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        self._thread = None
        return time.monotonic() - begun

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send exactly this path and these headers, and return the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(
                response.status,
                {k.lower(): v for k, v in response.headers.items()},
                response.read(),
            )
        finally:
            connection.close()

    def watch(self, camera: str, **options: Any) -> Watcher:
        options.setdefault("subprotocols", [PROTOCOL])
        options.setdefault("open_timeout", 30)
        # Otherwise the client stops reading after sixteen messages that the test has not consumed
        options.setdefault("max_queue", None)
        return Watcher(
            connect(f"{self.url.replace('http', 'ws')}/ws/{camera}", max_size=None, **options)
        )

    def __enter__(self) -> Gateway:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self.stop()


@dataclass
class Watcher:
    """A WebSocket client that reads the protocol."""

    socket: ClientConnection
    seen: list[tuple[dict[str, Any], bytes]] = field(default_factory=list)

    def send(self, **command: Any) -> None:
        self.socket.send(json.dumps(command))

    def next(self, timeout: float = 30) -> tuple[dict[str, Any], bytes]:
        data = self.socket.recv(timeout)
        assert isinstance(data, bytes)
        self.seen.append(unpack(data))
        return self.seen[-1]

    def until(self, kind: str, timeout: float = 30, **wanted: Any) -> tuple[dict[str, Any], bytes]:
        """Read until a message of this kind with these values arrives."""
        deadline = time.monotonic() + timeout
        while True:
            header, image = self.next(max(0.01, deadline - time.monotonic()))
            if header["type"] == kind and all(header[key] == wanted[key] for key in wanted):
                return header, image

    def to_the_end(self) -> None:
        """Read until the connection ends; raises websockets' ConnectionClosed."""
        while True:
            self.next()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()


@contextmanager
def cameras(
    tmp_path: Path,
    *names: str,
    gateway: dict[str, Any] | None = None,
    live_s: float = 1.0,
    **camera: Any,
) -> Iterator[tuple[Config, dict[str, FakeCamera]]]:
    """Yield a configuration and the writers of its cameras; remove everything afterwards.

    Args:
        tmp_path: folder for the files.
        names: names of the cameras.
        gateway: options of the gateway.
        live_s: age from which a picture or result is too old.
        camera: options of each ``FakeCamera``.
    """
    instance = f"g{uuid.uuid4().hex[:10]}"
    timeouts = {"timeout_s": live_s, "sentry": {"unknown_s": live_s}}
    config = Config(
        instance=instance,
        cameras={name: {"source": "synthetic", **timeouts} for name in names},
        gateway={"port": 0, **(gateway or {})},
        run_dir=tmp_path / "run",
        state_dir=tmp_path / "state",
    )
    fakes: dict[str, FakeCamera] = {}
    try:
        for name in names:
            fakes[name] = FakeCamera(instance, name, **camera)
        yield config, fakes
    finally:
        for fake in fakes.values():
            fake.close()
        unlink_instance(instance, names)


def subprotocol_for(token: str) -> str:
    """Return the WebSocket subprotocol that carries a token."""
    return BEARER_SUBPROTOCOL + base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode()
