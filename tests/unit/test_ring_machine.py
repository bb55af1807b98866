"""Any order of publications, leases, restarts and resizes: readers get complete and newest frames, never stale ones."""

from __future__ import annotations

import uuid

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.rings import frame_stamp
from tridetr.shm.frames import FrameLease, FrameReader, FrameSlot, FrameWriter
from tridetr.shm.names import list_instance, unlink_instance

SLOTS = 4
SIZES = [(16, 8), (32, 8), (16, 16)]


class RingMachine(RuleBasedStateMachine):
    """One ring, one writer and two readers, compared with a model of what they should see."""

    def __init__(self) -> None:
        super().__init__()
        self.instance = "t" + uuid.uuid4().hex[:12]
        self.size = SIZES[0]
        self.writer = self._open_writer()
        self.readers = [FrameReader(self.instance, "cam", name) for name in ("detector", "gateway")]
        self.sequence = 0  # of the newest frame ever published
        self.newest: int | None = None  # of the newest frame that is available
        self.slot: FrameSlot | None = None
        self.leases: list[tuple[int, FrameLease]] = []  # (reader, lease)

    def _open_writer(self) -> FrameWriter:
        width, height = self.size
        return FrameWriter(self.instance, "cam", width=width, height=height, slots=SLOTS)

    def _held(self) -> set[int]:
        """Return the sequences that are leased in the current file."""
        region = self.readers[0].region
        return {lease.sequence for _, lease in self.leases if lease.region == region}

    @precondition(lambda self: self.slot is None)
    @rule()
    def begin(self) -> None:
        self.slot = self.writer.begin()
        free = SLOTS - len(self._held() | ({self.newest} - {None}))
        assert (self.slot is None) == (free == 0)

    @precondition(lambda self: self.slot is not None)
    @rule()
    def publish(self) -> None:
        assert self.slot is not None
        value = (self.sequence + 1) % 256
        self.slot.planes[:] = value
        assert self.writer.publish(self.slot, frame_stamp(self.sequence + 1)) == self.sequence + 1
        self.sequence += 1
        self.newest = self.sequence
        self.slot = None

    @precondition(lambda self: self.slot is not None)
    @rule()
    def abandon(self) -> None:
        assert self.slot is not None
        self.slot.planes[:] = 255
        self.writer.abandon(self.slot)
        self.slot = None

    @rule()
    def restart(self) -> None:
        """Restart the writer, possibly in the middle of a write."""
        if self.slot is not None:
            self.slot.planes[:] = 254
        self.slot = None
        self.writer.close()
        self.writer = self._open_writer()
        self.newest = None

    @precondition(lambda self: self.slot is None)
    @rule(size=st.sampled_from(SIZES))
    def resize(self, size: tuple[int, int]) -> None:
        if size != self.size:
            self.newest = None
        self.size = size
        self.writer.resize(*size)

    @rule(reader=st.sampled_from([0, 1]), back=st.integers(0, 3))
    def lease(self, reader: int, back: int) -> None:
        after = max(0, self.sequence - back)
        lease = self.readers[reader].lease_newest(after)
        if self.newest is None or self.newest <= after:
            assert lease is None
            return
        assert lease is not None
        assert lease.sequence == self.newest
        assert (lease.width, lease.height) == self.size
        self.leases.append((reader, lease))

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 100))
    def release(self, which: int) -> None:
        _, lease = self.leases.pop(which % len(self.leases))
        lease.release()

    @rule(reader=st.sampled_from([0, 1]))
    def restart_reader(self, reader: int) -> None:
        """Restart a reader, which ends all its leases."""
        self.readers[reader].close()
        self.leases = [(owner, lease) for owner, lease in self.leases if owner != reader]
        name = ("detector", "gateway")[reader]
        self.readers[reader] = FrameReader(self.instance, "cam", name)

    @invariant()
    def leases_do_not_change(self) -> None:
        for _, lease in self.leases:
            assert lease.stamp.frame_number == lease.sequence
            assert (lease.planes == lease.sequence % 256).all()

    @invariant()
    def at_most_two_generations_are_kept(self) -> None:
        assert len(list_instance(self.instance)) <= 2

    def teardown(self) -> None:
        self.writer.close()
        for reader in self.readers:
            assert reader.damaged == 0
            reader.close()
        unlink_instance(self.instance)


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
