"""The viewer protocol, the mailbox and the rate limits."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import struct

import pytest
from hypercorn.protocol.ws_stream import FrameTooLargeError
from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import TextMessage

from support.waiting import slack
from tridetr.gateway.http1 import _Buffer
from tridetr.gateway.limits import Bucket, PeerBuckets
from tridetr.gateway.message import (
    MAX_COMMAND_BYTES,
    Ack,
    MessageError,
    Ping,
    View,
    pack,
    parse_command,
    unpack,
)
from tridetr.gateway.viewer_session import KINDS, Mailbox

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=6), st.binary(max_size=300))
def test_unpack_returns_what_was_packed(header: dict[str, object], image: bytes) -> None:
    assert unpack(pack(header, image)) == (header, image)


def test_layout_is_length_json_image() -> None:
    packed = pack({"type": "frame"}, b"\xff\xd8")
    (length,) = struct.unpack_from("<I", packed)
    assert json.loads(packed[4 : 4 + length]) == {"type": "frame"}
    assert packed[4 + length :] == b"\xff\xd8"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01\x00",
        struct.pack("<I", 5) + b"{}",
        struct.pack("<I", 2**32 - 1),
        struct.pack("<I", 2) + b"[]",
        struct.pack("<I", 3) + b"{,}",
        struct.pack("<I", 2) + b"\xff\xfe",
    ],
)
def test_broken_messages_are_refused(message: bytes) -> None:
    with pytest.raises(MessageError):
        unpack(message)


@given(st.binary(max_size=64))
def test_unpack_of_noise_raises_nothing_else(noise: bytes) -> None:
    with contextlib.suppress(MessageError):
        unpack(noise)


def test_nan_is_rejected() -> None:
    with pytest.raises(ValueError, match="JSON"):
        pack({"age": float("nan")})


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('{"type":"ping","t":12.5}', Ping(type="ping", t=12.5)),
        ('{"type":"ping","t":3}', Ping(type="ping", t=3.0)),
        ('{"type":"ack","frames":7}', Ack(type="ack", frames=7)),
        ('{"type":"view"}', View(type="view", size="full", paused=False, window=0)),
        (
            '{"type":"view","size":"small","paused":true,"window":2}',
            View(type="view", size="small", paused=True, window=2),
        ),
    ],
)
def test_viewer_commands_are_parsed(text: str, command: object) -> None:
    assert parse_command(text) == command


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"ping","t":1}',
        "",
        "ping",
        "[]",
        "null",
        '{"type":"shutdown"}',
        '{"type":"ping"}',
        '{"type":"ping","t":"1"}',
        '{"type":"ping","t":1e300}',
        '{"type":"ping","t":NaN}',
        '{"type":"ack","frames":-1}',
        '{"type":"ack","frames":1.5}',
        '{"type":"view","size":"huge"}',
        '{"type":"view","window":9}',
        '{"type":"view","extra":1}',
        '{"type":"ping","t":1' + " " * MAX_COMMAND_BYTES + "}",
        "[" * 900,
        '{"type":"ping","t":1}\ud800',
    ],
)
def test_invalid_commands_are_rejected(data: str | bytes) -> None:
    with pytest.raises(MessageError) as caught:
        parse_command(data)
    assert len(str(caught.value)) <= 120  # it must fit into a WebSocket close frame


@given(st.text(max_size=200))
def test_commands_from_noise_raise_nothing_else(text: str) -> None:
    with contextlib.suppress(MessageError):
        parse_command(text)


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.binary(max_size=3)), max_size=50))
def test_mailbox_keeps_the_newest_of_each_kind(puts: list[tuple[str, bytes]]) -> None:
    box, newest, lost, replaced = Mailbox(), {}, 0, 0
    for kind, message in puts:
        replaced += kind in newest
        newest[kind] = message
        lost += box.put(kind, message)
        assert len(box) <= len(KINDS)
    assert lost == replaced
    taken = []
    while (item := box.take()) is not None:
        taken.append(item)
    assert dict(taken) == newest
    order = [KINDS.index(kind) for kind, _ in taken]
    assert order == sorted(order)


def test_mailbox_holds_frames_back() -> None:
    box = Mailbox()
    box.put("frame", b"picture")
    box.put("state", b"state")
    assert box.take(frames=False) == ("state", b"state")
    assert box.take(frames=False) is None
    assert box.take() == ("frame", b"picture")
    box.put("frame", b"picture")
    box.discard("frame")
    box.discard("frame")
    assert box.take() is None


def test_mailbox_rejects_unknown_kinds() -> None:
    with pytest.raises(ValueError, match="unknown message kind"):
        Mailbox().put("gossip", b"")


def test_bucket_gives_burst_then_rate() -> None:
    bucket = Bucket(rate=2, burst=3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.is_empty(0.4)
    assert bucket.wait_s() == pytest.approx(0.1)
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_bucket_can_be_overdrawn() -> None:
    bucket = Bucket(rate=10, burst=20)
    assert bucket.spend(0.0, 20) == 0
    assert bucket.spend(0.0, 5) == 0.5
    assert bucket.spend(0.5, 10) == 1.0
    assert bucket.spend(100.0, 20) == 0


def test_overlong_message_is_not_stored() -> None:
    async def overlong() -> int:
        cut_off = asyncio.Event()
        buffer = _Buffer(1000, cut_off.set)
        for _ in range(500):
            with contextlib.suppress(FrameTooLargeError):
                buffer.extend(TextMessage("x" * 100, message_finished=False))
        await asyncio.wait_for(cut_off.wait(), slack(10))
        assert isinstance(buffer.value, io.StringIO)
        return len(buffer.value.getvalue())

    assert asyncio.run(overlong()) <= 1000


def test_bucket_tolerates_a_clock_that_stops_or_goes_backwards() -> None:
    bucket = Bucket(rate=1, burst=1)
    assert bucket.take(10.0)
    assert not bucket.take(9.0)
    assert not bucket.take(9.5)
    assert bucket.take(11.0)


def test_each_peer_has_a_bucket_and_old_peers_are_dropped() -> None:
    peers = PeerBuckets(rate=1, burst=1, max_peers=2)
    assert peers.of("a").take(0)
    assert not peers.of("a").take(0)
    assert peers.of("b").take(0)
    peers.of("a")
    peers.of("c")  # b is the least recently used one
    assert len(peers) == 2
    assert not peers.of("a").take(0)
    assert peers.of("b").take(0)
