"""The wire contract: slots are FlatBuffers that other programs can read with code generated from the schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.flatc import SCHEMAS, as_json, python_readers
from support.packets import payload, put_packet, stream_info
from support.rings import frame_stamp, result_stamp, some_detections
from tridetr.shm import boards, layout
from tridetr.shm.boards.board_table import SENTRY, STATUS
from tridetr.shm.detections import DetectionWriter
from tridetr.shm.detections.detection_table import DETECTION_DTYPE, RESULT
from tridetr.shm.device_region import DEVICE_MEMORY
from tridetr.shm.frames import ColorRange, FrameWriter, TraceContext
from tridetr.shm.frames.frame_table import FRAME
from tridetr.shm.names import RingName
from tridetr.shm.packets import PacketWriter
from tridetr.shm.packets.packet_table import PACKET, STREAM
from tridetr.wire.spec import Text, Vector
from tridetr.wire.view import WireError, locate

TRACE = TraceContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, 1)


def slot_of(name: RingName, number: int) -> bytes:
    """Return the bytes of a slot of a ring's first generation."""
    data = name.path(1).read_bytes()
    size = int.from_bytes(data[8 * layout.SLOT_SIZE_WORD :][:8], "little")
    return data[layout.PAGE + number * size :][:size]


def test_frame_slot_converts_with_flatc(instance: str, tmp_path: Path) -> None:
    with FrameWriter(instance, "cam", width=4, height=2, jpeg_capacity=64) as writer:
        slot = writer.begin()
        assert slot is not None
        slot.planes[:] = np.arange(12, dtype=np.uint8).reshape(3, 4)
        slot.jpeg[:3] = b"abc"
        stamp = frame_stamp(7, lossless=True, trace=TRACE, color_range=ColorRange.FULL)
        writer.publish(slot, stamp, jpeg_bytes=3)
        seen = as_json("frame", slot_of(RingName(instance, "cam", "frames"), 0), tmp_path)
    assert seen == {
        "camera": "cam",
        "frame_number": 7,
        "capture_monotonic_ns": 7001,
        "capture_unix_ns": 7002,
        "width": 4,
        "height": 2,
        "color_range": "Full",
        "color_matrix": "Bt709",
        "lossless": True,
        "trace": {
            "trace_id_high": TRACE.trace_id >> 64,
            "trace_id_low": TRACE.trace_id & (2**64 - 1),
            "span_id": TRACE.span_id,
            "flags": 1,
        },
        "pixels": list(range(12)),
        "jpeg": list(b"abc"),
        "device": [],
    }


def test_result_slot_converts_with_flatc(instance: str, tmp_path: Path) -> None:
    with DetectionWriter(instance, "cam") as writer:
        for count in (300, 0, 2):  # the content of one slot must not appear in another
            writer.publish(result_stamp(3), some_detections(count))
        ring = RingName(instance, "cam", "detections")
        seen = [
            as_json("detection", slot_of(ring, number), tmp_path)["detections"]
            for number in range(3)
        ]
        whole = as_json("detection", slot_of(ring, 2), tmp_path)
    assert [len(rows) for rows in seen] == [300, 0, 2]
    assert whole["detections"][1] == {
        "x1": 10.0,
        "y1": 11.0,
        "x2": 12.0,
        "y2": 13.0,
        "score": 14.0,
        "class_id": 15,
        "track_id": 16,
    }
    stamp = result_stamp(3)
    for name in stamp.__slots__:
        if name != "trace":
            assert whole[name] == getattr(stamp, name), name


def test_board_slots_convert_with_flatc(instance: str, tmp_path: Path) -> None:
    status = boards.CameraStatus(
        boards.CameraState.FROZEN, 1, 2, 640, 480, 29.97, "v4l2", "device", 3, "ouch"
    )
    sentry = boards.SentrySnapshot(
        boards.SentryMode.ALARMED, boards.SentryState.TRACKING, 1, "abc", 2, 3, 4
    )
    with boards.StatusWriter(instance, "cam") as writer:
        writer.write(status)
        seen = as_json("status", slot_of(RingName(instance, "cam", "status"), 0), tmp_path)
    assert seen["state"] == "Frozen"
    assert (seen["source_fps"], seen["message"], seen["reconnects"]) == (29.97, "ouch", 3)
    with boards.SentryWriter(instance, "cam") as sentry_writer:
        sentry_writer.write(sentry)
        seen = as_json("sentry", slot_of(RingName(instance, "cam", "sentry"), 0), tmp_path)
    assert (seen["mode"], seen["state"], seen["visit_id"]) == ("Alarmed", "Tracking", "abc")


