"""Read from a disk in threads of its own: one that hangs must not occupy those of the other routes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from quart.wrappers.response import ResponseBody

PATIENCE_S = 10.0
_THREADS = 4
_PIECE = 2**18  # bytes per read
_Found = TypeVar("_Found")


class DiskReader:
    """Runs functions that read from one disk.

    Args:
        key: key of the configuration that selects the disk, for messages.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=key)

    async def read(self, call: Callable[..., _Found], *arguments: object) -> _Found:
        """Return the result of a call.

        Raises:
            sqlite3.OperationalError: the disk does not answer.
        """
        reading = asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *arguments))
        try:
            return await asyncio.wait_for(reading, PATIENCE_S)
        except asyncio.TimeoutError:
            raise sqlite3.OperationalError(f"the disk of {self._key} does not answer") from None

    async def open(self, path: Path) -> FileBody:
        """Open a file as the body of a response.

        Raises:
            OSError: the file cannot be opened.
            sqlite3.OperationalError: the disk does not answer.
        """
        return await self.read(FileBody, self, path)


class FileBody(ResponseBody):
    """The bytes of a file from ``begin`` to ``end``; by default, all.

    Attributes:
        status: the file's size and times.
    """

    def __init__(self, disk: DiskReader, path: Path) -> None:
        self._disk = disk
        self._file = FileIO(path)
        weakref.finalize(self, self._file.close)  # if the response is not sent, or has no body
        self.status = os.fstat(self._file.fileno())
        self.begin, self.end = 0, self.status.st_size

    async def __aenter__(self) -> FileBody:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        at = self.begin
        while at < self.end:
            size = min(_PIECE, self.end - at)
            piece = await self._disk.read(
                lambda at=at, n=size: os.pread(self._file.fileno(), n, at)
            )
            if not piece:
                return
            at += len(piece)
            yield piece
