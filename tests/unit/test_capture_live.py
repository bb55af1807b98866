"""Live cameras whose timestamps are ahead of the clock: their pictures are not held back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

from support.clips import CAMERA_OPTIONS, write_clip
from support.http_camera import Request, http_camera
from support.lossy_rtsp import lossy_camera, rtp_packets
from support.waiting import wait_for
from tridetr.capture.sources.connect import connect
from tridetr.capture.sources.network import NetworkSource
from tridetr.capture.sources.playlist import PlayedSegments
from tridetr.config import CameraSection
from tridetr.hang_up import HangUp

_FRAMES = 100  # encoded at 10 fps
_JUMP_S = 8.0
_ENDLESS = str((1 << 31) - 1)  # a length that some cameras announce


def _stream(folder: Path, format_name: str, late: Callable[[int], float]) -> bytes:
    """Encode a stream; frame n is stamped `late(n)` seconds later than it is due, and its header has no duration."""
    clip = write_clip(folder / "clip.mp4", _FRAMES, fps=10, options=CAMERA_OPTIONS)
    written: list[bytes] = []
    # Without `seek`, the muxer cannot add the duration at the end
    output = SimpleNamespace(write=lambda data: written.append(bytes(data)))
    options = {"movflags": "frag_keyframe+empty_moov"} if format_name == "mp4" else {}
    with (
        av.open(clip) as source,
        av.open(output, "w", format=format_name, container_options=options) as live,
    ):
        stream = live.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None:
                packet.pts = packet.dts = packet.dts + round(late(number) / packet.time_base)
                packet.stream = stream
                live.mux(packet)
    return b"".join(written)


def _runs_ahead(number: int) -> float:
    return 2.0 * number


def _jumps(number: int) -> float:
    return _JUMP_S * (number // 10)


@contextlib.contextmanager
def _http(data: bytes, **headers: str) -> Iterator[str]:
    """Serve a stream that goes on, though nothing more of it comes."""
    over = threading.Event()

    def answer(request: Request) -> None:
        request.head("video/x-flv", 200, **headers)
        request.send(data)
        over.wait()

    with http_camera(answer) as camera:
        try:
            yield camera.url("/flv")
        finally:
            over.set()


def _assert_read_as_it_comes(url: str) -> None:
    """Read all of a stream, which takes more than a minute by its timestamps."""
    source = NetworkSource(CameraSection(source=url, timeout_s=30), threading.Event())
    source.open()
    try:
        for number in range(_FRAMES - 2):  # FFmpeg holds up to two back
            grab = wait_for(lambda: source.next(0.1), what=f"frame {number}")
            assert grab.number == number
    finally:
        source.close()


@pytest.mark.parametrize("late", [_runs_ahead, _jumps])
@pytest.mark.parametrize("format_name", ["flv", "mpegts", "mp4", "matroska"])
def test_an_http_camera_is_read_as_it_sends(
    tmp_path: Path, format_name: str, late: Callable[[int], float]
) -> None:
    """FFmpeg knows a duration of live FLV (0), so each picture was held back until the time of its timestamp."""
    with _http(_stream(tmp_path, format_name, late)) as url:
        _assert_read_as_it_comes(url)


def test_a_length_does_not_make_a_live_stream_a_recording(tmp_path: Path) -> None:
    data = _stream(tmp_path, "flv", _runs_ahead)
    with _http(data, Content_Length=_ENDLESS) as url:
        _assert_read_as_it_comes(url)
    with _http(data.replace(b"\0\x08duration", b"\0\x08ignored_"), Content_Length=_ENDLESS) as url:
        _assert_read_as_it_comes(url)


def test_an_rtsp_camera_is_read_as_it_sends(tmp_path: Path) -> None:
    """FFmpeg takes the range of its session description for a duration."""
    clip = tmp_path / "clip.ts"
    clip.write_bytes(_stream(tmp_path, "mpegts", _runs_ahead))
    with lossy_camera(rtp_packets(clip), (), codec="h264", range_s=600) as url:
        _assert_read_as_it_comes(url)


def test_a_recording_on_a_web_server_is_paced(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 30, options={"movflags": "faststart"})
    data = clip.read_bytes()
    with _http(data, Content_Length=str(len(data))) as url:
        feed = connect(CameraSection(source=url), HangUp(), PlayedSegments())
        assert feed.metronome is not None
        feed.close()
