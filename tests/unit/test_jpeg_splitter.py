"""JPEGs are extracted from a byte stream, with any bytes between them and in chunks of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.clips import jpegs
from tridetr.capture.sources.jpeg_splitter import JpegSplitter
from tridetr.capture.sources.playlist import best_variant

PICTURES = jpegs(3)


def split(data: bytes, chunk: int = 1 << 16, **options: Any) -> list[bytes]:
    splitter = JpegSplitter(**options)
    found: list[bytes] = []
    for start in range(0, len(data), chunk):
        found += splitter.feed(data[start : start + chunk])
    return [*found, *splitter.flush()]


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize(
    "between", [b"", b"\r\n--frame\r\nContent-Length: 7\r\n\r\n", b"\xff\xd8 no picture", b"\xff"]
)
def test_pictures_are_extracted_as_they_were_sent(between: bytes, chunk: int) -> None:
    assert split(between + between.join(PICTURES) + between, chunk) == PICTURES


def test_the_size_is_known() -> None:
    splitter = JpegSplitter()
    list(splitter.feed(PICTURES[0]))
    assert splitter.size == (320, 240)


def test_a_picture_without_an_end_marker_ends_at_the_next_one() -> None:
    head = b"\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    cut = [picture[:-2] for picture in PICTURES]
    sent = head + head.join(cut)
    assert split(sent, boundary=b"\r\n--frame") == cut


def test_an_embedded_thumbnail_is_part_of_its_picture() -> None:
    thumbnail = PICTURES[1][:2000] + b"\xff\xd9"
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    picture = PICTURES[0][:2] + segment + PICTURES[0][2:]
    assert split(picture) == [picture]


def test_a_picture_without_an_end_marker_uses_limited_memory() -> None:
    splitter = JpegSplitter(max_bytes=100_000)
    list(splitter.feed(PICTURES[0][:-2]))
    for _ in range(100):
        list(splitter.feed(b"\x00" * 10_000))
    assert splitter.dropped >= 1
    assert len(splitter._buffer) <= 110_000
    assert list(splitter.feed(PICTURES[1])) == [PICTURES[1]]


@given(st.binary(max_size=3000), st.integers(1, 500))
def test_a_valid_picture_after_any_noise_is_found(noise: bytes, chunk: int) -> None:
    found = split(noise + b"\x00" * 70_000 + PICTURES[0] + PICTURES[1], chunk + 1000)
    assert found[-1] == PICTURES[1]


def test_noise_of_markers() -> None:
    dice = np.random.default_rng(0)
    for _ in range(200):
        pieces = [bytes([0xFF, value]) for value in dice.integers(0, 256, 40, dtype=np.uint8)]
        split(b"".join(pieces), 13)


class TestBestVariant:
    def test_the_largest_picture_wins(self) -> None:
        playlist = (
            b"#EXTM3U\n"
            b'#EXT-X-STREAM-INF:AVERAGE-BANDWIDTH=9,BANDWIDTH=100,RESOLUTION=640x360,CODECS="a,b"\n'
            b"low.m3u8\n"
            b"#EXT-X-STREAM-INF:BANDWIDTH=900,RESOLUTION=1280x720\r\n#comment\r\nhigh.m3u8\r\n"
            b"#EXT-X-STREAM-INF:BANDWIDTH=1000\naudio.m3u8\n"
        )
        assert best_variant(playlist) == "high.m3u8"

    def test_a_media_playlist_has_none(self) -> None:
        assert best_variant(b"#EXTM3U\n#EXTINF:2,\na.ts\n") is None


def test_broken_headers_within_each_other_cost_linear_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each header leads into the same long chain of segments: 4 MB kept a core busy for ten seconds."""
    splitter = JpegSplitter()
    steps = 0
    parse = splitter._segment

    def counted() -> int | None:
        nonlocal steps
        steps += 1
        return parse()

    monkeypatch.setattr(splitter, "_segment", counted)
    headers = b"\xff\xd8\xff\xe0\xff\xfd" + bytes(9)  # a segment of 65535 bytes, a multiple of 15
    data = headers * 50_000
    for start in range(0, len(data), 1 << 16):
        assert not list(splitter.feed(data[start : start + (1 << 16)]))
    assert not list(splitter.feed(bytes(1 << 17)))
    assert steps < 100_000
