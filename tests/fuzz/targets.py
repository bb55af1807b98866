"""What is fuzzed: functions that take bytes from outside, each with the errors that it may end in.

A target returns or raises nothing else but what it documents. `tests/fuzz/run.py` feeds them with inputs that grow by
coverage; every input that once broke one is in `corpus/<target>/` and is tried in each test run.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.config.load import parse_config
from tridetr.controller import payloads
from tridetr.controller.visits import Record
from tridetr.errors import ConfigError, InferenceFailed, ShmError, SourceError
from tridetr.gateway import message
from tridetr.gateway.auth import TokenAuth
from tridetr.gateway.login_sessions import LoginSessions
from tridetr.gateway.origins import is_host_trusted, is_origin_allowed
from tridetr.jpeg import complete_jpeg, for_browser, read_info
from tridetr.shm import layout
from tridetr.shm.boards.board_table import SENTRY, STATUS
from tridetr.shm.detections.detection_table import RESULT
from tridetr.shm.frames.frame_table import FRAME
from tridetr.triton.answers import parse_prediction
from tridetr.triton.server_log import parse as parse_log_line
from tridetr.wire.spec import Text, Vector
from tridetr.wire.view import locate

TABLES = (FRAME, RESULT, SENTRY, STATUS)
DECODER = JpegDecoder()
AUTH = TokenAuth("correct-horse-battery-staple")
SESSIONS = LoginSessions("correct-horse-battery-staple", Path("/dev/null"))


def table(data: bytes) -> None:
    """A slot of a ring that another program wrote."""
    spec, slot = TABLES[data[0] % len(TABLES)] if data else TABLES[0], memoryview(data[1:])
    slot = memoryview(bytes(slot[:4]) + spec.identifier + bytes(slot[8:]))
    with contextlib.suppress(ShmError):
        found = locate(spec, slot, 0, len(slot))
        found.read(slot)
        for name, span in found.spans.items():
            assert 0 <= span.start <= len(slot)
            with contextlib.suppress(ShmError):
                found.length(slot, name)
        for field in spec.fields:
            if isinstance(field, Text):
                found.text(slot, field.name)


def header(data: bytes) -> None:
    """The header of a ring."""
    page = memoryview(data.ljust(layout.PAGE, b"\0")[: layout.PAGE]).cast("Q")
    with contextlib.suppress(ShmError):
        made = layout.read_geometry(page, kind=1, generation=1, file_size=1 << 20)
        assert made.file_size <= 1 << 20


def mjpeg(data: bytes) -> None:
    """A picture of a camera: completed, looked at, decoded."""
    complete_jpeg(memoryview(data))
    read_info(data)
    for_browser(data, 64, 48)
    with contextlib.suppress(SourceError):
        DECODER.decode(data)
    with contextlib.suppress(ValueError):
        simplejpeg.decode_jpeg_header(data)


def answer(data: bytes) -> None:
    """An answer of an inference server."""
    with contextlib.suppress(DecodeError, InferenceFailed):
        parse_prediction(service_pb2.ModelInferResponse.FromString(data))


def config(data: bytes) -> None:
    """A configuration file."""
    with contextlib.suppress(ConfigError):
        parse_config(data.decode(errors="replace"), origin=Path("node.yaml"))


def viewer(data: bytes) -> None:
    """A command of a viewer, and a message to one."""
    with contextlib.suppress(message.MessageError):
        message.parse_command(data.decode(errors="replace"))
    with contextlib.suppress(message.MessageError):
        message.unpack(data)


def access(data: bytes) -> None:
    """Headers of a request."""
    text = data.decode(errors="surrogateescape")
    first, _, second = text.partition("\n")
    assert not AUTH.is_bearer(text)
    assert not AUTH.is_subprotocol([first, second])
    assert SESSIONS.check(text, 0) is None
    is_host_trusted(first, [second])
    is_origin_allowed(first, second, [])


def mqtt(data: bytes) -> None:
    """A command over MQTT."""
    assert payloads.is_refresh(data) in (False, True)


def record(data: bytes) -> None:
    """The rows of the database."""
    with contextlib.suppress(ValueError):
        text = data.decode(errors="replace")
        assert Record.from_json(Record.from_json(text).to_json()).to_json()


def log_line(data: bytes) -> None:
    """A line of the server's log."""
    parse_log_line(data.decode(errors="replace"))


TARGETS: dict[str, Callable[[bytes], None]] = {
    made.__name__: made
    for made in (table, header, mjpeg, answer, config, viewer, access, mqtt, record, log_line)
}


def seeds() -> dict[str, list[bytes]]:
    """Return good inputs of each target to begin with."""
    picture = simplejpeg.encode_jpeg(np.full((48, 64, 3), 90, np.uint8), quality=80)
    tables = [bytes([number]) + _table(number) for number in range(len(TABLES))]
    words = [layout.MAGIC, layout.LAYOUT_VERSION, 1, 1, 3, 4096, 4096, 1, 2, 3]
    return {
        "table": tables,
        "header": [struct.pack(f"<{len(words)}Q", *words)],
        "mjpeg": [picture, picture[:100], b"\xff\xd8\xff\xdd\x00\x04\x00\x04" + picture[2:]],
        "answer": [_answer().SerializeToString()],
        "config": [b"cameras: {hall: {source: synthetic}}", b"mqtt: {host: h}\nsentry: {clear_s: 3}"],
        "viewer": [b'{"type":"view","size":"small","window":2}', b'{"type":"ping","t":1.5}'],
        "access": [b"localhost:8080\nhttp://localhost:8080", b"Bearer token\n1.x"],
        "mqtt": [b"refresh"],
        "record": [Record().to_json().encode()],
        "log_line": [b'2026-01-02T04:47:57Z E 8481 server.cc:1] "text"', b"I1122 04:47:56.5 8490 a.py:6]  x"],
    }  # fmt: skip


def _answer() -> service_pb2.ModelInferResponse:
    made = service_pb2.ModelInferResponse()
    for name, shape, nbytes in (
        ("boxes", [1, 1, 4], 16),
        ("scores", [1, 1], 4),
        ("classes", [1, 1], 4),
    ):
        made.outputs.add(name=name, datatype="FP32", shape=shape)
        made.raw_output_contents.append(bytes(nbytes))
    return made


def _table(number: int) -> bytes:
    """Return a slot as our own writer builds it."""
    spec = TABLES[number]
    return spec.build({field.name: 4 for field in spec.fields if isinstance(field, Vector)})
