"""Live playlists: each segment is delivered once, and faster while the newest ones are too far away."""

from __future__ import annotations

import contextlib
import re
import threading
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from support.clips import CAMERA_OPTIONS, picture
from support.http_camera import Request, http_camera
from tridetr.capture.sources.base import NoPictureYetError
from tridetr.capture.sources.http_request import HttpAddress
from tridetr.capture.sources.metronome import Metronome
from tridetr.capture.sources.network import NetworkSource
from tridetr.capture.sources.playlist import PlayedSegments, PlaylistParts, best_variant
from tridetr.config import CameraSection
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp


def test_the_distance_to_the_newest_segment_is_known() -> None:
    ends = [False]

    def answer(request: Request) -> None:
        request.head()
        if "/parts/" in request.path:
            request.send(request.path.encode() * 5)
            return
        request.send(b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:7\n")
        for number in range(4):
            request.send(f"#EXTINF:2.000,\nparts/{number}.ts?a=1\n".encode())
        request.send(b"#EXT-X-ENDLIST\n" * ends[0])

    with http_camera(answer) as camera:
        address = HttpAddress(camera.url("/list.m3u8"), "cam", None, None, 10.0, HangUp())
        known = PlayedSegments()
        known.follow([])
        parts = PlaylistParts(address, known)

        def read(path: str) -> bytes:
            part = parts(camera.url(path), 0, {})
            try:
                return b"".join(iter(lambda: part.read(30), b""))
            finally:
                part.close()

        assert read("/list.m3u8").count(b"EXTINF") == 4
        behind = []
        for number in range(4):
            path = f"/parts/{number}.ts?a=1"
            assert read(path) == path.encode() * 5
            behind.append(parts.is_behind)
        assert behind == [True, True, False, False]
        ends[0] = True  # a recording is played at its own speed
        for path in ("/parts/0.ts?a=1", "/list.m3u8", "/parts/0.ts?a=1"):
            read(path)
        assert not parts.is_behind


def test_a_part_that_is_not_in_the_playlist_counts_as_its_oldest_segment() -> None:
    """One that was not recognised was played with each connection, however old it was."""
    names = ["0.ts", "1.ts", "http://[", "1.ts"]

    def answer(request: Request) -> None:
        request.head()
        if request.path != "/list.m3u8":
            request.send(request.path.encode())
            return
        request.send(b'#EXTM3U\n#EXT-X-MAP:BYTERANGE="9",URI="a//m"\n')
        request.send(f"#EXT-X-MEDIA-SEQUENCE:{names[0][0]}\n".encode())
        request.send("".join(f"#EXTINF:2,\n{name}\n" for name in names).encode())

    with http_camera(answer) as camera:
        address = HttpAddress(camera.url("/list.m3u8"), "cam", None, None, 10.0, HangUp())
        known = PlayedSegments()

        def read(*paths: str) -> list[bytes]:
            """Return what a connection gets of these parts, after the playlist."""
            parts = PlaylistParts(address, known)
            assert parts(camera.url("/early"), 0, {}).read(99) == b"/early"
            parts(camera.url("/list.m3u8"), 0, {}).close()
            found = []
            for path in paths:
                part = parts(camera.url(path), 0, {})
                found.append(part.read(99))
                part.close()
            known.close(delivered=True)
            return found

        assert read("/0.ts", "/other", "/a/m") == [b"", b"", b"/a/m"]
        names.append("2.ts")
        assert read("/1.ts", "/2.ts", "/newer", "/a/m") == [b"", b"/2.ts", b"", b"/a/m"]
        names[:] = ["5.ts", "6.ts", "7.ts", "8.ts", "9.ts"]
        assert read("/5.ts", "/new", "/newer") == [b"/5.ts", b"/new", b""]  # the latter was old
        assert read("/5.ts", "/new", "/6.ts") == [b"", b"", b"/6.ts"]


def test_how_long_segments_count_as_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a dead encoder were played once it had listed a new one."""
    now_s = 1000.0
    monkeypatch.setattr("tridetr.boot_clock.now_ns", lambda: round(now_s * 1e9))
    known = PlayedSegments()

    def lines(first: int | None, *names: str, duration_s: int = 6) -> list[str]:
        number = [] if first is None else [f"#EXT-X-MEDIA-SEQUENCE:{first}"]
        return ["#EXTM3U", f"#EXT-X-TARGETDURATION:{duration_s}", *number, *names]

    never = float("-inf")
    assert known.follow(lines(5, "a?key=1", "b?key=1", "?key=1")) == [never] * 3
    now_s = 2000.0
    assert not known.is_new(lines(5, "a?key=2", "b?key=2", "?key=2"))
    now_s = 2002.0
    assert known.is_new(lines(6, "session2/b", "?c", "d"))
    assert known.follow(lines(6, "session3/b", "?c", "d")) == [never, never, 2030.0]
    now_s = 2040.0  # not read for too long
    assert not known.is_new(lines(9, "e", "f"))
    now_s = 2041.0
    assert known.is_new(lines(10, "f", "g"))
    assert known.follow(lines(10, "f", "g", duration_s=20)) == [2062.0, 2100.0]
    assert known.follow(lines(10, "f", duration_s=10**8)) == [2182.0]
    # Numbers that are used again
    now_s = 2050.0
    assert known.follow(lines(0, "f", "g")) == [2071.0, 2071.0]
    # None means 0
    now_s = 2051.0
    assert known.follow(lines(None, "session4/f", "g", "h")) == [2071.0, 2071.0, 2080.0]


def played_s(is_behind: bool, *times: float) -> float:
    """Return when the last of packets with these timestamps is due, after the first."""
    metronome = Metronome(Fraction(1, 1000), lambda: is_behind)
    now_s = 100.0
    for at in times:
        packet: Any = SimpleNamespace(dts=round(at * 1000), pts=None)
        now_s += metronome.wait_s(packet, now_s)
    return now_s - 100.0


def test_a_stream_that_is_behind_is_played_faster() -> None:
    """A camera whose clock is slower than its timestamps was read later and later, until the segments were gone."""
    times = [n / 25 for n in range(251)]
    assert played_s(False, *times) == pytest.approx(10)
    assert played_s(True, *times) == pytest.approx(8)
    assert played_s(False, 0.0, 6.0) == pytest.approx(6)
    assert played_s(True, 0.0, 6.0) == pytest.approx(0)  # the segments in between were missed


def segments(folder: Path, count: int) -> list[bytes]:
    """Encode a stream as segments of a quarter of a second; the pictures of segment n are `picture(n)`."""
    options = {"hls_time": "0.25", "hls_list_size": "0"}
    with av.open(str(folder / "list.m3u8"), "w", format="hls", options=options) as container:
        stream = container.add_stream("libx264", rate=20, options=CAMERA_OPTIONS | {"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(5 * count):
            frame = av.VideoFrame.from_ndarray(picture(number // 5, 320, 240), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return [(folder / f"list{number}.ts").read_bytes() for number in range(count)]


def played(source: NetworkSource) -> tuple[list[int], str]:
    """Return the numbers of the segments that a connection delivers, and why it fails or ends."""
    chroma = []
    try:
        source.open()
        while True:
            with contextlib.suppress(NoPictureYetError):
                if (grab := source.next(0.1)) is not None:
                    chroma.append(grab.decode().planes[1].mean())
    except SourceError as error:
        reason = str(error)
    source.close()
    # U = 128 + 0.439 B - 0.148 R - 0.291 G, of which R and G are 127 on average, and B is 37 n
    return [number for number, _ in groupby(round((u - 72.2) / 16.24) for u in chroma)], reason


def test_segments_are_delivered_once(tmp_path: Path) -> None:
    """A dead encoder's last segments were played again with each new connection, as if they were live."""
    parts = segments(tmp_path, 6)
    served = {f"{number}.ts": parts[number] for number in range(3)}
    sequence, tail, asked = 0, "", 0

    def answer(request: Request) -> None:
        nonlocal asked
        asked += 1
        if request.path.endswith(".ts"):
            request.head("video/mp2t")
            request.send(served[request.path[1:]])
            return
        request.head("application/vnd.apple.mpegurl")
        head = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{sequence}\n"
        names = [f"#EXTINF:0.25,\n{name}\n" for name in served]
        request.send(f"{head}# request {asked}\n{''.join(names)}{tail}".encode())

    def change(after: int, names: dict[str, bytes]) -> None:
        def later() -> None:
            nonlocal sequence, served
            sequence, served = after, names

        threading.Timer(0.2, later).start()

    with http_camera(answer) as camera:
        section = CameraSection(source=camera.url("/list.m3u8"), timeout_s=0.6)
        source = NetworkSource(section, threading.Event())
        numbers, reason = played(source)
        assert (numbers, "no new segment since" in reason) == ([], True)  # they may be old
        change(1, {f"{number}.ts": parts[number] for number in (1, 2, 3)})
        assert played(source)[0] == [3]  # 1 and 2 may be old too
        numbers, reason = played(source)
        assert (numbers, "no new segment since" in reason) == ([], True)
        # Its text changes, but not its segments
        sequence = 5
        numbers, reason = played(source)
        assert (numbers, "no new segment since" in reason) == ([], True)
        # The encoder is started again, with the numbers and names that it used before
        change(1, {"1.ts": parts[3], "2.ts": parts[4]})
        assert played(source)[0] == [4]
        served["4.ts"] = parts[5]
        for text, why in (
            ("#EXT-X-ENDLIST\n", "has ended"),
            # FFmpeg asks for the segments' place in a file, which was ignored: the oldest pictures were shown
            ("#EXTINF:0.25,\n#EXT-X-BYTERANGE:99@0\n5.ts\n", "has all segments in one file"),
            ('#EXT-X-KEY:METHOD=AES-128,URI="/key"\n', "has encrypted segments"),
        ):
            tail = text
            numbers, reason = played(source)
            assert (numbers, f"its playlist {why}" in reason) == ([], True)
        # Its new segments were not seen, so that the encoder seemed to be stopped
        tail = "#EXTINF:0.25,\n0.ts\n" * 60_000
        numbers, reason = played(source)
        assert (numbers, "is larger than 1 MiB" in reason) == ([], True)


@pytest.mark.parametrize("numbers_on", [1, 1000])
@pytest.mark.parametrize("is_connected", [True, False])
def test_segments_with_new_numbers_are_not_delivered_again(
    tmp_path: Path, numbers_on: int, is_connected: bool
) -> None:
    """FFmpeg lists its old segments again when it is restarted (append_list), and may number them anew (epoch)."""
    parts = segments(tmp_path, 8)
    first, names = 10, [0, 1, 2, 3]
    done = threading.Event()

    def restart() -> None:
        nonlocal first, names
        first, names = first + numbers_on, [1, 2, 3, 4, 5]

    def answer(request: Request) -> None:
        if found := re.search(r"(\d)\.ts", request.path):
            request.head("video/mp2t")
            request.send(parts[int(found[1])])
            if found[1] == "4" and is_connected and not done.is_set():
                done.set()
                threading.Timer(0.3, restart).start()
            return
        request.head("application/vnd.apple.mpegurl")
        head = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
        request.send((head + "".join(f"#EXTINF:0.25,\n{name}.ts\n" for name in names)).encode())

    with http_camera(answer) as camera:
        section = CameraSection(source=camera.url("/list.m3u8"), timeout_s=1.2)
        source = NetworkSource(section, threading.Event())
        assert played(source)[0] == []
        if not is_connected:
            restart()
            assert played(source)[0] == [4, 5]
            return

        def go_on() -> None:
            nonlocal first, names
            first, names = 11, [1, 2, 3, 4]

        threading.Timer(0.3, go_on).start()
        assert played(source)[0] == [4, 5]


def test_a_segment_that_is_overwritten_is_delivered_each_time() -> None:
    """Its name with a new number could be taken for an old one."""
    known = PlayedSegments()
    known.follow(["#EXT-X-MEDIA-SEQUENCE:1", "live.ts"])
    found = []
    for number, content in enumerate((b"1", b"2", b"2", b"3", b"4"), start=2):
        until_s = known.follow([f"#EXT-X-MEDIA-SEQUENCE:{number}", "live.ts"])
        found.append(known.open(content, until_s[0], "live.ts"))
    assert found == [False, True, False, True, True]  # what the first one replaced is unknown


def test_names_that_are_used_again_are_not_taken_for_old_segments() -> None:
    """An encoder can use a few names in turn."""
    known = PlayedSegments()
    known.follow(["0.ts", "1.ts", "2.ts"])
    for number in range(1, 9):
        names = [f"{n % 3}.ts" for n in range(number, number + 3)]
        until_s = known.follow([f"#EXT-X-MEDIA-SEQUENCE:{number}", *names])
        assert known.open(b"%d" % number, until_s[-1], names[-1])


@pytest.mark.parametrize("first", [1, 3])
def test_names_that_are_used_again_after_a_restart_count_as_old_once(first: int) -> None:
    """The names of a former run could be old for good: every third segment was left out, or all of them."""
    known = PlayedSegments()
    known.follow(["#EXT-X-MEDIA-SEQUENCE:27", "0.ts", "1.ts", "2.ts"])  # what they show is unknown
    left_out = []
    for number in range(first, 30):
        numbers = range(max(0, number - 3), number)
        names = [f"{n % 3}.ts" for n in numbers]
        until_s = known.follow([f"#EXT-X-MEDIA-SEQUENCE:{numbers[0]}", *names])
        # All that are new, as FFmpeg opens them
        for n in numbers if number == first else numbers[-1:]:
            if not known.open(b"%d" % n, until_s[n - numbers[0]], f"{n % 3}.ts"):
                left_out.append(n)
    assert left_out == [*range(first)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x//list.m3u8?key=a/b", "{}.ts"),
        ("/x/y/list.m3u8", "{}.ts?"),
        ("/x//list.m3u8", "../a//./b/..//{}.ts#part"),
        ("/x//list.m3u8", "/../x//{}.ts"),
        ("/x/list.m3u8", "?segment={}.ts"),
        ("/list.m3u8", "//{host}/../{}.ts"),
        ("/list.m3u8", "http://LocalHost:{port}/a/../b//./{}.ts?key=/../a//b"),
    ],
)
def test_segments_are_recognised_however_they_are_written(
    tmp_path: Path, path: str, name: str
) -> None:
    """They were played again, because FFmpeg keeps empty path segments and a "?" at the end."""
    parts = segments(tmp_path, 4)
    numbers = [0, 1, 2]

    def answer(request: Request) -> None:
        if found := re.search(r"(\d)\.ts", request.path):
            request.head("video/mp2t")
            request.send(parts[int(found[1])])
            return
        request.head("application/vnd.apple.mpegurl")
        host = camera.url("").split("/")[2]
        names = [name.format(n, host=host, port=host.split(":")[1]) for n in numbers]
        head = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{numbers[0]}\n"
        request.send((head + "".join(f"#EXTINF:0.25,\n{name}\n" for name in names)).encode())

    with http_camera(answer) as camera:
        section = CameraSection(source=camera.url(path), timeout_s=0.6)
        source = NetworkSource(section, threading.Event())
        assert played(source)[0] == []
        numbers[:] = [1, 2, 3]
        assert played(source)[0] == [3]
        numbers[:] = [2, 3]
        assert played(source)[0] == []


