"""Read the archive of visits in threads of its own: a disk that hangs must not occupy those of the other routes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

PATIENCE_S = 10.0
_THREADS = 4
_Found = TypeVar("_Found")


class ArchiveReader:
    """Runs the functions of ``tridetr.recorder.visit_list`` for the gateway."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="visits")

    async def read(self, call: Callable[..., _Found], *arguments: object) -> _Found:
        """Return the result of a call.

        Raises:
            sqlite3.Error: the archive cannot be read, or the disk does not answer.
        """
        reading = asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *arguments))
        try:
            return await asyncio.wait_for(reading, PATIENCE_S)
        except asyncio.TimeoutError:
            raise sqlite3.OperationalError("the disk of evidence.path does not answer") from None
