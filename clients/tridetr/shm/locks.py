"""Open-file-description byte-range locks.

Such a lock belongs to the *open file*, not to the process: each lease holder needs its own descriptor, and the kernel
releases the lock when the last copy of that descriptor is closed, even after ``kill -9``. Because a forked child holds
copies, a process must not fork after opening a ring (use spawn or exec). Taking and releasing a lock also orders memory
between the two processes, on ARM as well, which plain loads and stores do not.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from functools import partial

_FLOCK = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid (0 for these locks)
_SETLK = fcntl.F_OFD_SETLK
_REFUSED = (errno.EAGAIN, errno.EACCES)
Refused = BlockingIOError  # raised by a bound command while another lock conflicts with it (EAGAIN)


def shared(byte: int) -> bytes:
    """Return the command that takes a shared lock on a byte."""
    return _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)


def exclusive(byte: int, count: int = 1) -> bytes:
    """Return the command that takes an exclusive lock on a byte, or on ``count`` consecutive bytes."""
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, count, 0)


def unlock(byte: int) -> bytes:
    """Return the command that releases a byte."""
    return _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0)


def unlock_all() -> bytes:
    """Return the command that releases all bytes of an open file."""
    return _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)


def apply(descriptor: int, command: bytes, _fcntl: Callable[..., object] = fcntl.fcntl) -> bool:
    """Execute a command without waiting.

    Returns:
        Whether it succeeded; False if a conflicting lock is held through another open file.
    """
    try:
        _fcntl(descriptor, _SETLK, command)
    except OSError as error:
        if error.errno in _REFUSED:
            return False
        raise
    return True


def is_held(descriptor: int, byte: int) -> bool:
    """Return whether another open file holds a lock on a byte, shared or exclusive."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, exclusive(byte))
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def bind(descriptor: int, command: bytes) -> Callable[[], object]:
    """Return a function that executes a command without waiting; it raises :data:`Refused`. Faster than ``apply``."""
    return partial(fcntl.fcntl, descriptor, _SETLK, command)