def fragments(folder: Path, qp: int) -> tuple[bytes, list[bytes]]:
    """Return the init section and the segments of a stream; the pictures of segment n are `picture(n)`."""
    folder.mkdir()
    options = {"hls_time": "0.25", "hls_list_size": "0", "hls_segment_type": "fmp4"}
    encoder = {"preset": "ultrafast", "profile": "baseline", "qp": str(qp), "g": "5"}
    with av.open(str(folder / "list.m3u8"), "w", format="hls", options=options) as container:
        stream = container.add_stream("libx264", rate=20, options=encoder)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(picture(number // 5, 320, 240), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    found = [(folder / f"list{number}.m4s").read_bytes() for number in range(6)]
    return (folder / "init.mp4").read_bytes(), found


@pytest.mark.parametrize("is_renamed", [True, False])
def test_an_encoder_that_changes_its_settings_is_opened_again(
    tmp_path: Path, is_renamed: bool
) -> None:
    """FFmpeg kept the first ones: the pictures were grey, and counted as good."""
    streams = {"a": fragments(tmp_path / "a", 18), "b": fragments(tmp_path / "b", 36)}
    listed = ["a0", "a1", "a2"]

    def answer(request: Request) -> None:
        name = request.path[1:].partition(".m4s")[0]
        if name.startswith("init"):
            request.head("video/mp4")
            request.send(streams[name[5] if is_renamed else listed[-1][0]][0])
        elif name in listed:
            request.head("video/mp4")
            request.send(streams[name[0]][1][int(name[1:])])
            if name == listed[-1] == "a3":
                listed.append("b3")
        else:
            request.head("application/vnd.apple.mpegurl")
            request.send(b"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:1\n")
            request.send(f"#EXT-X-MEDIA-SEQUENCE:{len(listed) - 3}\n".encode())
            for part in listed[-3:]:
                init = f"/init-{part[0] if is_renamed else ''}.mp4"
                line = f'#EXT-X-MAP:URI="{init}"\n#EXTINF:0.25,\n/{part}.m4s\n'
                request.send(line.encode())

    with http_camera(answer) as camera:
        section = CameraSection(source=camera.url("/list.m3u8"), timeout_s=0.6)
        source = NetworkSource(section, threading.Event())
        threading.Timer(0.3, lambda: listed.append("a3")).start()
        numbers, reason = played(source)
        assert (numbers, "changed its settings" in reason) == ([3], True)
        threading.Timer(0.3, lambda: listed.extend(("b4", "b5"))).start()
        for _ in range(5):
            numbers, reason = played(source)
            if numbers:
                break
        assert numbers[-1] == 5


@pytest.mark.parametrize("rest", [b"", b"a.m3u8\n"])
def test_a_hostile_playlist_takes_linear_time(rest: bytes) -> None:
    """A megabyte of variants without a URL once kept the capture process busy for minutes."""
    playlist = b"#EXTM3U\n" + b"#EXT-X-STREAM-INF:BANDWIDTH=1\n" * 40_000 + rest
    assert best_variant(playlist) == (rest.decode().strip() or None)


def test_the_largest_variant_is_chosen() -> None:
    lines = (
        "#EXTM3U",
        "#EXT-X-STREAM-INF:BANDWIDTH=9,RESOLUTION=64x48",
        "# a comment",
        "",
        "low.m3u8",
        "#EXT-X-STREAM-INF:AVERAGE-BANDWIDTH=99,BANDWIDTH=1,RESOLUTION=640x480",
        " high.m3u8 ",
        "#EXT-X-STREAM-INF:BANDWIDTH=99",
        "unknown.m3u8",
    )
    for end in ("\n", "\r\n", "\r"):
        assert best_variant(end.join(lines).encode()) == "high.m3u8"
