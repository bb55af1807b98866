"""Rings whose writer restarts or changes the size: their files, generations and sequences."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.rings import H, W, frame_writer, put_frame, result_stamp, some_detections
from tridetr.shm import layout, names
from tridetr.shm.detections import DetectionReader, DetectionWriter
from tridetr.shm.frames import FrameLease, FrameReader, FrameWriter


def lease_of_new_frame(writer: FrameWriter, reader: FrameReader, number: int) -> FrameLease:
    put_frame(writer, number)
    lease = reader.lease_newest()
    assert lease is not None
    return lease


def test_a_restarted_writer_reuses_the_file(instance: str) -> None:
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


def test_another_size_creates_the_next_generation(instance: str) -> None:
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


def test_a_writer_restarted_with_another_size(instance: str) -> None:
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


def test_a_new_reader_takes_the_newest_generation(instance: str) -> None:
    with frame_writer(instance) as writer:
        put_frame(writer, 1)
        writer.resize(W, H * 2)
        put_frame(writer, 2)
        with FrameReader(instance, "cam", "gateway") as reader:
            lease = reader.lease_newest()
            assert lease is not None
            assert (lease.height, lease.sequence) == (H * 2, 2)


def test_a_successor_that_was_never_announced_is_announced_by_the_next_writer(
    instance: str,
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


def test_a_file_without_a_header_is_skipped(instance: str) -> None:
    """Its writer died while creating it: the next one leaves it alone and creates the next generation."""
    ring = names.RingName(instance, "cam", "frames")
    ring.path(1).write_bytes(b"")
    ring.path(2).write_bytes(bytes(3 * layout.PAGE))
    with FrameReader(instance, "cam", "gateway") as reader:
        assert reader.lease_newest() is None
        with frame_writer(instance) as writer:
            assert lease_of_new_frame(writer, reader, 1).region.generation == 3
    assert ring.path(2).stat().st_size == 3 * layout.PAGE


def test_a_ring_that_was_removed_is_found_again(instance: str) -> None:
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
def test_a_recreated_ring_may_have_higher_sequences_already(instance: str, after: int) -> None:
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


def test_a_ring_of_another_boot_is_ignored(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its CLOCK_MONOTONIC times would be meaningless."""
    with monkeypatch.context() as patched:
        patched.setattr(layout, "boot_words", lambda: (1, 2))
        with frame_writer(instance) as writer:
            put_frame(writer, 1)
    with FrameReader(instance, "cam", "gateway") as reader:
        assert reader.lease_newest() is None
        with frame_writer(instance) as writer:
            assert lease_of_new_frame(writer, reader, 2).planes[0, 0] == 2


def test_mappings_and_descriptors_do_not_accumulate(instance: str) -> None:
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
