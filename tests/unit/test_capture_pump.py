"""The thread that reads a network stream: its end, its errors, and cameras that send a byte now and then."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av as pyav
import pytest
from av.video.stream import VideoStream

from support.clips import CAMERA_OPTIONS, jpegs, picture, write_clip
from support.http_camera import HttpCamera, Request, http_camera
from support.waiting import slack, wait_for
from tridetr.capture.sources import av, network, pump
from tridetr.capture.sources.av import FfmpegFeed
from tridetr.capture.sources.base import NoPictureYetError, SourceLostError
from tridetr.capture.sources.network import NetworkSource
from tridetr.capture.sources.pump import PacketPump
from tridetr.config import CameraSection
from tridetr.errors import SourceError, TridetrError
from tridetr.hang_up import HangUp

_QUICK = {"analyzeduration": "100000", "probesize": "50000"}


class _Watched:
    """A container that records when it is closed."""

    def __init__(self, container: object, closed: threading.Event) -> None:
        self._container = container
        self._closed = closed

    def __getattr__(self, name: str) -> object:
        return getattr(self._container, name)

    def close(self) -> None:
        self._closed.set()


def test_a_stream_that_has_ended_is_readable_until_the_pump_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container was freed as soon as the connection broke; reading its properties then caused a SIGSEGV."""
    clip = write_clip(tmp_path / "clip.mp4", 3)
    closed = threading.Event()
    real = av.open_video

    def watched(*args: Any, **kwargs: Any) -> tuple[_Watched, object]:
        container, stream = real(*args, **kwargs)
        return _Watched(container, closed), stream

    monkeypatch.setattr(av, "open_video", watched)
    reading = PacketPump(lambda _: FfmpegFeed(str(clip), "clip", {}, 2.0), "clip", 2.0)
    stream = reading.start(threading.Event()).stream
    for _ in range(3):
        assert reading.get(2.0) is not None
    with pytest.raises(SourceLostError):
        reading.get(2.0)
    assert stream is not None
    assert stream.average_rate
    assert not closed.wait(0.2)
    reading.close()
    wait_for(closed.is_set)


