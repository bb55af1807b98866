"""H.264 and MPEG-TS from a hostile camera: every stream ends in frames, a known error, or nothing."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tridetr.capture.sources.av import frame_rate, open_video, packets
from tridetr.errors import SourceError


def clip(container: str) -> bytes:
    """Return eight small H.264 frames."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("libx264", rate=10, options={"g": "4", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8):
            picture = np.full((72, 64), 16 + 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return file.getvalue()


CLIPS = {"h264": clip("h264"), "mpegts": clip("mpegts"), "matroska": clip("matroska")}
CHANGE = st.tuples(st.floats(0, 1), st.one_of(st.binary(min_size=1, max_size=12), st.none()))


def decode(path: Path) -> int:
    """Read it as the file and network sources do; return the number of frames."""
    try:
        container, stream = open_video(str(path), shown=path.name, options={}, timeout_s=5)
    except SourceError:
        return 0
    count = 0
    with container:
        assert 0 <= frame_rate(stream) <= 1000
        try:
            for packet in packets(container, stream):
                try:
                    for frame in packet.decode():
                        count += 1
                        assert frame.width * frame.height < 2**30
                except av.FFmpegError:
                    continue
        except av.FFmpegError:
            pass
    return count


@pytest.mark.parametrize("kind", CLIPS)
def test_the_clips_are_whole(kind: str, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(CLIPS[kind])
    assert decode(tmp_path / "clip") == 8


@pytest.mark.parametrize("kind", CLIPS)
@settings(max_examples=60, deadline=None)
@given(changes=st.lists(CHANGE, min_size=1, max_size=8), cut=st.floats(0, 1))
@example(changes=[(0.0, b"\0\0\0\1\x67")], cut=1.0)
@example(changes=[(0.5, None)], cut=1.0)
def test_no_damage_does_more_than_lose_frames(
    kind: str,
    changes: list[tuple[float, bytes | None]],
    cut: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = bytearray(CLIPS[kind])
    for at, new in changes:
        start = int(at * (len(data) - 1))
        if new is None:
            del data[start : start + 50]
        else:
            data[start : start + len(new)] = new
    path = tmp_path_factory.mktemp("fuzz") / "clip"
    path.write_bytes(bytes(data[: int(cut * len(data))]))
    assert 0 <= decode(path) <= 64
