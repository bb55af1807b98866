"""Creates, opens and maps ring files."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os

from tridetr.errors import NoSpaceError, ShmError
from tridetr.files import give_access_back
from tridetr.shm import layout, locks, names
from tridetr.shm.layout import Geometry
from tridetr.shm.names import RingName

_FULL = (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT)


class Segment:
    """A mapped ring file with its own descriptor, to which the locks belong.

    Attributes:
        name: File name under ``/dev/shm``.
        generation: Generation of the ring.
        geometry: Its validated geometry.
        inode: Distinguishes the file from a later one of the same name.
        descriptor: The open file.
        view: The whole file as bytes; read-only for readers.
        words: The file as 64-bit words, from the header on.
    """

    def __init__(
        self, name: RingName, generation: int, descriptor: int, size: int, *, write: bool
    ) -> None:
        self.name = name.segment(generation)
        self._path = str(names.SHM_DIR / self.name)
        self.generation = generation
        self.descriptor = descriptor
        self.inode = os.fstat(descriptor).st_ino
        access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
        try:
            self._map = mmap.mmap(descriptor, size, access=access)
        except OSError as error:
            raise ShmError(f"cannot map {self.name}: {error.strerror or error}") from error
        self.view = memoryview(self._map)
        self.words = self.view[: size // 8 * 8].cast("Q")
        self.geometry: Geometry

    def has_name(self) -> bool:
        """Return whether the file's name still refers to it; it does not after another program removed the file."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return False
        return found.st_ino == self.inode

    def remove(self) -> None:
        """Remove the file if its name still refers to it; the writer's lock must be held."""
        if self.has_name():
            (names.SHM_DIR / self.name).unlink(missing_ok=True)

    def give_memory_back(self, start: int = 0) -> None:
        """Free the memory from a page's offset on (0: from the first slot); processes that still map it see zeros.

        Slots whose content is in that part must be locked or empty.
        """
        start = start or self.geometry.slot_offset(0)
        self._map.madvise(mmap.MADV_REMOVE, start, len(self.view) - start)

    def close(self) -> None:
        """Release all locks and close the file. The memory is unmapped with the last view of it."""
        if self.descriptor < 0:
            return
        # The mapping keeps a copy of the descriptor, so closing this one alone would not release the locks.
        locks.apply(self.descriptor, locks.unlock_all())
        os.close(self.descriptor)
        self.descriptor = -1


def create(name: RingName, generation: int, geometry: Geometry) -> Segment:
    """Create a ring file, allocate its slots and take the writer's lock; its magic is not written yet.

    Raises:
        FileExistsError: Another process created it first.
        ShmError: ``/dev/shm`` is too small, or another writer locked the file first.
    """
    path = name.path(generation)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        if not locks.apply(descriptor, locks.exclusive(layout.WRITER_BYTE)):
            raise ShmError(f"another writer of {path.name} started at the same moment")
        try:
            allocate(descriptor, path.name, 0, geometry.data_offset)
        except ShmError:
            path.unlink(missing_ok=True)  # no process maps a file without magic
            raise
        os.ftruncate(descriptor, geometry.file_size)  # the data area is allocated as needed
        segment = Segment(name, generation, descriptor, geometry.file_size, write=True)
    except BaseException:
        os.close(descriptor)
        raise
    segment.geometry = geometry
    return segment


def allocate(descriptor: int, name: str, offset: int, size: int) -> None:
    """Allocate the memory of a part of a ring file, so that accessing it never raises SIGBUS.

    Raises:
        ShmError: ``/dev/shm`` is too small.
    """
    try:
        os.posix_fallocate(descriptor, offset, size)
    except OSError as error:
        kind = NoSpaceError if error.errno in _FULL else ShmError
        raise kind(_no_space(name, size, error)) from error


