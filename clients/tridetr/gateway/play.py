"""HTTP streams for players and dashboards: the camera's own video as MP4, and pictures as MJPEG."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from quart import Blueprint, Quart, Response, request

from tridetr.errors import TridetrError
from tridetr.gateway import message
from tridetr.gateway.facts import age_s
from tridetr.gateway.hub import Hub
from tridetr.gateway.parameters import picture_size
from tridetr.gateway.security import Answer, Guard, problem
from tridetr.gateway.stream import StreamEnd, not_live, refuse, refuse_old
from tridetr.gateway.video_track import IN_BROWSERS, is_old, why_withheld
from tridetr.gateway.viewer_session import Size
from tridetr.shm.boards import StatusReader
from tridetr.shm.names import VIEW
from tridetr.shm.packets import Packet, PacketReader

if TYPE_CHECKING:
    from tridetr.gateway.mp4 import Mp4Muxer

_log = logging.getLogger("tridetr.gateway")

_POLL_S = 0.02
_FIRST_S = 10.0  # longest wait for a key frame to start from
_SILENT_S = 5.0  # without a packet for this long, the second stream counts as stopped
_LAG_S = 2.0  # a client that is further behind continues at the next key frame
_DEFAULT_FPS = 25.0
_BOUNDARY = "tridetr"


def add_play(app: Quart, hub: Hub, guard: Guard, stop: asyncio.Event) -> None:
    """Add the stream routes to the application; all streams end when ``stop`` is set."""
    play = Blueprint("play", __name__)

    @play.get("/stream/<camera>.mp4")
    async def mp4(camera: str) -> Answer:
        refused = refuse(hub, camera)
        if refused is not None:
            return refused
        withheld = why_withheld(hub.config, camera)
        if withheld:
            return problem(403, f"this camera's own video is not available: {withheld}")
        end = StreamEnd(stop, guard.logged_out(request))
        with contextlib.ExitStack() as stack:
            reader, first = await _first_packet(hub, camera, end)
            stack.callback(reader.close)
            if first is None:
                if (old_s := _age_s(reader)) > hub.watches[camera].frame_limit_s:
                    return not_live(camera, old_s)
                return problem(
                    503,
                    "no key frame has arrived from this camera yet, or it sends no video that can be played; "
                    f"/stream/{camera}.mjpeg works with every camera",
                    Retry_After="5",
                )
            if first.info.codec not in IN_BROWSERS:
                return problem(
                    404,
                    f"this camera sends {first.info.codec_name}, not H.264 or H.265: use /stream/{camera}.mjpeg",
                )
            from tridetr.gateway.mp4 import Mp4Muxer, StreamDamagedError  # and FFmpeg with them

            try:
                muxer = Mp4Muxer(first.info)
            except StreamDamagedError as error:
                return problem(503, f"{error}. Use /stream/{camera}.mjpeg", Retry_After="30")
            stack.callback(muxer.close)
            stack.enter_context(hub.streaming())
            closing = stack.pop_all()
        pieces = _pieces(reader, muxer, first, end, closing, ends_in_silence=reader.kind == VIEW)
        # For clients that disconnect before the first piece.
        weakref.finalize(pieces, closing.close)
        return _endless(pieces, "video/mp4")

    @play.get("/stream/<camera>.mjpeg")
    async def mjpeg(camera: str) -> Answer:
        refused = refuse(hub, camera) or refuse_old(hub, camera)
        if refused is not None:
            return refused
        size = picture_size(request)
        end = StreamEnd(stop, guard.logged_out(request))
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        return _endless(_pictures(hub, camera, end, size), kind)

    app.register_blueprint(play)


def _endless(pieces: AsyncIterator[bytes], content_type: str) -> Response:
    response = Response(pieces, content_type=content_type)
    response.timeout = None
    return response


async def _first_packet(
    hub: Hub, camera: str, end: StreamEnd
) -> tuple[PacketReader, Packet | None]:
    """Return a reader and the key frame to start from: of the second stream if possible, else of the first."""
    instance, limit_s = hub.config.instance, hub.watches[camera].frame_limit_s
    if hub.config.cameras[camera].view is not None:
        with contextlib.ExitStack() as closing:
            view = PacketReader(instance, camera, live=True, kind=VIEW, demand=True)
            closing.enter_context(view)
            packet = await _wait_for_packet(view, end, limit_s, hub.readers[camera].status)
            if packet is not None:
                closing.pop_all()
                return view, packet
    with contextlib.ExitStack() as closing:
        reader = closing.enter_context(PacketReader(instance, camera, live=True))
        packet = await _wait_for_packet(reader, end, limit_s)
        closing.pop_all()
        return reader, packet


async def _wait_for_packet(
    reader: PacketReader, end: StreamEnd, limit_s: float, status: StatusReader | None = None
) -> Packet | None:
    """Return the first packet of a stream that is live; None if none arrives in time.

    Args:
        reader: reader of the packet ring.
        end: ends the wait.
        limit_s: maximum age in seconds of the newest packet; the first one may be older if key frames are rare.
        status: for the second stream: the camera's status, which ends the wait if it reports a fault of that stream.
    """
    deadline = time.monotonic() + _FIRST_S
    while time.monotonic() < deadline and not end.is_set():
        packet = None
        if _age_s(reader) <= limit_s:
            packet = reader.read()
        else:
            reader.forget_if_removed()
        if packet is not None and (status is None or not is_old(packet)):
            return packet
        if status is not None and (board := status.read()) is not None and board.view_fault:
            return None
        if packet is None:
            await asyncio.sleep(_POLL_S)
    return None


def _age_s(reader: PacketReader) -> float:
    """Return the age of the newest packet in seconds; 0 if there is none."""
    newest_ns = reader.newest_ns()
    return age_s(newest_ns, time.monotonic_ns()) if newest_ns else 0.0


async def _pieces(
    reader: PacketReader,
    muxer: Mp4Muxer,
    first: Packet,
    end: StreamEnd,
    closing: contextlib.ExitStack,
    *,
    ends_in_silence: bool,
) -> AsyncIterator[bytes]:
    """Yield the MP4 until the parameters of the stream change, which an MP4 cannot represent: the player reconnects.

    It also ends if the second stream has stopped, so that the player reconnects to the first one.
    """
    with closing:
        packet: Packet | None = first
        looked = came = time.monotonic()
        while not end.is_set():
            if packet is None:
                await asyncio.sleep(_POLL_S)
                if ends_in_silence and time.monotonic() - came > _SILENT_S:
                    return
                if time.monotonic() - looked > 1:
                    looked = time.monotonic()
                    reader.forget_if_removed()
            elif packet.generation != first.generation and packet.info != first.info:
                return
            else:
                came = time.monotonic()
                try:
                    piece = muxer.add(packet)
                except TridetrError as error:
                    _log.warning("an MP4 stream ended: %s", error)
                    return
                yield piece
            if reader.lag > _LAG_S * (first.info.fps or _DEFAULT_FPS):
                reader.skip()
            packet = reader.read()


async def _pictures(hub: Hub, camera: str, end: StreamEnd, size: Size) -> AsyncIterator[bytes]:
    """Yield the parts of an MJPEG stream; the client shares the feed's encoded pictures with other viewers."""
    ready: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)

    async def send(packed: bytes) -> None:
        header, jpeg = message.unpack(packed)
        if header["type"] == "frame":
            await ready.put(jpeg)

    viewer, feed = hub.new_viewer(camera, size), hub.feeds[camera]
    feed.join(viewer)
    sending = asyncio.create_task(viewer.pump(send))
    stopping = asyncio.create_task(end.wait())
    taking: asyncio.Task[bytes] | None = None
    try:
        while not end.is_set():
            taking = asyncio.create_task(ready.get())
            await asyncio.wait({taking, stopping, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                if sending.done() and (error := sending.exception()) is not None:
                    _log.error("an MJPEG stream failed", exc_info=error, extra={"camera": camera})
                return
            jpeg = taking.result()
            head = (
                f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            )
            yield head.encode() + jpeg + b"\r\n"
    finally:
        for task in (taking, sending, stopping):
            if task is not None:
                task.cancel()
        feed.leave(viewer)
        viewer.close()