def test_a_stream_that_changes_its_codec_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old decoder would wait for a key frame until a new connection, for up to five minutes."""
    monkeypatch.setattr(av, "_CODEC_CHECK_S", 0.0)
    both = tmp_path / "both.ts"
    quiet = {"x265-params": "log-level=none"}
    for version, (codec, options) in enumerate((("libx264", {}), ("libx265", quiet))):
        file = tmp_path / f"{version}.ts"
        write_clip(file, 30, codec=codec, options={"g": "10", "bf": "0"} | options)
        with (
            pyav.open(file) as old,
            pyav.open(tmp_path / "new.ts", "w", options={"tables_version": str(version)}) as new,
        ):
            stream = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)
        with both.open("ab") as joined:
            joined.write((tmp_path / "new.ts").read_bytes())
    feed = FfmpegFeed(str(both), "cam", {}, 2.0)
    packets = feed.packets(threading.Event())
    assert len([next(packets) for _ in range(28)]) == 28
    with pytest.raises(SourceError, match="cam: the stream changed from h264 to hevc"):
        list(packets)
    feed.close()


def _video_stops(path: Path) -> tuple[bytes, int]:
    """Write MPEG-TS with 1 s of video and 24 s of audio; return it, and where its video ends."""
    with pyav.open(path, "w", format="mpegts") as container:
        video = container.add_stream("libx264", rate=10, options=CAMERA_OPTIONS)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        sound = container.add_stream("mp2", rate=16_000)
        sound.bit_rate = 32_000
        for index in range(10):
            frame = pyav.VideoFrame.from_ndarray(picture(index, 320, 240), format="rgb24")
            container.mux(video.encode(frame.reformat(format="yuv420p")))
        container.mux(video.encode())
        for index in range(400):
            silence = pyav.AudioFrame(format="s16", layout="mono", samples=960)
            silence.sample_rate, silence.pts = 16_000, 960 * index
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            container.mux(sound.encode(silence))
    data = path.read_bytes()
    return data, len(data) // 188 // 4 * 188


def test_a_stream_whose_video_stops_ends_though_its_audio_goes_on(tmp_path: Path) -> None:
    """The thread waited for video indefinitely, even after its pump was closed: each attempt left a connection."""
    data, start = _video_stops(tmp_path / "both.ts")

    def answer(request: Request) -> None:
        request.head("video/mp2t")
        request.send(data[:start])
        for at in range(start, len(data), 752):
            time.sleep(0.02)
            request.send(data[at : at + 752])

    with http_camera(answer) as camera:
        feed = FfmpegFeed(camera.url(), "cam", _QUICK, 1.0)
        with pytest.raises(SourceError, match="cam: no video for 1 s, although audio arrives"):
            list(feed.packets(threading.Event()))
        feed.close()

        feed = FfmpegFeed(camera.url(), "cam", _QUICK, 60.0)
        hang_up = threading.Event()
        packets = feed.packets(hang_up)
        assert (
            len([next(packets) for _ in range(9)]) == 9
        )  # the last one is complete when another starts
        hang_up.set()
        assert list(packets) == []
        feed.close()


def _stream(path: Path, frames: int) -> bytes:
    write_clip(path, frames, fps=10, options=CAMERA_OPTIONS)
    return path.read_bytes()


@contextlib.contextmanager
def _stalling_camera(folder: Path, frames: int) -> Iterator[HttpCamera]:
    """Run a camera that sends frames and then nothing more, while its connection stays open."""
    data, over = _stream(folder / "clip.ts", frames), threading.Event()

    def answer(request: Request) -> None:
        request.head("video/mp2t")
        request.send(data)
        over.wait()

    with http_camera(answer) as camera:
        try:
            yield camera
        finally:
            over.set()


def test_a_picture_that_comes_out_when_a_stalled_read_is_aborted_is_dropped(
    tmp_path: Path,
) -> None:
    """FFmpeg holds up to two pictures back until the next one begins; they appeared as new when it gave up."""
    with _stalling_camera(tmp_path, 12) as camera:
        feed = FfmpegFeed(camera.url(), "cam", _QUICK, 1.0)
        packets = feed.packets(threading.Event())
        assert len([next(packets) for _ in range(10)]) == 10
        with pytest.raises(SourceError, match="cam: no data for 1 s"):
            next(packets)
        feed.close()


def test_pictures_that_were_held_back_before_the_end_get_their_true_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "_HELD_S", 0.1)
    data = _stream(tmp_path / "clip.ts", 12)
    end_ns = 0

    def answer(request: Request) -> None:
        nonlocal end_ns
        request.head("video/mp2t")
        request.send(data)
        time.sleep(0.5)
        end_ns = time.monotonic_ns()

    with http_camera(answer) as camera:
        reading = PacketPump(lambda _: FfmpegFeed(camera.url(), "cam", _QUICK, 30.0), "cam", 30.0)
        reading.start(threading.Event())
        found = []
        with contextlib.suppress(SourceLostError):
            while arrival := reading.get(30.0):
                found.append(arrival.monotonic_ns)
        reading.close()
    assert len(found) == 12
    assert max(found) < end_ns


def test_a_stream_that_stalls_is_not_taken_for_one_without_key_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_UNSHOWN_SHARE", 0.01)
    with _stalling_camera(tmp_path, 20) as camera:
        section = CameraSection(source=camera.url(), timeout_s=30.0)
        source = NetworkSource(section, threading.Event())
        source.open()
        while source.next(0.1):
            pass

        def message() -> str:
            try:
                source.next(0.1)
            except NoPictureYetError as why:
                return str(why)
            return ""

        assert "connected, but no video has arrived for 0.3 s" in wait_for(message)
        source.close()


def test_pictures_after_a_full_queue_are_not_taken_for_stale_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many fresh pictures were discarded as stale ones had been waiting before the queue was cleared."""
    clip = write_clip(tmp_path / "clip.mp4", 30, options=CAMERA_OPTIONS | {"g": "5"})
    arriving = threading.Semaphore(0)

    class Camera(FfmpegFeed):
        def packets(self, hang_up: threading.Event) -> Iterator[pyav.Packet[VideoStream]]:
            for packet in super().packets(hang_up):
                assert arriving.acquire(timeout=30)
                yield packet

    monkeypatch.setattr(pump, "_INTER_LIMIT", 10)
    monkeypatch.setattr(network, "connect", lambda *_, **__: Camera(str(clip), "clip", {}, 30.0))
    source = NetworkSource(CameraSection(source="rtsp://camera/"), threading.Event())
    source.open()
    reading = source._pump
    assert reading is not None
    arriving.release(9)
    wait_for(lambda: reading.waiting() == list(range(9)))
    assert source.drop_stale() == 8
    arriving.release(2)  # the second one does not fit
    wait_for(lambda: reading.waiting() == [10])
    grab = source.next(5.0)
    assert grab is not None
    assert grab.number == 10
    arriving.release(30)
    source.close()


def pumps() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "packet-pump"]


def _trickle(request: Request, start: bytes) -> None:
    """Send a byte now and then, so that no read times out."""
    request.send(start)
    while True:
        time.sleep(0.05)
        request.send(b"#")


def _headers(request: Request) -> None:
    _trickle(request, b"HTTP/1.1 200 OK\r\nX-A: ")


def _playlist(request: Request) -> None:
    request.head("application/vnd.apple.mpegurl")
    _trickle(request, b"#EXTM3U\n")


