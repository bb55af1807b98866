"""Send requests to a running controller from other processes of its node.

Request and answer are one line of JSON each, over a Unix socket in the run folder that only the node's user can open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from tridetr.errors import TridetrError

logger = logging.getLogger("tridetr.controller")

_NAME = "controller.sock"
_TIMEOUT_S = 3.0
_LONGEST = 64 * 1024
# From Python 3.13 on, asyncio would remove the socket by a path that is no longer valid
_OPTIONS: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
Answerer: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


class ControllerAwayError(TridetrError):
    """The controller is not running or does not answer."""


class ControlSocket:
    """The controller's end of the socket: answers requests.

    Args:
        run_dir: the node's run folder.
        answer: returns the answer to a request; called on the event loop's thread.
    """

    def __init__(self, run_dir: Path, answer: Answerer) -> None:
        self._folder = run_dir
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._fault = ""

    async def keep(self) -> None:
        """Listen, and create the socket again if it was removed; call this periodically."""
        path = self._folder / _NAME
        if self._server is not None and path.exists():
            return
        await self.close()
        try:
            path.unlink(missing_ok=True)  # left by a controller that was killed
            with _short(self._folder) as short:
                self._server = await asyncio.start_unix_server(
                    self._serve, short, limit=_LONGEST, **_OPTIONS
                )
            path.chmod(0o600)  # the folder may be one that others can enter
            self._fault = ""
        except OSError as error:
            if self._fault != (fault := error.strerror or str(error)):
                self._fault = fault
                logger.warning(
                    "cannot create %s (%s): the viewer cannot arm or disarm", path, error
                )

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, RecursionError, asyncio.TimeoutError):
            request = json.loads(await asyncio.wait_for(reader.readline(), _TIMEOUT_S))
            if isinstance(request, dict):
                writer.write(json.dumps(self._answer(request)).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), _TIMEOUT_S)
        writer.close()


async def ask_controller(run_dir: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the controller of a node and return its answer.

    Raises:
        ControllerAwayError: the controller is not running or does not answer.
    """

    async def exchange() -> dict[str, Any]:
        with _short(run_dir) as short:
            reader, writer = await asyncio.open_unix_connection(short, limit=_LONGEST)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await reader.readline())
            return answer
        finally:
            writer.close()

    try:
        return await asyncio.wait_for(exchange(), _TIMEOUT_S)
    except (OSError, ValueError, asyncio.TimeoutError):
        raise ControllerAwayError("the controller is not running or does not answer") from None


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Yield a path of the socket that fits the kernel's limit of 107 bytes, however long the folder's path is."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)
