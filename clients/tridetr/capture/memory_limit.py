"""Limit the memory of a capture process, so that a camera cannot use up the machine's, and return what is free."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
from pathlib import Path

from tridetr.errors import SourceError

_BASE = 256 << 20  # libraries, packets that wait, JPEGs of up to 32 MiB
_PER_CORE = 16 << 20  # stacks and heaps of the decoder's threads
_PER_PIXEL = 64  # the pictures that a decoder keeps: about eight, of at most 6 bytes per pixel
_LOST_SHARE = 0.75  # of the limit; without a source, less is in use


def limit_memory(max_pixels: int) -> None:
    """Limit the private memory of this process; what exceeds it fails like a full machine.

    FFmpeg allocates whatever a stream asks for: headers, tables, and packets that never end. Shared memory, such as
    that of the rings, does not count.

    Args:
        max_pixels: Most pixels of a picture.
    """
    cores = os.cpu_count() or 1
    most = _BASE + _PER_CORE * cores + _PER_PIXEL * max_pixels
    most += _used()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or most < soft:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def return_memory() -> None:
    """Return freed memory to the system; the C library may keep hundreds of MB of small blocks.

    Call it when the source is closed.

    Raises:
        SourceError: Most of the limit is still in use, so the process has lost memory and must be restarted.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    used, (limit, _) = _used(), resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY and used > _LOST_SHARE * limit:
        raise SourceError(
            f"{used >> 20} of {limit >> 20} MiB are still in use after the source was closed: starting a new process"
        )


def _used() -> int:
    """Return the private memory of this process [bytes]."""
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0
