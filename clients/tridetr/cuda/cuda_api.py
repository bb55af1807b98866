"""What is needed of CUDA, so that everything else can be tested without a GPU."""

from __future__ import annotations

from typing import Protocol


class Cuda(Protocol):
    """One GPU. Addresses, streams and events are plain numbers. All calls come from the thread that opened it.

    Every method raises ``CudaError`` with cause and remedy.

    Attributes:
        device_id: Ordinal of the GPU in this process.
        uuid: The GPU, 16 bytes.
        name: What it is called.
    """

    @property
    def device_id(self) -> int: ...
    @property
    def uuid(self) -> bytes: ...
    @property
    def name(self) -> str: ...

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes of device memory."""
        ...

    def free(self, pointer: int) -> None:
        """Free device memory; no other process may have it open."""
        ...

    def ipc_handle(self, pointer: int) -> bytes:
        """Return the 64 bytes by which other processes open an allocation."""
        ...

    def pin(self, address: int, size: int) -> None:
        """Lock host pages in place, so that the GPU reads and writes them by itself."""
        ...

    def unpin(self, address: int) -> None:
        """Undo ``pin``."""
        ...

    def make_stream(self) -> int:
        """Return a stream of its own, which does not wait for the default stream."""
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
        """Return an event without timing."""
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
