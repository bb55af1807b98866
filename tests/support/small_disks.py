"""Small file systems: a full one, and an ext4 that can be frozen, or fail."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SHUT_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN: as the kernel does when the device is gone
_NO_LOG_FLUSH = 2


class Ext4Disk:
    """A mounted file system."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        self._image = image

    def mount(self) -> None:
        line = ["mount", "-o", "loop", str(self._image), str(self.folder)]
        subprocess.run(line, check=True, capture_output=True)

    def freeze(self) -> None:
        """Let writes wait, uninterruptibly."""
        subprocess.run(["fsfreeze", "-f", self.folder], check=True)

    def thaw(self) -> None:
        subprocess.run(["fsfreeze", "-u", self.folder], check=True)

    def fail(self) -> None:
        """From now on, files cannot be opened: EIO."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUT_DOWN, struct.pack("I", _NO_LOG_FLUSH))
        except OSError as error:
            pytest.skip(f"a file system cannot be shut down here: {error}")
        finally:
            os.close(descriptor)

    def mount_again(self) -> None:
        subprocess.run(["umount", self.folder], check=True)
        self.mount()


@contextmanager
def mounted_ext4(parent: Path) -> Iterator[Ext4Disk]:
    """Make and mount a file system below a folder; skip the test where that cannot be done."""
    with mounted(parent, "ext4", 32) as (image, folder):
        try:
            yield Ext4Disk(image, folder)
        finally:
            subprocess.run(["fsfreeze", "-u", folder], capture_output=True)


@contextmanager
def mounted(parent: Path, kind: str, size_mib: int) -> Iterator[tuple[Path, Path]]:
    """Make and mount a file system of a kind; yield its image and folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    image, folder = parent / "disk.img", parent / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    try:
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no {kind} can be mounted here: {error}")
    try:
        yield image, folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def mounted_tmpfs(parent: Path, size_mib: int) -> Iterator[Path]:
    """Mount a small tmpfs below a folder; skip the test where that cannot be done."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = parent / "disk"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tridetr-test", str(folder)]
    mounted = subprocess.run(line, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the remaining space; return the file that takes it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return ballast
