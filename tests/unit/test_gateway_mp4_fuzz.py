"""A hostile camera's video can end its own stream, but not harm the gateway."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.packets import stream_info
from tridetr.gateway.mp4 import Mp4Muxer, StreamDamagedError
from tridetr.shm.packets import Packet, StreamInfo, VideoCodec

_START = b"\0\0\0\1"
# The heads of VPS, SPS and PPS of H.265, and of SPS and PPS of H.264
_HEADS = ((b"\x40\1", b"\x42\1", b"\x44\1"), (b"\x67\x42\0\x1e", b"\x68"), (b"\1",), ())
_TIMES = st.sampled_from([None, 0, 3600, 2**62, -(2**62), 2**63 - 1])


@st.composite
def _streams(draw: st.DrawFn) -> StreamInfo:
    noise = random.Random(draw(st.integers(0, 2**32)))
    sets = b"".join(
        _START + head + noise.randbytes(noise.randrange(60))
        for head in draw(st.sampled_from(_HEADS))
    )
    return stream_info(
        codec=draw(st.sampled_from([VideoCodec.H264, VideoCodec.HEVC])),
        extradata=sets,
        width=draw(st.sampled_from([0, 1, 640, 16384, 2**31 - 1])),
        time_base=draw(st.sampled_from([(1, 90_000), (0, 1), (1, 0), (2**31 - 1, 1)])),
        fps=draw(st.sampled_from([0.0, 1e-9, 30.0, 1e9])),
    )


@settings(max_examples=400)
@given(_streams(), st.lists(st.tuples(st.binary(max_size=99), _TIMES, _TIMES), max_size=4))
def test_streams_of_noise_end(
    info: StreamInfo, packets: list[tuple[bytes, int | None, int | None]]
) -> None:
    with contextlib.suppress(StreamDamagedError), Mp4Muxer(info) as muxer:
        for number, (data, dts, pts) in enumerate(packets, 1):
            muxer.add(
                Packet(
                    sequence=number,
                    generation=1,
                    info=info,
                    codec=info.codec,
                    is_key=number == 1,
                    discontinuity=False,
                    corrupt=False,
                    pts=pts,
                    dts=dts,
                    duration=None,
                    capture_monotonic_ns=number,
                    capture_unix_ns=number,
                    data=_START + b"\x65" + data,
                    lost=0,
                )
            )


@pytest.mark.timeout(30)
def test_parameter_sets_that_keep_the_muxer_busy_are_refused() -> None:
    """FFmpeg's MP4 muxer loops as often as an H.265 stream demands, which would block the viewer for all cameras."""
    damaged = bytes.fromhex(
        "0000000140013f75eb6c2f667b8ac793f74b4dd121e4c8b141e1f23e4377d55a29000000014201534beeb7cb"
        "1e394a2e5d3844dd2a73de059cdf3aaa137b050000000144016274828da024701b"
    )
    with pytest.raises(StreamDamagedError, match="parameter sets"):
        Mp4Muxer(stream_info(codec=VideoCodec.HEVC, extradata=damaged))
