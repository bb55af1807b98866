"""RTSP, MPEG-TS and FLV over a link that is too slow, with a server that stores what it does not carry."""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from support.capture_rig import capturing
from support.clips import CAMERA_OPTIONS, write_clip
from support.http_camera import Request, http_camera
from support.rtsp import rtsp_server
from support.slow_link import slow_link
from support.waiting import slack, wait_for
from tridetr.capture.sources import lateness
from tridetr.shm.boards import CameraState, CameraStatus

_FPS, _GROUP = 10, 5
_SECONDS = 40


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LATE_S", 1.5), ("FIRST_WAIT_S", 1.0)):
        monkeypatch.setattr(lateness, name, value)


class _Sending(io.RawIOBase):
    """A file that FFmpeg writes, and that a request sends."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        sent = bytes(data)  # type: ignore[call-overload]
        self._request.send(sent)
        return len(sent)


def _live(clip: Path, kind: str, speed: float) -> Callable[[Request], None]:
    """Answer with a live stream from the newest key frame on; all connections get the same pictures.

    Args:
        clip: What the camera sees.
        kind: FFmpeg's name of the format.
        speed: How fast the camera's timestamps advance.
    """
    began_s = time.monotonic()

    def answer(request: Request) -> None:
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        request.head("video/x-flv" if kind == "flv" else "video/mp2t")
        live = (time.monotonic() - began_s) * _FPS
        with (
            av.open(str(clip)) as source,
            av.open(_Sending(request), "w", kind, options={"flush_packets": "1"}) as target,
        ):
            stream = source.streams.video[0]
            copied = target.add_stream_from_template(stream)
            for number, packet in enumerate(source.demux(stream)):
                if number < live - live % _GROUP or packet.dts is None:
                    continue
                time.sleep(max(0.0, began_s + number / _FPS - time.monotonic()))
                packet.pts = packet.dts = round(packet.dts * speed)
                packet.stream = copied
                target.mux(packet)

    return answer


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = CAMERA_OPTIONS | {"g": str(_GROUP), "b": "400k", "maxrate": "400k", "bufsize": "40k"}
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, _SECONDS * _FPS, fps=_FPS, options=options)


@contextlib.contextmanager
def _mpegts(clip: Path) -> Iterator[tuple[str, int, float]]:
    """Serve a live stream; yield scheme, port and bytes per second."""
    with http_camera(_live(clip, "mpegts", 1.0)) as camera:
        yield "http", camera.port, clip.stat().st_size / _SECONDS


@contextlib.contextmanager
def _rtsp(clip: Path) -> Iterator[tuple[str, int, float]]:
    picture = (
        f"pattern=zone-plate kx2=8 ky2=8 kt=1 ! video/x-raw,width=320,height=240,framerate={_FPS}/1"
    )
    live = f"videotestsrc is-live=true {picture} ! openh264enc gop-size={_GROUP} bitrate=400000"
    launch = f"( {live} ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 )"
    with rtsp_server(clip, "--shared", "--launch", launch) as server:
        yield "rtsp", server.port, 400_000 / 8


@pytest.mark.parametrize("serve", [_mpegts, _rtsp])
def test_a_stream_that_is_stored_on_its_way_does_not_get_older_and_older(
    tmp_path: Path,
    clip: Path,
    serve: Callable[[Path], contextlib.AbstractContextManager[tuple[str, int, float]]],
) -> None:
    """It came later and later, for minutes, and was shown as live."""

    def late() -> CameraStatus | None:
        status = rig.status()
        return status if status is not None and "came" in status.message else None

    def doubted() -> bool:
        status = rig.status()
        return status is not None and "may come" in status.message

    with (
        serve(clip) as (scheme, port, rate),
        slow_link(port, 0.5 * rate, stores=True) as link,
        capturing(tmp_path, f"{scheme}://127.0.0.1:{link.port}/video") as rig,
    ):
        wait_for(doubted, slack(20), "the doubt")
        status = wait_for(late, slack(25), "the message")
        assert "proxy_buffering off" in status.message
        before = status.reconnects
        wait_for(
            lambda: rig.wait_state(CameraState.LIVE).reconnects > before,
            slack(20),
            "a new connection",
        )
        assert "proxy_buffering off" in rig.wait_state(CameraState.LIVE).message


def test_a_camera_whose_timestamps_are_too_slow_is_left_alone(tmp_path: Path) -> None:
    """Its key frames are larger than other pictures, so that its packets show how much of the link it takes."""
    indices = [number // _GROUP for number in range(_SECONDS * _FPS)]
    options = CAMERA_OPTIONS | {"g": str(_GROUP)}
    clip = write_clip(tmp_path / "clip.mp4", 0, fps=_FPS, indices=indices, options=options)
    with (
        http_camera(_live(clip, "flv", 0.4)) as camera,
        capturing(tmp_path, camera.url()) as rig,
    ):
        wait_for(lambda: len(camera.requests) == 2, slack(20), "a second connection")
        rig.wait_frames(70)  # by which its link is judged
        wait_for(lambda: not rig.wait_state(CameraState.LIVE).message, slack(20), "no doubt")
        status = rig.wait_state(CameraState.LIVE)
    assert status.reconnects == 0
    assert len(camera.requests) <= 4
