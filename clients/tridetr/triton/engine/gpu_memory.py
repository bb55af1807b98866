"""What the engine takes of the GPU's memory: measured for each session, and bounded for all of them together."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from tridetr.errors import ModelError

SHARE: Final = (
    0.7  # of the memory that is free when the engine starts; the frame rings need some, too
)
MIB: Final = 1 << 20


def free_memory() -> int:
    """Return the free bytes of the first GPU, from any thread.

    Raises:
        ModelError: CUDA's driver does not respond.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ModelError(f"NVIDIA's driver is missing: {error}") from None
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    # The primary context is the one that ONNX Runtime uses; retaining it again costs nothing.
    code = (
        driver.cuInit(0)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        or driver.cuCtxSetCurrent(context)
        or driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    )
    if code:
        raise ModelError(f"the GPU's free memory cannot be read (CUDA error {code})")
    return free.value


class GpuMemory:
    """Bytes that sessions took, and how many are left for others.

    The figures come from the free memory before and after a session is made, so they include what CUDA's libraries
    allocate for it, and whatever another process allocated in the meantime.

    Attributes:
        limit: most bytes for all sessions together.
    """

    def __init__(self, free: Callable[[], int] = free_memory, share: float = SHARE) -> None:
        """Read the free memory.

        Args:
            free: returns the free bytes.
            share: the part of them that the sessions may take.
        """
        self._free = free
        self.limit = int(free() * share)
        self._taken: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def taken(self) -> Mapping[str, int]:
        """Bytes by session."""
        with self._lock:
            return dict(self._taken)

    @property
    def left(self) -> int:
        """Bytes that another session may take, at least 1: for ONNX Runtime, 0 is no limit."""
        return max(1, self.limit - sum(self.taken.values()))

    @contextmanager
    def measure(self, session: str) -> Iterator[None]:
        """Note what making a session takes; what fails took nothing."""
        before = self._free()
        yield
        with self._lock:
            self._taken[session] = max(0, before - self._free())

    def forget(self, session: str) -> None:
        """A session was closed."""
        with self._lock:
            self._taken.pop(session, None)

    def __str__(self) -> str:
        sessions = ", ".join(f"{name} {used / MIB:.0f} MiB" for name, used in self.taken.items())
        return f"{sessions} (limit for all: {self.limit / MIB:.0f} MiB)"
