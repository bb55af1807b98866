"""The WebSocket route, which sends pictures, video, detections and states of one camera to one viewer."""

from __future__ import annotations

import asyncio
import contextlib
import time

from quart import Blueprint, Quart, Response, websocket

from tridetr.gateway import message
from tridetr.gateway.hub import Hub
from tridetr.gateway.parameters import picture_size
from tridetr.gateway.security import Answer, Guard, problem
from tridetr.gateway.viewer_session import CommandError, Viewer

GOING_AWAY, LOGGED_OUT = 1001, 1008


class StreamEnd:
    """Is set when the gateway stops or the login session of a stream ends."""

    def __init__(self, stop: asyncio.Event, logged_out: asyncio.Event) -> None:
        self._stop = stop
        self._logged_out = logged_out

    def is_set(self) -> bool:
        """Return whether the stream must end."""
        return self._stop.is_set() or self._logged_out.is_set()

    async def wait(self) -> None:
        """Wait until the stream must end."""
        waiting = [asyncio.create_task(one.wait()) for one in (self._stop, self._logged_out)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    @property
    def close_frame(self) -> tuple[int, str]:
        """Code and reason of the WebSocket's close frame."""
        if self._logged_out.is_set():
            return LOGGED_OUT, "the session was logged out"
        return GOING_AWAY, "the gateway is shutting down"


def refuse(hub: Hub, camera: str) -> Answer | None:
    """Return an error response if the camera does not exist or ``gateway.max_viewers`` is reached; else None."""
    if camera not in hub.config.cameras:
        return problem(404, "no such camera")
    limit = hub.config.gateway.max_viewers
    if hub.viewer_count >= limit:
        return problem(
            503, f"all {limit} streams are in use (gateway.max_viewers)", Retry_After="10"
        )
    return None


def refuse_old(hub: Hub, camera: str) -> Answer | None:
    """Return an error response if a camera's newest picture is too old to be shown as live; else None."""
    age_s = hub.old_frame_s(camera)
    return None if age_s is None else not_live(camera, age_s)


def not_live(camera: str, age_s: float) -> Answer:
    """Return the error response of a camera whose last picture is old."""
    return problem(
        503,
        f"camera {camera} is not live: its last picture is {age_s:.0f} s old",
        Retry_After="5",
    )


def add_stream(
    app: Quart, hub: Hub, guard: Guard, stop: asyncio.Event, *, page_version: str
) -> None:
    """Add the WebSocket route to the application; all streams end when ``stop`` is set."""
    stream = Blueprint("stream", __name__)

    @stream.post("/ws/<camera>")
    async def explain(camera: str) -> Answer:
        """Answer like the WebSocket: browsers show pages the reason of a refused POST, but not of a WebSocket."""
        return refuse(hub, camera) or Response("", status=204)

    @stream.get("/ws/<camera>")
    async def not_upgraded(camera: str) -> Answer:
        return problem(
            426,
            "this URL is a WebSocket endpoint, but the request has no Upgrade header. A reverse proxy must pass the "
            "Upgrade and Connection headers on, with HTTP/1.1.",
            Upgrade="websocket",
        )

    @stream.websocket("/ws/<camera>")
    async def watch(camera: str) -> Answer | None:
        refused = refuse(hub, camera)
        if refused is not None:
            return refused
        size = picture_size(websocket)
        end = StreamEnd(stop, guard.logged_out(websocket))
        viewer, feed = hub.new_viewer(camera, size), hub.feeds[camera]
        feed.join(viewer)
        try:
            offered = message.PROTOCOL in websocket.requested_subprotocols
            await websocket.accept(subprotocol=message.PROTOCOL if offered else None)
            hello = _hello(hub, camera) | {
                "page_version": page_version,
                "login": guard.auth.required,
            }
            viewer.post("hello", message.pack(hello))
            await _serve(viewer, end)
        finally:
            feed.leave(viewer)
            viewer.close()
        return None

    app.register_blueprint(stream)


def _hello(hub: Hub, camera: str) -> dict[str, object]:
    return {
        "type": "hello",
        "protocol": message.PROTOCOL,
        "camera": camera,
        "server_unix_ms": time.time_ns() / 1e6,
        "max_fps": hub.config.gateway.max_fps,
        "video": hub.feeds[camera].stream_facts()["video"],
    }


async def _serve(viewer: Viewer, end: StreamEnd) -> None:
    """Send and receive until the viewer violates the protocol or the stream must end; a disconnect cancels this."""

    async def listen() -> None:
        while True:
            viewer.handle(await websocket.receive())

    tasks = {
        asyncio.create_task(viewer.pump(websocket.send)),
        asyncio.create_task(listen()),
        asyncio.create_task(end.wait()),
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    code, reason = end.close_frame
    for task in done:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, CommandError):
            code, reason = error.code, error.reason
        elif error is not None and not isinstance(error, (ConnectionError, RuntimeError)):
            raise error
    with contextlib.suppress(ConnectionError, RuntimeError):
        await websocket.close(code, reason.encode()[:120].decode(errors="ignore"))
