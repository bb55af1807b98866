"""The device ring of one camera: GPU memory for a few frames, which other processes can read.

An allocation belongs to one ring file and one epoch of its writer. It must not be freed while another process has it
open (the behaviour is undefined in CUDA), so it may be kept after its ring file is no longer written.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from tridetr.cuda.cuda_api import Cuda
from tridetr.errors import CudaError, GpuMemoryError
from tridetr.shm import layout, locks
from tridetr.shm.closing import Closing
from tridetr.shm.device_region import ALIGNMENT, DEVICE_MEMORY
from tridetr.shm.frames import DeviceFrameWriter, FrameStamp, frame_bytes
from tridetr.shm.segment import Segment, reopen
from tridetr.telemetry.logs import Limiter

_log = logging.getLogger("tridetr.gpu")

# CUDA places small allocations in blocks of this size, and exports whole blocks.
_BLOCK = 2 << 20
_MOST_RETIRED = 4  # a server that releases nothing must not fill the GPU


@dataclass(frozen=True, slots=True)
class DeviceSlot:
    """A device slot that is being written.

    Attributes:
        index: Its number.
        pointer: Device address of the frame's I420 bytes: Y [height, width], then U, then V, without padding.
        nbytes: Size of the frame.
        offset: Bytes from the start of the allocation.
    """

    index: int
    pointer: int
    nbytes: int
    offset: int


class DeviceRing(Closing):
    """Writes the frames of one camera in GPU memory; a context manager. Not thread-safe.

    The ring takes its size from the first frame and follows changes.
    """

    def __init__(self, cuda: Cuda, instance: str, camera: str, *, slots: int) -> None:
        """Create the object; the first frame creates the ring and allocates its memory.

        ``slots`` is the most leases at a time, plus 2.
        """
        self._cuda = cuda
        self._instance, self._camera, self._slots = instance, camera, slots
        self._writer: DeviceFrameWriter | None = None
        self._memory: _Memory | None = None
        self._retired: list[_Memory] = []
        self._lines = Limiter(60.0)

    def begin(self, width: int, height: int) -> DeviceSlot | None:
        """Take a free slot for a frame of this size; None if readers hold all of them, or too many earlier allocations.

        Raises:
            CudaError: The GPU failed.
            GpuMemoryError: The GPU has no memory for it.
            ShmError: See ``DeviceFrameWriter``.
        """
        writer = self._writer
        if writer is None:
            writer = self._writer = DeviceFrameWriter(
                self._instance, self._camera, width=width, height=height, slots=self._slots
            )
        elif (writer.width, writer.height) != (width, height):
            self._sweep()
            if len(self._retired) >= _MOST_RETIRED:
                if self._lines.allow(time.monotonic()) is not None:
                    _log.warning("%s", self._too_many())
                return None
            self._retire()
            writer.resize(width, height)
        elif writer.follow_name():
            if len(self._retired) >= _MOST_RETIRED:
                raise GpuMemoryError(self._too_many())
            self._retire()
        self._sweep()
        if self._memory is None:
            self._memory = _Memory(self._cuda, writer.segment, frame_bytes(width, height))
        index = writer.begin()
        if index is None:
            return None
        offset = index * self._memory.stride
        return DeviceSlot(index, self._memory.pointer + offset, frame_bytes(width, height), offset)

    def publish(self, slot: DeviceSlot, stamp: FrameStamp, sequence: int) -> None:
        """Publish a slot; all GPU work that writes its memory must have completed."""
        assert self._writer is not None
        assert self._memory is not None
        memory = self._memory
        place = DEVICE_MEMORY.pack(
            memory.handle,
            self._cuda.uuid,
            memory.size,
            slot.offset,
            self._writer.epoch,
            self._cuda.device_id,
        )
        self._writer.publish(slot.index, stamp, sequence, place)

    def abandon(self, slot: DeviceSlot) -> None:
        """Release a slot without publishing it."""
        assert self._writer is not None
        self._writer.abandon(slot.index)

    def close(self) -> None:
        """Close the ring and free its memory."""
        if self._writer is not None:
            self._writer.close()  # before the memory is freed: a ring without a writer is not read
            self._writer = None
        self._retire()
        for memory in self._retired:
            memory.close()
        self._retired = []

    def _retire(self) -> None:
        if self._memory is not None:
            self._retired.append(self._memory)
            self._memory = None

    def _too_many(self) -> str:
        return (
            f"camera {self._camera}: the inference server still has {_MOST_RETIRED} earlier regions of GPU memory "
            "open; frames of a new size wait. Remedy: keep the camera's picture size stable, or restart the detector"
        )

    def _sweep(self) -> None:
        if self._retired:
            self._retired = [memory for memory in self._retired if not memory.free_if_unused()]


class _Memory:
    """The GPU memory of one ring file."""

    def __init__(self, cuda: Cuda, segment: Segment, frame_nbytes: int) -> None:
        self._cuda = cuda
        self._slots = segment.geometry.slots
        self.stride = -(-frame_nbytes // ALIGNMENT) * ALIGNMENT
        self.size = -(-self.stride * self._slots // _BLOCK) * _BLOCK
        self.pointer = cuda.allocate(self.size)
        try:
            self.handle = cuda.ipc_handle(self.pointer)
            self._descriptor = reopen(segment.name, os.O_RDWR)
        except BaseException:
            with suppress(CudaError):
                cuda.free(self.pointer)
            raise

    def free_if_unused(self) -> bool:
        """Free the memory of a retired ring file if no reader leases its slots and none has it registered.

        While all locks are held, the slots are emptied, so that a late reader finds nothing.
        """
        span = (layout.DEVICE_BYTE, layout.SLOT_BYTE + self._slots - layout.DEVICE_BYTE)
        if not locks.apply(self._descriptor, locks.exclusive(*span)):
            return False
        os.pwrite(self._descriptor, bytes(8 * self._slots), 8 * layout.SEQUENCES)
        self.close()
        return True

    def close(self) -> None:
        """Free the memory now; ignore the errors of a broken GPU, since nothing more can be done."""
        with suppress(CudaError):
            self._cuda.free(self.pointer)
        os.close(self._descriptor)


_SPIN_S = 400e-6  # a copy of a 1080p frame takes 100 to 200 µs, less than any sleep
_POLL_S = 50e-6
_PATIENCE_S = 2.0  # less than the supervisor's timeout


class Stream(Closing):
    """A CUDA stream with a bounded wait; a context manager.

    Attributes:
        number: The ``CUstream``.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.number = cuda.make_stream()
        self._event = cuda.make_event()

    def wait(self) -> None:
        """Wait until all queued work has completed.

        Polls without sleeping for the duration of a typical copy, then with short sleeps. CUDA's own wait would never
        return if the GPU hangs.

        Raises:
            CudaError: The GPU failed or does not respond.
        """
        self._cuda.record(self._event, self.number)
        started = time.monotonic()
        while not self._cuda.is_complete(self._event):
            waited = time.monotonic() - started
            if waited > _PATIENCE_S:
                raise CudaError(
                    f"{self._cuda.name} has not finished a copy within {_PATIENCE_S:g} s. Remedy: look at "
                    "`nvidia-smi` and at the kernel's log (`dmesg | grep -i xid`)"
                )
            time.sleep(_POLL_S if waited > _SPIN_S else 0)

    def close(self) -> None:
        """Free the stream."""
        with suppress(CudaError):
            self._cuda.free_event(self._event)
            self._cuda.free_stream(self.number)
