"""Live playlists: read faster while the newest segments are too far away, whatever the camera's timestamps say."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest

from support.http_camera import Request, http_camera
from tridetr.capture.sources.http_request import HttpAddress
from tridetr.capture.sources.metronome import Metronome
from tridetr.capture.sources.playlist import PlaylistParts
from tridetr.hang_up import HangUp


def test_the_distance_to_the_newest_segment_is_known() -> None:
    ends = [False]

    def answer(request: Request) -> None:
        request.head()
        if "/parts/" in request.path:
            request.send(b"G" * 100)
            return
        request.send(b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:7\n")
        for number in range(4):
            request.send(f"#EXTINF:2.000,\nparts/{number}.ts?a=1\n".encode())
        request.send(b"#EXT-X-ENDLIST\n" * ends[0])

    with http_camera(answer) as camera:
        address = HttpAddress(camera.url("/list.m3u8"), "cam", None, None, 10.0, HangUp())
        parts = PlaylistParts(address)

        def read(path: str) -> bytes:
            part = parts(camera.url(path), 0, {})
            try:
                return b"".join(iter(lambda: part.read(30), b""))
            finally:
                part.close()

        assert read("/list.m3u8").count(b"EXTINF") == 4
        behind = []
        for number in range(4):
            assert read(f"/parts/{number}.ts?a=1") == b"G" * 100
            behind.append(parts.is_behind)
        assert behind == [True, True, False, False]
        ends[0] = True  # a recording is played at its own speed
        for path in ("/parts/0.ts?a=1", "/list.m3u8", "/parts/0.ts?a=1"):
            read(path)
        assert not parts.is_behind


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
