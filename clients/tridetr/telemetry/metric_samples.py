"""Files of metric samples that never end the process: a write to a hole of a file on a full disk raises SIGBUS."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

_FIRST_SIZE = 1 << 16  # the library's
_ROUNDING = 64  # bytes of a sample besides its key, and more


class Samples(MmapedDict):
    """A metric file whose space is allocated before it is mapped.

    Without space, the samples are in memory, where ``keep_process_files`` finds them and tries to write them again.
    """

    def __init__(self, filename: str) -> None:
        self._path = Path(filename)
        try:
            _allocate(filename)
        except OSError:  # such as a full disk
            found = b""
            with suppress(OSError):
                found = self._path.read_bytes()
            self._open_in_memory(found)
        else:
            super().__init__(filename)  # type: ignore[no-untyped-call]  # untyped

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + _ROUNDING > self._capacity:
            try:
                os.posix_fallocate(self._f.fileno(), self._capacity, self._capacity)
            except OSError:
                self._open_in_memory(bytes(self._m))
        super()._init_value(key)  # type: ignore[no-untyped-call]  # untyped

    def _open_in_memory(self, content: bytes) -> None:
        """Move the samples to memory; the file is removed, because its samples would be counted twice."""
        memory = os.memfd_create(self._path.name)
        try:
            os.write(memory, content)
            with suppress(OSError):
                self._path.unlink()
            super().__init__(f"/proc/self/fd/{memory}")  # type: ignore[no-untyped-call]  # untyped
        finally:
            os.close(memory)


def _allocate(filename: str) -> None:
    """Create a file, and allocate the space of the whole file.

    Raises:
        OSError: There is no space; an empty file, which readers could not parse, is removed.
    """
    descriptor = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        os.posix_fallocate(descriptor, 0, size or _FIRST_SIZE)
    except OSError:
        if os.fstat(descriptor).st_size == 0:
            Path(filename).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