def open_writable(name: RingName, generation: int) -> Segment | None:
    """Open an existing ring file and take the writer's lock; None if the file is gone or unusable.

    Raises:
        ShmError: Another writer holds it, or it cannot be opened.
    """
    descriptor = _open(name, generation, os.O_RDWR)
    if descriptor is None:
        return None
    try:
        if not locks.apply(descriptor, locks.exclusive(layout.WRITER_BYTE)):
            raise ShmError(
                f"{name.segment(generation)} already has a writer{_writer_pid(descriptor)}: stop it, or "
                "choose another camera name or `instance`"
            )
        return _map(name, generation, descriptor, write=True)
    except ShmError:
        os.close(descriptor)
        raise


def open_readable(name: RingName, generation: int) -> Segment | None:
    """Open and map an existing ring file for reading; None if it is gone, unusable or being created.

    Raises:
        ShmError: It cannot be opened, for example because no descriptor is left.
    """
    descriptor = _open(name, generation, os.O_RDONLY)
    if descriptor is None:
        return None
    try:
        if not locks.apply(descriptor, locks.shared(layout.HEADER_BYTE)):
            os.close(descriptor)
            return None
        segment = _map(name, generation, descriptor, write=False)
    except ShmError:
        os.close(descriptor)
        raise
    if segment is not None:
        locks.apply(descriptor, locks.unlock(layout.HEADER_BYTE))
        if tuple(segment.words[layout.BOOT_WORD : layout.BOOT_WORD + 2]) != layout.boot_words():
            segment.close()
            return None
    return segment


def reopen(file_name: str, mode: int) -> int:
    """Open a ring file once more, for a mapping or locks of its own; return the descriptor.

    Raises:
        ShmError: The file was removed, or no descriptor is left.
    """
    try:
        return os.open(names.SHM_DIR / file_name, mode | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ShmError(f"{file_name} was removed") from None
    except OSError as error:
        raise ShmError(f"cannot open {file_name}: {error.strerror or error}") from error


def _open(name: RingName, generation: int, mode: int) -> int | None:
    foreign = (
        f"{name.segment(generation)} belongs to another user: run all of tridetr as one user, or "
        "choose another `instance`"
    )
    try:
        descriptor = os.open(name.path(generation), mode | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        if give_access_back(name.path(generation)):
            return _open(name, generation, mode)
        raise ShmError(foreign) from error
    except OSError as error:  # such as no descriptor left
        raise ShmError(
            f"cannot open {name.segment(generation)}: {error.strerror or error}"
        ) from error
    # Any user may create a file of this name in /dev/shm, open to all: its owner would see every frame.
    if os.fstat(descriptor).st_uid not in (os.geteuid(), 0):
        os.close(descriptor)
        raise ShmError(foreign)
    return descriptor


def _map(name: RingName, generation: int, descriptor: int, *, write: bool) -> Segment | None:
    """Map a ring file and validate its header; close it and return None if that fails."""
    size = os.fstat(descriptor).st_size
    if size < layout.PAGE:
        os.close(descriptor)
        return None
    segment = Segment(name, generation, descriptor, size, write=write)
    try:
        segment.geometry = layout.read_geometry(
            segment.words,
            kind=names.KIND_NUMBERS[name.kind],
            generation=generation,
            file_size=size,
        )
    except ShmError:
        segment.close()
        return None
    return segment


def _writer_pid(descriptor: int) -> str:
    with contextlib.suppress(OSError):
        pid = int.from_bytes(os.pread(descriptor, 8, 8 * layout.WRITER_PID_WORD), "little")
        return f" (process {pid})"
    return ""


def _no_space(name: str, needed: int, error: OSError) -> str:
    if error.errno not in _FULL:
        return f"cannot allocate {needed:,} bytes for {name}: {error.strerror}"
    stats = os.statvfs(names.SHM_DIR)
    free = stats.f_bavail * stats.f_frsize
    return (
        f"{names.SHM_DIR} is too small: {name} needs {needed:,} bytes, {free:,} are free. Enlarge it (mount -o "
        f"remount,size=… {names.SHM_DIR}; Docker: --shm-size; Kubernetes: sizeLimit of the memory volume), or use a "
        "smaller picture, fewer `slots` or fewer cameras"
    )
