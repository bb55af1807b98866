"""Keeps a ring's device memory from being freed while a server has it open."""

from __future__ import annotations

import os

from tridetr.shm import layout, locks, segment
from tridetr.shm.closing import Closing
from tridetr.shm.device_region import DeviceRegion


class DeviceHold(Closing):
    """A shared lock on the ring file's ``DEVICE_BYTE``, during which its writer frees no device memory.

    Take it while holding a lease, which protects the memory until then. The kernel releases it when the process ends.
    """

    def __init__(self, region: DeviceRegion) -> None:
        """Take the lock.

        Raises:
            ShmError: The ring file was removed.
        """
        self._region = region
        self._descriptor = segment.reopen(region.ring.shm_name, os.O_RDONLY)
        locks.apply(self._descriptor, locks.shared(layout.DEVICE_BYTE))

    def is_current(self) -> bool:
        """Return whether the writer that allocated the memory still writes to this ring file.

        If not, a server that cannot open this memory may well be able to open newer memory.
        """
        return not self.is_lost() and not self._word(layout.SUCCESSOR_WORD)

    def is_lost(self) -> bool:
        """Return whether the writer that allocated the memory is gone, and the memory with it.

        A writer that has only moved on to another file keeps the memory for as long as this lock is held.
        """
        status = os.fstat(self._descriptor)
        if status.st_ino != self._region.ring.inode or status.st_size < layout.PAGE:
            return True
        if self._word(layout.SUCCESSOR_WORD):
            return False
        written = locks.is_held(self._descriptor, layout.WRITER_BYTE)
        return not written or self._word(layout.EPOCH_WORD) != self._region.epoch

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)

    def _word(self, number: int) -> int:
        return int.from_bytes(os.pread(self._descriptor, 8, 8 * number), "little")
