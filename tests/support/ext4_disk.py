"""A small ext4 of its own, which can be frozen, or fail."""

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
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    image, folder = parent / "disk.img", parent / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    disk = Ext4Disk(image, folder)
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield disk
    finally:
        subprocess.run(["fsfreeze", "-u", folder], capture_output=True)
        subprocess.run(["umount", folder], check=True)