def _part(request: Request) -> None:
    if request.path.endswith(".ts"):
        request.head("video/mp2t")
        _trickle(request, b"")
    request.head("application/vnd.apple.mpegurl")
    sequence = f"#EXT-X-MEDIA-SEQUENCE:{time.monotonic_ns()}\n"  # a camera that runs
    request.send(f"#EXTM3U\n{sequence}#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n1.ts\n".encode())


def _pictures(request: Request) -> None:
    request.head("multipart/x-mixed-replace; boundary=b")
    _trickle(request, b"--b\r\n\r\n" + jpegs(1)[0])


@pytest.mark.parametrize("answer", [_headers, _playlist, _part, _pictures])
def test_a_camera_that_trickles_leaves_no_thread_behind(answer: Callable[[Request], None]) -> None:
    """Each new connection left a thread and a socket behind, for as long as bytes arrived."""

    with http_camera(answer) as camera:
        section = CameraSection(source=camera.url(), timeout_s=1.0)
        source = NetworkSource(section, threading.Event())
        with pytest.raises(SourceError):  # noqa: PT012  (opening it or reading from it)
            source.open()
            until_s = time.monotonic() + 0.5
            while time.monotonic() < until_s:
                source.next(0.1)
            raise SourceLostError("no good frame, as the capture process notices")
        source.close()
        wait_for(lambda: not pumps(), slack(3), "the thread still reads")


def test_a_stream_that_gets_another_pid_leaves_no_thread_behind(tmp_path: Path) -> None:
    """PyAV drops the packets of new streams inside a call that returns only with a packet of an old one."""
    data = []
    for version in ("0", "1"):
        file = tmp_path / f"{version}.ts"
        write_clip(tmp_path / "clip.h264", 30, options=CAMERA_OPTIONS)
        pid = {"mpegts_start_pid": f"25{version}", "tables_version": version}
        with pyav.open(tmp_path / "clip.h264") as old, pyav.open(file, "w", options=pid) as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for index, packet in enumerate(old.demux(video=0)):
                packet.stream, packet.pts, packet.dts = stream, index * 3000, index * 3000
                new.mux(packet)
        data.append(file.read_bytes())

    def answer(request: Request) -> None:
        request.head("video/mp2t")
        request.send(data[0])
        while True:
            request.send(data[1])
            time.sleep(0.02)

    with http_camera(answer) as camera:
        source = NetworkSource(CameraSection(source=camera.url()), threading.Event())
        source.open()
        seen = 0
        while source.next(1.0):
            seen += 1
        assert 20 <= seen <= 30
        source.close()
        wait_for(lambda: not pumps(), slack(3), "the thread still reads")


def test_a_connection_that_does_not_end_ends_with_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg's own connections, as over RTSP, cannot be ended from outside a call that does not return."""
    clip = write_clip(tmp_path / "clip.mp4", 3)
    over = threading.Event()

    class Camera(FfmpegFeed):
        def packets(self, hang_up: threading.Event) -> Iterator[pyav.Packet[VideoStream]]:
            over.wait()
            yield from super().packets(hang_up)

    monkeypatch.setattr(network, "connect", lambda *_, **__: Camera(str(clip), "clip", {}, 1.0))
    source = NetworkSource(CameraSection(source="rtsp://camera/", timeout_s=1), threading.Event())
    for _ in range(2):
        source.open()  # the first may still end by itself
        source.close()
    monkeypatch.setattr(pump, "_STUCK_S", 0.0)
    monkeypatch.setattr(source._closed[0], "_timeout_s", 0.0)
    with pytest.raises(TridetrError, match="rtsp://camera: an earlier connection has not ended"):
        source.open()
    over.set()
    wait_for(lambda: not pumps())
    source.open()
    source.close()


def test_a_tls_handshake_that_trickles_leaves_no_thread_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        section = CameraSection(source=f"https://127.0.0.1:{port}/", timeout_s=1.0)
        source = NetworkSource(section, threading.Event())

        def open_it() -> None:
            with contextlib.suppress(SourceError):
                source.open()

        opening = threading.Thread(target=open_it)
        opening.start()
        connection, _ = server.accept()
        with connection:
            # The header of a record, of which one byte arrives now and then
            connection.sendall(b"\x16\x03\x03\x40\x00")

            def is_over() -> bool:
                with contextlib.suppress(OSError):
                    connection.send(b"\x02")
                return not pumps()

            wait_for(is_over, slack(10), "the thread still reads")
        opening.join(slack(10))


def test_an_unexpected_error_is_reported_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error was reported as "gave up waiting", ten seconds later."""
    text = "rtsp://user:s3cret@camera/"

    def connect(_: HangUp) -> FfmpegFeed:
        raise ZeroDivisionError(text)

    pump = PacketPump(connect, "the camera", 5.0)
    with pytest.raises(SourceError, match="the camera: unexpected ZeroDivisionError"):
        pump.start(threading.Event())
    pump.close()
    assert "in connect" in caplog.text
    assert "s3cret" not in caplog.text
