"""Viewers of a camera's own video: they recover when processes are killed or the resolution changes; nothing leaks."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import expect, sync_playwright
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from support.browser import CHROMIUM, FLAGS, open_tab
from support.clips import CAMERA_OPTIONS, write_clip
from support.node import Node
from support.rtsp import rtsp_server
from support.waiting import wait_for
from tridetr.gateway.message import PROTOCOL, unpack
from tridetr.shm.names import unlink_instance
from tridetr.supervisor import orphans


class Watcher(threading.Thread):
    """Watches as the page does: reconnects whenever it is cut off, and starts decoding only at key frames."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self._url = node.url.replace("http", "ws") + "/ws/hall"
        self.stop = threading.Event()
        self.packets = self.connections = 0
        self.wrong: list[str] = []
        self.size: tuple[int, int] | None = None

    def run(self) -> None:
        while not self.stop.wait(0.1):
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                self._watch()

    def _watch(self) -> None:
        with connect(
            self._url, subprotocols=[Subprotocol(PROTOCOL)], max_size=None, open_timeout=5
        ) as socket:
            self.connections += 1
            socket.send(json.dumps({"type": "view", "video": True}))
            config: dict[str, Any] | None = None
            last = 0
            while not self.stop.is_set():
                try:
                    message = socket.recv(timeout=1)
                except TimeoutError:
                    continue
                assert isinstance(message, bytes)
                header, data = unpack(message)
                if header["type"] != "video":
                    continue
                config = header.get("config", config)
                if config is None or not data:
                    self.wrong.append(f"packet {header} without parameters or bytes")
                elif header["packet"] != last + 1 and not header["key"]:
                    self.wrong.append(f"{header['packet']} after {last} is not a key frame")
                else:
                    self.size = config["width"], config["height"]
                last = header["packet"]
                self.packets += 1


def continues(watchers: list[Watcher]) -> None:
    """Wait until each watcher gets new packets."""
    before = [watcher.packets for watcher in watchers]
    wait_for(
        lambda: all(w.packets > n + 10 for w, n in zip(watchers, before, strict=True)),
        90,
        "packets",
    )


def packet_rings(process: psutil.Process) -> int:
    """Return how many packet rings a process has mapped."""
    lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    return sum("-packets-" in line for line in lines)


@contextlib.contextmanager
def player(node: Node) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(node.url.removeprefix("http://"), timeout=30)
    connection.request("GET", "/stream/hall.mp4")
    yield connection.getresponse()
    connection.close()


@contextlib.contextmanager
def capture_and_gateway(folder: Path, cameras: dict[str, Any]) -> Iterator[Node]:
    """Run only these two processes; remove the rings that they leave for a pod's other containers."""
    node = Node(folder, cameras)
    node.start("--only", "capture hall", "--only", "gateway")
    try:
        yield node
    finally:
        node.stop()
        unlink_instance(node.instance, cameras)
    assert not node.leftovers()
    wait_for(lambda: not orphans.find(folder / "run"), 30, "alive")


@contextlib.contextmanager
def page_of(node: Node) -> Iterator[Callable[[], None]]:
    """Watch in a real browser, too; yield a function that waits until its page shows new pictures of the video."""
    if CHROMIUM is None:
        yield lambda: None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with open_tab(browser) as tab:
            tab.page.goto(node.url + "/#hall")

            def page_continues() -> None:
                card = tab.card("hall")
                expect(card).to_have_attribute("data-transport", "video", timeout=90_000)
                before = float(card.get_attribute("data-captured") or 0)
                tab.page.wait_for_function(
                    """(ms) => {
                      const { captured, packet, trouble } = document.querySelector('.card').dataset;
                      return packet && captured > ms + 500 && trouble !== 'connection';
                    }""",
                    arg=before,
                    timeout=90_000,
                )

            yield page_continues
        browser.close()


@pytest.mark.long_faults
@pytest.mark.timeout(400)
def test_viewers_recover_by_themselves(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "small.mp4", 1200, options=CAMERA_OPTIONS, fps=10)
    large = write_clip(
        tmp_path / "large.mp4", 1200, options=CAMERA_OPTIONS, fps=10, size=(640, 480)
    )
    with rtsp_server(small) as server:
        cameras = {"hall": {"source": server.url, "timeout_s": 2}}
        with capture_and_gateway(tmp_path, cameras) as node, contextlib.ExitStack() as stack:
            wait_for(lambda: node.cameras(), 60, "the gateway")
            page_continues = stack.enter_context(page_of(node))
            watchers = [Watcher(node) for _ in range(3)]
            for watcher in watchers:
                watcher.start()
            try:
                continues(watchers)
                page_continues()
                with player(node) as response:
                    assert response.status == 200
                    assert len(response.read(2000)) == 2000

                node.children()["capture hall"].kill()
                continues(watchers)
                page_continues()
                assert {watcher.connections for watcher in watchers} == {1}

                server.kill()
                server.arguments[0] = str(large)
                server.start()
                wait_for(lambda: {w.size for w in watchers} == {(640, 480)}, 90, "another size")
                continues(watchers)
                page_continues()
                assert {watcher.connections for watcher in watchers} == {1}

                # Only what the viewers and the gateway itself read is still held.
                held = len(watchers) + (CHROMIUM is not None) + 1
                rings = wait_for(
                    lambda: (n := packet_rings(node.children()["serve"])) <= held and n, 30, "leaks"
                )
                assert rings == held

                node.children()["serve"].kill()
                continues(watchers)
                page_continues()
                assert min(watcher.connections for watcher in watchers) >= 2
            finally:
                for watcher in watchers:
                    watcher.stop.set()
                for watcher in watchers:
                    watcher.join(10)
            assert [watcher.wrong for watcher in watchers] == [[], [], []]
