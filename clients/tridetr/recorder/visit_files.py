"""The folder of pictures and clips: a file counts only once it is complete, synced and renamed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tridetr.files import sync_folder
from tridetr.recorder.evidence_files import PART, own_files, require_room


class VisitFiles:
    """The recorder's files of visits; all others in the folder are left alone.

    Args:
        folder: Their folder; must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def part(self, name: str) -> Path:
        """Return the path to write a file to until it is complete.

        Raises:
            OSError: There is not enough disk space.
        """
        require_room(self.folder)
        return self.folder / (name + PART)

    def complete(self, part: Path, name: str) -> None:
        """Sync a file to disk, then rename it to its final name.

        Raises:
            OSError: It cannot be written.
        """
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.rename(self.folder / name)
        sync_folder(self.folder)

    def size(self, names: Iterable[str]) -> int:
        """Return the size of files in bytes.

        Raises:
            OSError: One of them is missing.
        """
        return sum((self.folder / name).stat().st_size for name in names)

    def remove(self, *names: str) -> None:
        """Remove files, as far as the disk allows it, whether they are complete or not."""
        for name in names:
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
                (self.folder / (name + PART)).unlink(missing_ok=True)

    def remove_unfinished(self) -> None:
        """Remove the files that a killed recorder was writing: a clip may have filled the disk."""
        for file in self._unfinished():
            with suppress(OSError):
                file.unlink()

    def remove_others(self, named: set[str]) -> None:
        """Remove the files without a row; those with one are given by name."""
        for file in own_files(self.folder):
            if file.name not in named:
                with suppress(OSError):
                    file.unlink()

    @property
    def unfinished_size(self) -> int:
        """Size in bytes of the files that are being written."""
        return sum(file.stat().st_size for file in self._unfinished())

    def _unfinished(self) -> list[Path]:
        return [file for file in own_files(self.folder) if file.suffix == PART]
