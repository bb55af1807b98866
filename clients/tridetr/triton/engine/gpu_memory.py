"""Measure the GPU memory that each session of the engine uses, and limit their total."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from tridetr.errors import ModelError

# Share of the memory that is free when the engine starts; the frame rings need some, too.
SHARE: Final = 0.7
MIB: Final = 1 << 20


def free_memory() -> int:
    """Return the free memory of the first GPU in bytes; callable from any thread.

    Raises:
        ModelError: the NVIDIA driver is missing or fails.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ModelError(f"the NVIDIA driver is missing: {error}") from None
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    # The primary context, which ONNX Runtime uses as well; retaining it again is cheap.
    code = (
        driver.cuInit(0)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        or driver.cuCtxSetCurrent(context)
        or driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    )
    if code:
        raise ModelError(f"cannot read the GPU's free memory (CUDA error {code})")
    return free.value


class GpuMemory:
    """Accounts for the GPU memory of sessions: how much each uses, and how much is left.

    A session's usage is the difference of the free memory before and after its creation. So it includes allocations of
    CUDA's libraries for it, and allocations of other processes in the meantime.

    Attributes:
        limit: limit for all sessions together, in bytes.
    """

    def __init__(self, free: Callable[[], int] = free_memory, share: float = SHARE) -> None:
        """Set the limit from the current free memory.

        Args:
            free: returns the free memory in bytes.
            share: share of the free memory that the sessions may use.
        """
        self._free = free
        self.limit = int(free() * share)
        self._taken: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def taken(self) -> Mapping[str, int]:
        """Used bytes by session."""
        with self._lock:
            return dict(self._taken)

    @property
    def left(self) -> int:
        """Bytes that another session may use; at least 1, because 0 means no limit to ONNX Runtime."""
        return max(1, self.limit - sum(self.taken.values()))

    @contextmanager
    def measure(self, session: str) -> Iterator[None]:
        """Measure the creation of a session in the `with` block; nothing is recorded if it fails."""
        before = self._free()
        yield
        with self._lock:
            self._taken[session] = max(0, before - self._free())

    def forget(self, session: str) -> None:
        """Remove a closed session from the account."""
        with self._lock:
            self._taken.pop(session, None)

    def __str__(self) -> str:
        sessions = ", ".join(f"{name} {used / MIB:.0f} MiB" for name, used in self.taken.items())
        return f"{sessions} (limit for all: {self.limit / MIB:.0f} MiB)"
