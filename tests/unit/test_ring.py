"""One writer and its readers in one process: leases, restarts, generations, wake-ups, errors."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.rings import (
    frame_stamp,
    put_frame,
    result_stamp,
    some_detections,
    wakeup_of,
)
from tridetr.errors import ShmError
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
from tridetr.shm.frames import (
    ColorMatrix,
    ColorRange,
    FrameReader,
    FrameWriter,
    TraceContext,
)
from tridetr.shm.wakeup import Wakeup

W, H = 64, 32


MakeWriter = Callable[..., FrameWriter]


@pytest.fixture
def frame_writer() -> MakeWriter:
    """Return a factory of frame writers."""

    def make(instance: str, **changes: Any) -> FrameWriter:
        sizes = {"width": W, "height": H}
        return FrameWriter(instance, "cam", **sizes | changes)

    return make


# ---------------------------------------------------------------- reading


def test_a_lease_shows_the_published_frame(instance: str, frame_writer: MakeWriter) -> None:
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


def test_only_the_newest_frame_is_leased_and_only_once(
    instance: str, frame_writer: MakeWriter
) -> None:
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


# ---------------------------------------------------------------- leases


def test_a_leased_slot_is_not_written(instance: str, frame_writer: MakeWriter) -> None:
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


def test_the_writer_gets_no_slot_only_if_all_are_leased(
    instance: str, frame_writer: MakeWriter
) -> None:
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


def test_two_leases_of_one_slot_are_independent(instance: str, frame_writer: MakeWriter) -> None:
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


def test_an_abandoned_slot_is_never_read(instance: str, frame_writer: MakeWriter) -> None:
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


def test_a_closed_reader_holds_nothing(instance: str, frame_writer: MakeWriter) -> None:
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
    instance: str, monkeypatch: pytest.MonkeyPatch, known: bool, frame_writer: MakeWriter
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


# ---------------------------------------------------------------- restarts and generations


def test_a_restarted_writer_reuses_the_file(instance: str, frame_writer: MakeWriter) -> None:
    with FrameReader(instance, "cam", "gateway") as reader:
        with frame_writer(instance, slots=4) as writer:
            for value in range(3):
                put_frame(writer, value)
            held = reader.lease_newest()
            assert held is not None
            region = reader.region
        with frame_writer(instance, slots=4) as writer:
            assert reader.lease_newest() is None  # old frames are not read as new ones
            assert reader.lease_next() is None
            for value in range(10, 20):
                sequence = put_frame(writer, value)
                lease = reader.lease_newest()
                assert lease is not None
                with lease:
                    assert (lease.sequence, int(lease.planes[0, 0])) == (sequence, value)
            assert sequence == 13  # sequences continue
            assert (held.planes == 2).all()  # the old lease still protects its slot
            assert reader.region == region
    assert len(names.list_instance(instance)) == 1


def test_another_size_creates_the_next_generation(instance: str, frame_writer: MakeWriter) -> None:
    with frame_writer(instance) as writer, FrameReader(instance, "cam", "gateway") as reader:
        put_frame(writer, 1)
        held = reader.lease_newest()
        assert held is not None
        writer.resize(W * 2, H)
        assert put_frame(writer, 2) == 2
        lease = reader.lease_newest(1)
        assert lease is not None
        with lease:
            assert (lease.sequence, lease.width, lease.planes.shape) == (
                2,
                W * 2,
                (H * 3 // 2, W * 2),
            )
            assert lease.region.generation == held.region.generation + 1
            assert lease.region != held.region
        assert (held.planes == 1).all()
        held.release()


def test_a_writer_restarted_with_another_size(instance: str, frame_writer: MakeWriter) -> None:
    with FrameReader(instance, "cam", "gateway") as reader:
        for generation, width in enumerate((W, W * 2, W * 2, W), start=1):
            with frame_writer(instance, width=width) as writer:
                put_frame(writer, width)
                lease = reader.lease_newest()
                assert lease is not None
                with lease:
                    assert (lease.width, lease.sequence) == (width, generation)
    # Earlier ones are removed as soon as they have no leases: /dev/shm must not fill up.
    assert [path.name[-1] for path in names.list_instance(instance)] == ["3"]


def test_a_new_reader_takes_the_newest_generation(instance: str, frame_writer: MakeWriter) -> None:
    with frame_writer(instance) as writer:
        put_frame(writer, 1)
        writer.resize(W, H * 2)
        put_frame(writer, 2)
        with FrameReader(instance, "cam", "gateway") as reader:
            lease = reader.lease_newest()
            assert lease is not None
            assert (lease.height, lease.sequence) == (H * 2, 2)


def test_a_successor_that_was_never_announced_is_announced_by_the_next_writer(
    instance: str, frame_writer: MakeWriter
) -> None:
    """A writer may die between creating the next file and writing its number to the old one."""
    with FrameReader(instance, "cam", "gateway") as reader:
        with frame_writer(instance) as writer:
            put_frame(writer, 1)
            assert reader.lease_newest() is not None
            writer.resize(W * 2, H)
        ring = names.RingName(instance, "cam", "frames")
        with ring.path(1).open("r+b") as old:
            old.seek(8 * layout.SUCCESSOR_WORD)
            old.write(bytes(8))
        assert reader.region is not None
        assert reader.region.generation == 1
        with frame_writer(instance, width=W * 2) as writer:
            put_frame(writer, 3)
            lease = reader.lease_newest(1)
            assert lease is not None
            assert lease.width == W * 2


def test_a_file_without_a_header_is_skipped(instance: str, frame_writer: MakeWriter) -> None:
    """Its writer died while creating it: the next one leaves it alone and creates the next generation."""
    ring = names.RingName(instance, "cam", "frames")
    ring.path(1).write_bytes(b"")
    ring.path(2).write_bytes(bytes(3 * layout.PAGE))
    with FrameReader(instance, "cam", "gateway") as reader:
        assert reader.lease_newest() is None
        with frame_writer(instance) as writer:
            put_frame(writer, 1)
            lease = reader.lease_newest()
            assert lease is not None
            assert lease.region.generation == 3
    assert ring.path(2).stat().st_size == 3 * layout.PAGE


def test_a_ring_that_was_removed_is_found_again(instance: str, frame_writer: MakeWriter) -> None:
    with FrameReader(instance, "cam", "gateway") as reader:
        with frame_writer(instance) as writer:
            for value in range(5):
                put_frame(writer, value)
            assert reader.lease_newest() is not None
            before = reader.region
        assert not reader.forget_if_removed()
        names.RingName(instance, "cam", "frames").path(1).unlink()
        with frame_writer(instance) as writer:
            put_frame(writer, 77)
            assert reader.forget_if_removed()
            lease = reader.lease_newest(5)  # sequences restarted
            assert lease is not None
            assert (lease.sequence, int(lease.planes[0, 0])) == (1, 77)
            assert lease.region != before  # same name, another file: must be registered again
            assert reader.lease_newest(1) is None


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_recreated_ring_may_have_higher_sequences_already(
    instance: str, after: int, frame_writer: MakeWriter
) -> None:
    """Its sequences are unrelated to those of the ring that was removed."""
    with (
        FrameReader(instance, "cam", "gateway") as reader,
        DetectionReader(instance, "cam", None) as results,
    ):
        for run in (1, 2):
            with (
                frame_writer(instance) as writer,
                DetectionWriter(instance, "cam") as result_writer,
            ):
                for value in range(1, 4):
                    put_frame(writer, value * run)
                    result_writer.publish(result_stamp(value), some_detections(0))
                lease, result = reader.lease_newest(), results.lease_next()
                assert lease is not None
                assert result is not None
                if run == 1:
                    for kind in ("frames", "detections"):
                        names.RingName(instance, "cam", kind).path(1).unlink()
        assert reader.forget_if_removed()
        assert results.forget_if_removed()
        assert reader.lease_newest(after) is not None
        second = results.lease_next(after)
        assert second is not None
        assert second.sequence == 1


def test_a_ring_of_another_boot_is_ignored(
    instance: str, monkeypatch: pytest.MonkeyPatch, frame_writer: MakeWriter
) -> None:
    """Its CLOCK_MONOTONIC times would be meaningless."""
    with monkeypatch.context() as patched:
        patched.setattr(layout, "boot_words", lambda: (1, 2))
        with frame_writer(instance) as writer:
            put_frame(writer, 1)
    with FrameReader(instance, "cam", "gateway") as reader:
        assert reader.lease_newest() is None
        with frame_writer(instance) as writer:
            put_frame(writer, 2)
            lease = reader.lease_newest()
            assert lease is not None
            assert lease.planes[0, 0] == 2


def test_mappings_and_descriptors_do_not_accumulate(
    instance: str, frame_writer: MakeWriter
) -> None:
    """Generations, restarts and readers leave no mappings or descriptors behind."""

    def count() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().splitlines()
        files = [
            str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()
        ]
        return sum(instance in line for line in maps), sum(instance in name for name in files)

    before = count()
    seen = []
    with FrameReader(instance, "cam", "gateway") as reader:
        for _ in range(3):
            with frame_writer(instance) as writer:
                for turn in range(10):
                    writer.resize(W * (1 + turn % 2), H)
                    put_frame(writer, turn)
                    lease = reader.lease_newest()
                    assert lease is not None
                    with lease:
                        assert lease.planes[0, 0] == turn
                    with FrameReader(instance, "cam", "detector") as other:
                        assert other.lease_newest() is not None
                    seen.append(count())
    assert len(set(seen[2:])) == 1, seen
    del lease, writer, other, reader
    assert count() == before


# ---------------------------------------------------------------- errors


def test_a_second_writer_is_refused(instance: str, frame_writer: MakeWriter) -> None:
    with frame_writer(instance) as writer:
        with pytest.raises(ShmError, match=f"already has a writer .process {os.getpid()}."):
            frame_writer(instance)
        with pytest.raises(ShmError, match="already has a writer"):
            frame_writer(instance, width=W * 2)  # also with another size
        writer.resize(W * 2, H)
        with pytest.raises(ShmError, match="already has a writer"):
            frame_writer(instance)
        assert put_frame(writer, 1)
    frame_writer(instance).close()


@pytest.mark.parametrize("size", [(63, 32), (64, 31), (0, 32), (64, -2), (20_000, 32)])
def test_invalid_sizes_are_rejected(
    instance: str, size: tuple[int, int], frame_writer: MakeWriter
) -> None:
    with pytest.raises(ShmError, match="must be even"):
        frame_writer(instance, width=size[0], height=size[1])


@pytest.mark.parametrize(
    ("names_", "match"),
    [
        (("UPPER", "cam"), "instance"),
        (("a-b", "cam"), "instance"),
        (("t", "triton"), "reserved"),
        (("t", "../x"), "camera"),
        (("t", "a" * 33), "camera"),
    ],
)
def test_invalid_names_are_rejected(names_: tuple[str, str], match: str) -> None:
    with pytest.raises(ShmError, match=match):
        FrameWriter(*names_, width=W, height=H)


def test_unknown_consumers_are_rejected(instance: str) -> None:
    with pytest.raises(ShmError, match="its consumers are detector, gateway"):
        FrameReader(instance, "cam", "nobody")


def test_a_jpeg_that_does_not_fit_is_rejected(instance: str, frame_writer: MakeWriter) -> None:
    with frame_writer(instance, jpeg_capacity=10) as writer:
        slot = writer.begin()
        assert slot is not None
        with pytest.raises(ShmError, match="11 bytes exceeds the capacity of 10"):
            writer.publish(slot, frame_stamp(), jpeg_bytes=11)
        writer.publish(slot, frame_stamp(), jpeg_bytes=10)


def test_a_wrong_dtype_is_rejected(instance: str) -> None:
    with (
        DetectionWriter(instance, "cam") as writer,
        pytest.raises(TypeError, match="DETECTION_DTYPE"),
    ):
        writer.publish(result_stamp(), np.zeros(3, np.float32))


@pytest.fixture
def tiny_shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a /dev/shm of one mebibyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tridetr-test", str(tmp_path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    monkeypatch.setattr(names, "SHM_DIR", tmp_path)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_shm_is_a_clear_error(instance: str, tiny_shm: Path) -> None:
    with pytest.raises(ShmError) as caught:
        FrameWriter(instance, "cam", width=640, height=480)
    text = str(caught.value)
    needed = layout.PAGE + 6 * layout.round_to_page(640 * 480 * 3 // 2 + 512)
    for part in (f"needs {needed:,} bytes", "1,048,576 are free", "--shm-size", "slots"):
        assert part in text
    assert not list(tiny_shm.iterdir())


def test_a_resize_that_does_not_fit_changes_nothing(instance: str, tiny_shm: Path) -> None:
    with (
        FrameWriter(instance, "cam", width=W, height=H) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        put_frame(writer, 1)
        with pytest.raises(ShmError, match="too small"):
            writer.resize(640, 480)
        assert (writer.width, writer.height) == (W, H)
        assert put_frame(writer, 2) == 2
        lease = reader.lease_newest()
        assert lease is not None
        assert (lease.sequence, lease.width) == (2, W)
        assert len(list(tiny_shm.iterdir())) == 1


def test_other_system_errors_are_named(
    instance: str, monkeypatch: pytest.MonkeyPatch, frame_writer: MakeWriter
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(ShmError, match="Input/output error"):
        frame_writer(instance)
    assert not names.list_instance(instance)


@pytest.mark.parametrize(
    ("code", "match"),
    [(errno.ENOSPC, "queues_max"), (errno.EMFILE, "RLIMIT_MSGQUEUE"), (errno.EIO, "Input/output")],
)
def test_queue_limits_are_named(monkeypatch: pytest.MonkeyPatch, code: int, match: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("posix_ipc.MessageQueue", fail)
    with pytest.raises(ShmError, match=match):
        Wakeup("/tridetr-t-cam-frames-gateway")


# ---------------------------------------------------------------- wake-ups


def test_a_queue_holds_one_wakeup(instance: str, frame_writer: MakeWriter) -> None:
    with frame_writer(instance) as writer, FrameReader(instance, "cam", "gateway") as reader:
        assert not wakeup_of(reader).wait(0)
        for value in range(5):  # nothing reads: the writer must not be affected
            put_frame(writer, value)
        assert wakeup_of(reader).wait(1)
        assert not wakeup_of(reader).wait(0)
        put_frame(writer, 9)
        assert wakeup_of(reader).drain()
        assert not wakeup_of(reader).drain()


def test_only_the_named_consumers_are_woken(instance: str, frame_writer: MakeWriter) -> None:
    with (
        frame_writer(instance, consumers=("gateway",)) as writer,
        FrameReader(instance, "cam", "gateway") as gateway,
        FrameReader(instance, "cam", "detector") as detector,
    ):
        put_frame(writer, 1)
        assert wakeup_of(gateway).wait(1)
        assert not wakeup_of(detector).wait(0)


async def test_asyncio_is_woken(instance: str, frame_writer: MakeWriter) -> None:
    loop = asyncio.get_running_loop()
    with FrameReader(instance, "cam", "detector") as reader:  # the queue exists before the ring
        woken = asyncio.Event()

        def wake() -> None:
            wakeup_of(reader).drain()
            woken.set()

        loop.add_reader(wakeup_of(reader).fileno(), wake)
        try:
            with frame_writer(instance) as writer:
                for value in range(3):
                    put_frame(writer, value)
                    await asyncio.wait_for(woken.wait(), 5)
                    woken.clear()
        finally:
            loop.remove_reader(wakeup_of(reader).fileno())


# ---------------------------------------------------------------- names


def test_unlink_instance_removes_only_its_own_files_and_all_of_them(
    instance: str, frame_writer: MakeWriter
) -> None:
    other = instance + "x"
    try:
        frame_writer(instance).close()
        FrameReader(instance, "cam2", "gateway").close()  # a queue without a ring
        frame_writer(other).close()
        backend = names.SHM_DIR / f"tridetr-{instance}-triton_python_backend_shm_region_1"
        backend.write_bytes(b"x")
        removed = names.unlink_instance(instance, ["cam2"])
        assert backend.name in removed
        assert f"/tridetr-{instance}-cam2-frames-gateway" in removed
        assert not names.list_instance(instance)
        assert len(names.list_instance(other)) == 1
    finally:
        names.unlink_instance(other)


def test_files_are_private_to_the_user(instance: str, frame_writer: MakeWriter) -> None:
    frame_writer(instance).close()
    (path,) = names.list_instance(instance)
    assert path.stat().st_mode & 0o777 == 0o600
