"""One writer and its readers in one process: what is read, and what a lease protects."""

from __future__ import annotations

import numpy as np
import pytest

from support.rings import H, W, frame_stamp, frame_writer, put_frame, result_stamp, some_detections
from tridetr.shm import layout, names, ring_reader
from tridetr.shm.boards import (
    CameraState,
    CameraStatus,
    SentryMode,
    SentryReader,
    SentrySnapshot,
    SentryState,
    SentryWriter,
    StatusReader,
    StatusWriter,
)
from tridetr.shm.detections import DetectionReader, DetectionWriter
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameReader, TraceContext


def test_a_lease_shows_the_published_frame(instance: str) -> None:
    stamp = frame_stamp(
        41,
        color_range=ColorRange.FULL,
        color_matrix=ColorMatrix.BT2020,
        lossless=True,
        trace=TraceContext(1 << 127 | 3, 1 << 63, 0),
    )
    with (
        frame_writer(instance, jpeg_capacity=100) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        slot = writer.begin()
        assert slot is not None
        slot.y[:], slot.u[:], slot.v[:] = 1, 2, 3
        slot.jpeg[:4] = b"\xff\xd8\xff\xd9"
        sequence = writer.publish(slot, stamp, jpeg_bytes=4)
        lease = reader.lease_newest()
        assert lease is not None
        with lease:
            assert (lease.sequence, lease.width, lease.height) == (sequence, W, H)
            assert lease.stamp == stamp
            assert lease.planes.shape == (H * 3 // 2, W)
            assert (lease.planes[:H] == 1).all()
            assert (lease.planes[H : H + H // 4] == 2).all()
            assert (lease.planes[H + H // 4 :] == 3).all()
            assert bytes(lease.jpeg) == b"\xff\xd8\xff\xd9"
            assert not lease.planes.flags.writeable
            assert lease.pixels_nbytes == W * H * 3 // 2
            # What is registered with Triton: these bytes of this file are the pixels.
            data = (names.SHM_DIR / lease.region.shm_name).read_bytes()
            assert len(data) == lease.region.size_bytes
            pixels = data[lease.pixels_offset :][: lease.pixels_nbytes]
            assert pixels == lease.planes.tobytes()
            assert lease.pixels_offset % 64 == 0


def test_only_the_newest_frame_is_leased_and_only_once(instance: str) -> None:
    with frame_writer(instance) as writer, FrameReader(instance, "cam", "gateway") as reader:
        assert reader.lease_newest() is None
        for value in range(20):
            put_frame(writer, value)
        lease = reader.lease_newest()
        assert lease is not None
        with lease:
            assert (lease.sequence, lease.planes[0, 0]) == (20, 19)
        assert reader.lease_newest(20) is None
        assert reader.lease_newest(19) is not None


def test_results_are_read_in_order_while_the_ring_holds_them(instance: str) -> None:
    with (
        DetectionWriter(instance, "cam", slots=8) as writer,
        DetectionReader(instance, "cam", None) as reader,
    ):
        assert reader.lease_next() is None
        seen: list[int] = []
        for number in range(30):
            writer.publish(result_stamp(number), some_detections(number % 5))
            if number % 10 == 9:
                while (lease := reader.lease_next(seen[-1] if seen else 0)) is not None:
                    with lease:
                        assert lease.stamp == result_stamp(lease.sequence - 1)
                        expected = some_detections((lease.sequence - 1) % 5)
                        assert np.array_equal(lease.detections, expected)
                        seen.append(lease.sequence)
        # 8 slots keep the last 8 of every 10 results.
        assert seen == [*range(3, 11), *range(13, 21), *range(23, 31)]


@pytest.mark.parametrize("count", [0, 1, 299, 300])
def test_any_number_of_detections(instance: str, count: int) -> None:
    with (
        DetectionWriter(instance, "cam") as writer,
        DetectionReader(instance, "cam", None) as reader,
    ):
        writer.publish(result_stamp(), some_detections(count))
        lease = reader.lease_newest()
        assert lease is not None
        with lease:
            assert np.array_equal(lease.detections, some_detections(count))


def test_the_worst_detections_beyond_the_capacity_are_dropped(instance: str) -> None:
    with DetectionWriter(instance, "cam", max_detections=3) as writer:
        writer.publish(result_stamp(), some_detections(5))
        with DetectionReader(instance, "cam", None) as reader:
            lease = reader.lease_newest()
            assert lease is not None
            assert np.array_equal(lease.detections, some_detections(3))


def test_boards_show_the_newest_entry(instance: str) -> None:
    status = CameraStatus(
        CameraState.OFFLINE, 1, 2, 640, 480, 12.5, "rtsp", "arrival", 3, "no route ü"
    )
    sentry = SentrySnapshot(SentryMode.ALARMED, SentryState.VALIDATION, 4, "v" * 36, 5, 6, 7)
    with (
        SentryReader(instance, "cam", "capture") as sentry_reader,
        StatusReader(instance, "cam") as status_reader,
    ):
        assert sentry_reader.read() is None
        assert status_reader.read() is None
        with (
            SentryWriter(instance, "cam") as sentry_writer,
            StatusWriter(instance, "cam") as status_writer,
        ):
            for number in range(9):
                sentry_writer.write(
                    SentrySnapshot(SentryMode.STANDBY, SentryState.STANDBY, number, "", 0)
                )
                status_writer.write(CameraStatus(CameraState.LIVE, number, 0, message="x" * number))
            sentry_writer.write(sentry)
            status_writer.write(status)
        assert sentry_reader.read() == sentry  # also after the writer has gone
        assert status_reader.read() == status


def test_long_texts_are_truncated_between_characters(instance: str) -> None:
    with StatusWriter(instance, "cam") as writer, StatusReader(instance, "cam") as reader:
        writer.write(CameraStatus(CameraState.OFFLINE, 1, 2, message="€" * 100))
        status = reader.read()
        assert status is not None
        assert status.message == "€" * 66  # 198 of at most 200 bytes


def test_a_leased_slot_is_not_written(instance: str) -> None:
    with (
        frame_writer(instance, slots=4) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        put_frame(writer, 1)
        lease = reader.lease_newest()
        assert lease is not None
        for value in range(2, 30):
            assert put_frame(writer, value)
        assert (lease.planes == 1).all()
        lease.release()
        lease.release()  # does nothing
        values = {put_frame(writer, value) for value in range(8)}
        assert None not in values


def test_the_writer_gets_no_slot_only_if_all_are_leased(instance: str) -> None:
    with (
        frame_writer(instance, slots=4) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        leases = []
        for value in range(4):
            assert put_frame(writer, value)
            lease = reader.lease_newest()
            assert lease is not None
            leases.append(lease)
        assert writer.begin() is None
        leases.pop(0).release()
        assert put_frame(writer, 9)
        assert [int(lease.planes[0, 0]) for lease in leases] == [1, 2, 3]


def test_two_leases_of_one_slot_are_independent(instance: str) -> None:
    """A lock is not counted: releasing one lease must not end the other one."""
    with (
        frame_writer(instance, slots=4) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        put_frame(writer, 1)
        first, second = reader.lease_newest(), reader.lease_newest()
        assert first is not None
        assert second is not None
        first.release()
        for value in range(2, 12):
            put_frame(writer, value)
        assert (second.planes == 1).all()


def test_an_abandoned_slot_is_never_read(instance: str) -> None:
    with frame_writer(instance) as writer, FrameReader(instance, "cam", "gateway") as reader:
        put_frame(writer, 1)
        for _ in range(20):
            slot = writer.begin()
            assert slot is not None
            slot.planes[:] = 99
            writer.abandon(slot)
        lease = reader.lease_newest()
        assert lease is not None
        assert (lease.sequence, int(lease.planes.max())) == (1, 1)
        for value in range(2, 10):
            put_frame(writer, value)
        slot = writer.begin()
        assert slot is not None
        slot.planes[:] = 99
        writer.abandon(slot)
        after = 0
        while (old := reader.lease_next(after)) is not None:  # nor is what the slot held before
            with old:
                assert int(old.planes[0, 0]) == old.sequence
                after = old.sequence
        assert after == 9


def test_a_closed_reader_holds_nothing(instance: str) -> None:
    with frame_writer(instance, slots=4) as writer:
        put_frame(writer, 1)
        reader = FrameReader(instance, "cam", "gateway")
        lease = reader.lease_newest()
        assert lease is not None
        planes = lease.planes
        reader.close()
        assert {put_frame(writer, value) for value in range(8)} == set(range(2, 10))
        lease.release()
        assert planes.shape  # still mapped: no crash, whatever its content


@pytest.mark.parametrize("known", [False, True], ids=["first lease", "later lease"])
def test_a_slot_that_is_abandoned_while_it_is_being_leased_is_not_leased(
    instance: str, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Between the reader's check of a slot and its lock, the writer took the slot and abandoned it."""
    with frame_writer(instance) as writer, FrameReader(instance, "cam", "gateway") as reader:
        put_frame(writer, 1)
        if known:
            lease = reader.lease_newest()
            assert lease is not None
            lease.release()
        lock = ring_reader._fcntl

        def late(descriptor: int, command: int, argument: bytes) -> object:
            writer._ring.segment.words[layout.SEQUENCES] = 0
            return lock(descriptor, command, argument)

        monkeypatch.setattr(ring_reader, "_fcntl", late)
        assert reader.lease_newest() is None
        assert reader._mapping is not None
        assert not any(reader._mapping.held)
