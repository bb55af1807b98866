"""The second stream of a camera: open only while it is watched, shown instead of the first, and never blocking it."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import av
import pytest

from support.capture_rig import Rig, capturing
from support.clips import CAMERA_OPTIONS, write_clip
from support.gateway import Gateway, Watcher
from support.relay import Relay, relay_to
from support.rtsp import rtsp_server
from support.waiting import wait_for
from tridetr.capture import view_stream
from tridetr.shm.names import VIEW, RingName


@dataclass
class Setup:
    rig: Rig
    gateway: Gateway
    main: Relay  # on the way to the main stream

    def opened(self) -> bool:
        """Whether capture has a connection to the main stream."""
        return self.main.connections > 0

    def ring_bytes(self) -> int:
        ring = RingName(self.rig.config.instance, self.rig.camera, VIEW)
        return sum(ring.path(number).stat().st_blocks * 512 for number in ring.generations())


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("view")
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(view_stream, "_LINGER_S", 1.0)
        clips = {
            size: write_clip(
                folder / f"{size[0]}.mp4", 300, options=CAMERA_OPTIONS, fps=10, size=size
            )
            for size in ((320, 240), (640, 480))
        }
        sub = stack.enter_context(rtsp_server(clips[320, 240]))
        main = stack.enter_context(rtsp_server(clips[640, 480]))
        relay = stack.enter_context(relay_to(main.port))
        view = f"rtsp://127.0.0.1:{relay.port}/video"
        rig = stack.enter_context(capturing(folder, sub.url, view=view, timeout_s=2))
        section = rig.config.gateway.model_copy(update={"port": 0})
        config = rig.config.model_copy(update={"gateway": section})
        rig.wait_frames(5)
        yield Setup(rig, stack.enter_context(Gateway(config)), relay)


def until_size(socket: Watcher, width: int) -> dict[str, Any]:
    """Read until packets of this width arrive, and return the first one's header."""
    while True:
        header, _ = socket.until("video")
        if header.get("config", {}).get("width") == width:
            return header


@pytest.mark.timeout(120)
def test_second_stream_is_open_while_watched_and_replaced_while_it_fails(setup: Setup) -> None:
    camera = setup.rig.camera
    assert not setup.opened()
    empty = setup.ring_bytes()
    with setup.gateway.watch(camera) as socket:
        socket.send(type="view", video=True, size="small")
        until_size(socket, 320)
        assert not setup.opened(), "small pictures need no main stream"

        socket.send(type="view", video=True)
        header = until_size(socket, 640)
        assert (header["view"], header["key"], header["restart"]) == (True, True, True)
        assert setup.opened()

        setup.main.cut()
        header = until_size(socket, 320)
        assert (header["view"], header["key"], header["restart"]) == (False, True, True)
        fault = wait_for(lambda: (s := setup.rig.status()) and s.view_fault, 20, "a fault")
        assert f"127.0.0.1:{setup.main.port}" in str(fault)
        status, _ = socket.until("status", view_fault=fault)
        assert status["state"] == "live", "the camera is watched nevertheless"

        setup.main.mend()
        assert until_size(socket, 640)["view"]
        socket.until("status", view_fault="")

        # A browser without a decoder for it
        socket.send(type="view", video="source")
        until_size(socket, 320)
        wait_for(lambda: not setup.opened(), 20, "the main stream to be closed")
    wait_for(lambda: setup.ring_bytes() <= empty, 10, "its memory to be freed")


@pytest.mark.timeout(120)
def test_players_get_the_second_stream_too(setup: Setup) -> None:
    def width() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", setup.gateway.port, timeout=30)
        try:
            connection.request("GET", f"/stream/{setup.rig.camera}.mp4")
            response = connection.getresponse()
            assert response.status == 200, response.read(1000)
            data = b"".join(response.read1(65_536) for _ in range(5))
        finally:
            connection.close()
        with av.open(io.BytesIO(data)) as container:
            return int(container.streams.video[0].width)

    assert not setup.opened()
    assert width() == 640
    wait_for(lambda: not setup.opened(), 20, "the main stream to be closed")
    setup.main.cut()
    assert width() == 320
    # Detection and recording used the first stream all the time.
    assert {frame.planes.shape for frame in setup.rig.frames} == {(360, 320)}
