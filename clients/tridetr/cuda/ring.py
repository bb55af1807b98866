"""Device memory beside a frame ring: one allocation with the ring's slots, and the copies between the two.

One allocation belongs to one ring file and one epoch of its writer. It must not be freed while another process has it
open (CUDA leaves undefined what happens then), so it outlives its ring file's writing: see :meth:`free_if_unused`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from tridetr.cuda.api import Cuda
from tridetr.errors import CudaError
from tridetr.shm import layout, locks
from tridetr.shm.device import ALIGNMENT, DEVICE_MEMORY

_log = logging.getLogger("tridetr.cuda")

# CUDA takes small allocations out of blocks of this size and exports whole blocks.
_BLOCK = 2 << 20
_SPIN_S = 400e-6  # a 1080p frame takes 100 to 200 µs, and no sleep is as short as that
_POLL_S = 50e-6
_PATIENCE_S = 2.0  # less than the supervisor's


class SlotPlanes:
    """The device memory of one slot: what ``tridetr.cuda.device.DevicePlanes`` promises to sources."""

    __slots__ = ("_host_address", "_ring", "_written", "nbytes", "offset", "pointer")

    def __init__(self, ring: CudaFrameRing, index: int, planes: NDArray[np.uint8]) -> None:
        self._ring = ring
        self._host_address = planes.ctypes.data
        self._written: bool | None = (
            None  # by the source; the value: whether the host planes are too
        )
        self.nbytes = planes.nbytes
        self.offset = index * ring.stride
        self.pointer = ring.pointer + self.offset

    @property
    def stream(self) -> int:
        return self._ring.stream

    @property
    def device_id(self) -> int:
        return self._ring.cuda.device_id

    @property
    def host_wanted(self) -> bool:
        return self._ring.host_wanted()

    def mark_written(self, host: bool) -> None:
        self._written = host

    def begin(self) -> None:
        """Forget what was said of the slot's last frame."""
        self._written = None

    def finish(self, *, host: bool) -> bool:
        """Bring host and device planes together, as far as wanted, and wait until that is done.

        Args:
            host: Whether the host planes must hold the picture whether or not somebody wants it.

        Returns:
            Whether the picture lies on the device only.

        Raises:
            CudaError: The GPU failed or does not answer.
        """
        ring, cuda = self._ring, self._ring.cuda
        device_only = False
        if self._written is None:
            cuda.upload(self.pointer, self._host_address, self.nbytes, ring.stream)
        elif not self._written:
            device_only = not (host or ring.host_wanted())
            if not device_only:
                cuda.download(self._host_address, self.pointer, self.nbytes, ring.stream)
        ring.wait()
        return device_only

    def describe(self, epoch: int) -> bytes:
        """Return the ``DeviceMemory`` by which other processes find it."""
        ring = self._ring
        return DEVICE_MEMORY.pack(
            ring.handle, ring.cuda.uuid, ring.size, self.offset, epoch, ring.cuda.device_id
        )


class CudaFrameRing:
    """The allocation. For one thread.

    Attributes:
        cuda: The GPU.
        handle: Its IPC handle.
        pointer: Its device address.
        stream: All copies are queued here.
        stride: Bytes from one slot to the next.
        size: Bytes of all.
        host_wanted: Tells whether somebody reads host pictures.
    """

    def __init__(
        self,
        cuda: Cuda,
        path: str | os.PathLike[str],
        view: memoryview,
        *,
        slots: int,
        frame_nbytes: int,
        host_wanted: Callable[[], bool],
    ) -> None:
        """Allocate it and pin the ring file's pages.

        Args:
            cuda: The GPU.
            path: The ring file.
            view: Its mapping, writable.
            slots: Number of slots.
            frame_nbytes: Bytes of a frame.
            host_wanted: Tells whether somebody reads host pictures.

        Raises:
            CudaError: Not enough memory, or no CUDA IPC here.
        """
        self.cuda = cuda
        self.host_wanted = host_wanted
        self.stride = -(-frame_nbytes // ALIGNMENT) * ALIGNMENT
        self.size = -(-self.stride * slots // _BLOCK) * _BLOCK
        self._slots = slots
        self._pinned = 0
        self._failed = False
        self._view: memoryview | None = view  # pinned pages must stay mapped
        self.pointer = cuda.allocate(self.size)
        self.stream = self._event = 0
        try:
            self.handle = cuda.ipc_handle(self.pointer)
            self.stream = cuda.make_stream()
            self._event = cuda.make_event()
            self._descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except BaseException:
            self._free_memory()
            raise
        self._pin(view)

    def planes(self, index: int, host: NDArray[np.uint8]) -> SlotPlanes:
        """Return the device memory of a slot whose host planes are ``host``."""
        return SlotPlanes(self, index, host)

    def wait(self) -> None:
        """Wait until all that was queued has completed.

        Asks again and again for the length of a copy, which costs some per mille of a processor, then sleeps between:
        a decoder takes milliseconds. CUDA's own waiting would have no end where a GPU hangs.

        Raises:
            CudaError: The GPU failed or does not answer.
        """
        self._failed = True  # until this comes to its end: nobody waits for a broken GPU twice
        self.cuda.record(self._event, self.stream)
        started = time.monotonic()
        while not self.cuda.is_complete(self._event):
            waited = time.monotonic() - started
            if waited > _PATIENCE_S:
                raise CudaError(
                    f"{self.cuda.name} has not finished a copy within {_PATIENCE_S:g} s. Remedy: look at "
                    "`nvidia-smi` and at the kernel's log (`dmesg | grep -i xid`)"
                )
            time.sleep(_POLL_S if waited > _SPIN_S else 0)
        self._failed = False

    def retire(self) -> None:
        """Write no more: the ring goes on in another file. The memory stays, a server may be reading it."""
        if not self._failed:
            with suppress(CudaError):
                self.wait()
        if self._pinned:
            with suppress(CudaError):
                self.cuda.unpin(self._pinned)
        self._pinned, self._view = 0, None

    def free_if_unused(self) -> bool:
        """Free the memory of a retired ring file if no reader leases its slots and none has it registered.

        With all locks in hand the slots are emptied, so that no reader that comes late finds anything.

        Returns:
            Whether that is done.
        """
        span = (layout.DEVICE_BYTE, layout.SLOT_BYTE + self._slots - layout.DEVICE_BYTE)
        if not locks.apply(self._descriptor, locks.exclusive(*span)):
            return False
        os.pwrite(self._descriptor, bytes(8 * self._slots), 8 * layout.SEQUENCES)
        self.close()
        return True

    def close(self) -> None:
        """Free everything now."""
        self.retire()
        self._free_memory()
        os.close(self._descriptor)

    def _pin(self, view: memoryview) -> None:
        address = np.frombuffer(view, np.uint8).ctypes.data
        try:
            self.cuda.pin(address, len(view))
        except CudaError as error:
            _log.warning("copies to the GPU take longer than they should: %s", error)
        else:
            self._pinned = address

    def _free_memory(self) -> None:
        # Whatever a broken GPU says to this, the process can do no more about it.
        for free, what in (
            (self.cuda.free_event, self._event),
            (self.cuda.free_stream, self.stream),
            (self.cuda.free, self.pointer),
        ):
            if what:
                with suppress(CudaError):
                    free(what)