def test_packet_slot_and_stream_convert_with_flatc(
    instance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = stream_info()
    with PacketWriter(instance, "cam", seconds=1, max_mib=1) as writer:
        writer.start_stream(info)
        put_packet(writer, 9, key=True, size=100, corrupt=True)
        name = RingName(instance, "cam", "packets")
        seen = as_json("packet", slot_of(name, 0), tmp_path)
        data = name.path(1).read_bytes()
    assert data[seen["offset"] : seen["offset"] + seen["size"]] == payload(9, 100)
    packed = data[seen["info_offset"] : seen["info_offset"] + seen["info_size"]]
    assert seen == seen | {
        "generation": 1,
        "pts": 32_400,
        "dts": 25_200,
        "capture_monotonic_ns": 360_000_001,
        "capture_unix_ns": 360_000_002,
        "codec": "H264",
        "flags": "Key Discontinuity Corrupt",
    }
    readers = python_readers(tmp_path, monkeypatch, "packet")
    stream = readers.StreamInfo.GetRootAs(packed)
    assert stream.CodecString() == info.codec_string.encode()
    assert stream.CodecName() == b"h264"
    assert bytes(stream.ExtradataAsNumpy()) == info.extradata
    assert (stream.Width(), stream.Height(), stream.Rotation()) == (1920, 1080, 90)
    assert (stream.TimeBaseNum(), stream.TimeBaseDen(), stream.Fps()) == (1, 90_000, 29.97)
    assert (stream.Codec(), stream.ColorRange(), stream.ColorMatrix()) == (1, 1, 1)
    assert stream.Reorder() == 2


def test_tables_match_the_generated_accessors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generated reader reads each field that is mutated in place."""
    built = bytearray(FRAME.build({"device": 1, "pixels": 12, "jpeg": 64}))
    view = locate(FRAME, memoryview(built), 0, len(built))
    values = [9, 8, 7, 6, 11, 12, 13, 14, 15, 1, 2, True]
    view.record.pack_into(built, view.record_at, *values)
    frame = python_readers(tmp_path, monkeypatch, "frame").Frame.GetRootAs(built)
    trace = frame.Trace()
    assert trace is not None
    assert values == [
        trace.TraceIdHigh(), trace.TraceIdLow(), trace.SpanId(), trace.Flags(),
        frame.FrameNumber(), frame.CaptureMonotonicNs(), frame.CaptureUnixNs(),
        frame.Width(), frame.Height(), frame.ColorRange(), frame.ColorMatrix(), frame.Lossless(),
    ]  # fmt: skip
    assert frame.PixelsLength() == 12
    assert view.spans["pixels"].start % 64 == 0
    handle, uuid = bytes(range(64)), bytes(range(100, 116))
    start = view.spans["device"].start
    built[start : start + DEVICE_MEMORY.size] = DEVICE_MEMORY.pack(handle, uuid, 21, 22, 23, 24)
    device = frame.Device(0)
    assert device is not None
    assert (frame.DeviceLength(), device.SizeOf()) == (1, DEVICE_MEMORY.size)
    assert (bytes(device.Handle()), bytes(device.Uuid())) == (handle, uuid)
    assert (device.Size(), device.Offset(), device.Epoch(), device.DeviceId()) == (21, 22, 23, 24)

    built = bytearray(RESULT.build({"detections": 300}))
    view = locate(RESULT, memoryview(built), 0, len(built))
    view.put_text(memoryview(built), "model_name", "modèle", 64)
    readers = python_readers(tmp_path, monkeypatch, "detection")
    result = readers.DetectionResult.GetRootAs(built)
    assert result.ModelName() == "modèle".encode()
    assert result.DetectionsLength() == 300
    assert DETECTION_DTYPE.itemsize == 28


@pytest.mark.parametrize(
    ("spec", "schema", "table"),
    [
        (FRAME, "frame", "Frame"),
        (RESULT, "detection", "DetectionResult"),
        (SENTRY, "sentry", "Sentry"),
        (STATUS, "status", "CameraStatus"),
        (STREAM, "packet", "StreamInfo"),
        (PACKET, "packet", "EncodedPacket"),
    ],
)
def test_field_order_is_that_of_the_schema(spec: Any, schema: str, table: str) -> None:
    text = (SCHEMAS / f"{schema}.fbs").read_text()
    table = text[text.index(f"\ntable {table} ") :].split("}")[0]
    names = [
        line.split(":")[0].strip() for line in table.splitlines() if ":" in line.split("//")[0]
    ]
    assert [field.name for field in spec.fields] == names


@pytest.mark.parametrize("spec", [FRAME, RESULT, SENTRY, STATUS, PACKET, STREAM])
def test_every_truncation_is_rejected(spec: Any) -> None:
    """No prefix of a valid slot makes a reader read beyond its end."""
    counts = {field.name: 2 for field in spec.fields if isinstance(field, Vector)}
    built = memoryview(spec.build(counts))
    whole = locate(spec, built, 0, len(built))
    for size in range(len(built)):
        try:
            view = locate(spec, built[:size], 0, size)
        except WireError:
            continue
        for name, span in view.spans.items():
            assert span.length_at + 4 <= size
            element = next(f for f in spec.fields if f.name == name)
            width = 1 if isinstance(element, Text) else element.element_size
            assert span.start + span.limit * width <= size
    assert whole.read(built)


def test_a_table_of_another_writer_may_have_another_field_order() -> None:
    """The record is read according to the vtable, not to tridetr's own layout."""
    built = bytearray(SENTRY.build({}))
    view = locate(SENTRY, memoryview(built), 0, len(built))
    view.record.pack_into(built, view.record_at, 1, 2, 3, 4, 5, 0, 1, 6)
    table = int.from_bytes(built[:4], "little")
    vtable = table - int.from_bytes(built[table : table + 4], "little", signed=True)
    first, second = vtable + 4, vtable + 6  # state_since_unix_ns and expires_monotonic_ns
    built[first : first + 2], built[second : second + 2] = (
        built[second : second + 2],
        built[first : first + 2],
    )
    swapped = locate(SENTRY, memoryview(built), 0, len(built))
    assert swapped.read(memoryview(built)) == (2, 1, 3, 4, 5, 0, 1, 6)
