"""The CUDA functions that tridetr uses, as a protocol, so that everything else can be tested without a GPU."""

from __future__ import annotations

from typing import Protocol


class Cuda(Protocol):
    """One GPU. Addresses, streams and events are plain integers. Only the thread that opened it may call it.

    On failure, every method raises ``CudaError`` with cause and remedy.

    Attributes:
        device_id: Ordinal of the GPU in this process.
        uuid: UUID of the GPU, 16 bytes.
        name: Product name of the GPU.
    """

    @property
    def device_id(self) -> int: ...
    @property
    def uuid(self) -> bytes: ...
    @property
    def name(self) -> str: ...

    def allocate(self, size: int) -> int:
        """Allocate ``size`` bytes of device memory and return their address."""
        ...

    def free(self, pointer: int) -> None:
        """Free device memory, which no other process may have open."""
        ...

    def ipc_handle(self, pointer: int) -> bytes:
        """Return the 64 bytes by which other processes open an allocation."""
        ...

    def pin(self, address: int, size: int) -> None:
        """Lock host pages in memory, so that the GPU can access them directly."""
        ...

    def unpin(self, address: int) -> None:
        """Undo ``pin``."""
        ...

    def make_stream(self) -> int:
        """Create a stream that does not synchronise with the default stream, and return it."""
        ...

    def free_stream(self, stream: int) -> None:
        """Free a stream whose work has completed."""
        ...

    def upload(self, pointer: int, address: int, size: int, stream: int) -> None:
        """Queue a copy from host to device; the host bytes must stay until it has completed."""
        ...

    def download(self, address: int, pointer: int, size: int, stream: int) -> None:
        """Queue a copy from device to host."""
        ...

    def make_event(self) -> int:
        """Create an event without timing, and return it."""
        ...

    def free_event(self, event: int) -> None:
        """Free an event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Queue the event: it completes when all work queued before it has."""
        ...

    def is_complete(self, event: int) -> bool:
        """Return whether the work before the event has completed."""
        ...
