"""A simulated GPU. Its memory is files, which another process opens by their handles like CUDA's.

A copy is done only when its event has been queried twice, so code that does not wait for it sees old bytes.
"""

from __future__ import annotations

import ctypes
import mmap
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from support.rings import put_frame
from tridetr.errors import CudaError
from tridetr.gpu.cameras import Uploader
from tridetr.shm.closing import Closing
from tridetr.shm.device_region import HANDLE_BYTES, DevicePlace
from tridetr.shm.frames import FrameWriter

_MARK = b"fake-cuda:"


class FakeCuda:
    """Implements ``tridetr.cuda.cuda_api.Cuda``.

    Attributes:
        folder: Folder of its memory; all processes of a test use the same.
        fails: Name of each method that must fail, and its error.
        asleep: Whether work no longer completes.
        copies: The direction of each copy, "up" or "down", in order.
        allocations: Addresses that have not been freed yet.
        pinned: Addresses that have not been unpinned yet.
        made: Streams and events that have not been freed yet.
    """

    device_id = 0
    uuid = bytes(range(16))
    name = "fake GPU"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fails: dict[str, CudaError] = {}
        self.asleep = False
        self.copies: list[str] = []
        self.allocations: dict[int, tuple[str, mmap.mmap]] = {}
        self.pinned: dict[int, int] = {}
        self.made: set[int] = set()
        self._last = 0
        self._queues: dict[int, list[Callable[[], None]]] = {}
        self._events: dict[int, tuple[int, int]] = {}  # (stream, number of queries)

    def is_clean(self) -> bool:
        """Return whether everything has been freed."""
        return not (self.allocations or self.pinned or self.made or list(self.folder.iterdir()))

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        """Queue work, as a decoder does."""
        self._queues[stream].append(work)

    def allocate(self, size: int) -> int:
        self._may("allocate")
        name = uuid.uuid4().hex
        path = self.folder / name
        with path.open("w+b") as file:
            file.truncate(size)
            memory = mmap.mmap(file.fileno(), size)
        pointer = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.allocations[pointer] = (name, memory)
        return pointer

    def free(self, pointer: int) -> None:
        name, _ = self.allocations.pop(pointer)
        (self.folder / name).unlink()
        self._may("free")

    def ipc_handle(self, pointer: int) -> bytes:
        self._may("ipc_handle")
        return (_MARK + self.allocations[pointer][0].encode()).ljust(HANDLE_BYTES, b"\0")

    def pin(self, address: int, size: int) -> None:
        self._may("pin")
        assert address % mmap.PAGESIZE == 0
        self.pinned[address] = size

    def unpin(self, address: int) -> None:
        del self.pinned[address]

    def make_stream(self) -> int:
        self._may("make_stream")
        stream = self._number()
        self._queues[stream] = []
        return stream

    def free_stream(self, stream: int) -> None:
        self.made.remove(stream)
        del self._queues[stream]

    def upload(self, pointer: int, address: int, size: int, stream: int) -> None:
        self._may("upload")
        self.copies.append("up")
        self.queue(stream, lambda: _move(pointer, address, size))

    def download(self, address: int, pointer: int, size: int, stream: int) -> None:
        self._may("download")
        self.copies.append("down")
        self.queue(stream, lambda: _move(address, pointer, size))

    def make_event(self) -> int:
        self._may("make_event")
        return self._number()

    def free_event(self, event: int) -> None:
        self.made.remove(event)

    def record(self, event: int, stream: int) -> None:
        self._may("record")
        self._events[event] = (stream, 0)

    def is_complete(self, event: int) -> bool:
        stream, asked = self._events[event]
        self._events[event] = (stream, asked + 1)
        if self.asleep or not asked:
            return False
        queue = self._queues[stream]
        while queue:
            queue.pop(0)()
        return True

    def _number(self) -> int:
        self._last += 1
        self.made.add(self._last)
        return self._last

    def _may(self, method: str) -> None:
        if method in self.fails:
            raise self.fails[method]


def _move(target: int, source: int, size: int) -> None:
    ctypes.memmove(target, source, size)


def fill(pointer: int, size: int, value: int) -> None:
    """Set device memory of this process to a value."""
    ctypes.memset(pointer, value, size)


def read_device(
    folder: Path, place: DevicePlace
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Open a handle as another process does and return the frame: uint8 [3 * height / 2, width].

    Raises:
        FileNotFoundError: The memory was freed.
    """
    handle = place.region.handle
    assert handle.startswith(_MARK)
    with (folder / handle.removeprefix(_MARK).rstrip(b"\0").decode()).open("rb") as memory:
        assert memory.seek(0, 2) == place.region.size_bytes
        memory.seek(place.pixels_offset)
        pixels = memory.read(place.pixels_nbytes)
    return np.frombuffer(pixels, np.uint8).reshape(place.height * 3 // 2, place.width)


class GpuCamera(Closing):
    """A camera that capture decodes: its frame ring, and the gpu process's work for it. A context manager."""

    def __init__(self, instance: str, gpu: FakeCuda, *, width: int = 64, height: int = 32) -> None:
        self.gpu = gpu
        self.writer = FrameWriter(instance, "cam", width=width, height=height)
        self._instance = instance
        self.uploader: Uploader | None = None
        self.start_gpu()

    def put(self, value: int) -> int:
        """Publish a frame of one value and upload it; return its sequence."""
        sequence = put_frame(self.writer, value)
        assert sequence is not None
        if self.uploader is not None:
            self.uploader.step(0)
        return sequence

    def start_gpu(self) -> None:
        """Start the work on the GPU."""
        self.uploader = Uploader(self.gpu, self._instance, "cam")

    def stop_gpu(self) -> None:
        """Stop the work on the GPU; capture continues."""
        if self.uploader is not None:
            self.uploader.close()
            self.uploader = None

    def close(self) -> None:
        self.stop_gpu()
        self.writer.close()
