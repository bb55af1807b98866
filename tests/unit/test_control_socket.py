"""The Unix socket for requests to the controller."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tridetr.control_socket import ControllerAwayError, ControlSocket, ask_controller


async def test_a_removed_socket_in_a_deep_folder_is_created_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path.joinpath(*["deep-folder"] * 20)
    folder.mkdir(parents=True)
    socket = ControlSocket(folder, lambda request: request)
    await socket.keep()
    (folder / "controller.sock").unlink()
    await socket.keep()
    assert (folder / "controller.sock").is_socket()
    assert await ask_controller(folder, {"ping": 1}) == {"ping": 1}
    # asyncio of Python 3.13 removes sockets itself, by the path that they were created with
    with (tmp_path / "reuses the folder's descriptor").open("w"):
        await socket.close()
    assert not caplog.records
    with pytest.raises(ControllerAwayError):
        await ask_controller(folder, {})


async def test_other_users_cannot_arm_or_disarm(tmp_path: Path) -> None:
    """The umask once set the socket's mode, in a run folder that other users may be allowed to enter."""
    before = os.umask(0)
    try:
        socket = ControlSocket(tmp_path, lambda request: request)
        await socket.keep()
        assert (tmp_path / "controller.sock").stat().st_mode & 0o777 == 0o600
        await socket.close()
    finally:
        os.umask(before)


async def test_invalid_requests_get_no_answer_and_do_no_harm(tmp_path: Path) -> None:
    def answer(request: dict[str, object]) -> dict[str, object]:
        return {"got": request.get("a")}

    socket = ControlSocket(tmp_path, answer)
    await socket.keep()
    for junk in (b"\n", b"[]\n", b"{", b"x" * 200_000 + b"\n", b"\xff\n", b"[" * 60_000 + b"\n"):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "controller.sock"))
        writer.write(junk)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    assert await ask_controller(tmp_path, {"a": 1}) == {"got": 1}
    await socket.close()
