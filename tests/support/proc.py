"""List what processes hold, from /proc; in containers also those of other users, where root lacks CAP_SYS_PTRACE."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

_LISTENS = "0A"


def descriptors(pid: int) -> list[str]:
    """Return the open files of a process as /proc shows them: paths, `socket:[inode]`, …"""
    folder = Path(f"/proc/{pid}/fd")
    found = []
    try:
        for entry in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(entry.readlink()))
        return found
    except PermissionError:  # the embedded mosquitto has changed its user: read as that user
        status = psutil.Process(pid)
        listed = subprocess.run(
            ["find", folder, "-type", "l", "-printf", "%l\\n"],
            user=status.uids().effective,
            group=status.gids().effective,
            extra_groups=[],
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert listed.stdout, f"cannot look into process {pid}"
        return listed.stdout.splitlines()


def listening(pid: int) -> list[tuple[str, int]]:
    """Return the addresses and TCP ports that a process listens on."""
    held = {name for name in descriptors(pid) if name.startswith("socket:")}
    found = []
    for file, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with contextlib.suppress(FileNotFoundError):  # without IPv6
            for line in Path(f"/proc/{pid}/net/{file}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENS and f"socket:[{words[9]}]" in held:
                    found.append(_address(words[1], family))
    return found


def _address(text: str, family: int) -> tuple[str, int]:
    digits, port = text.split(":")
    numbers = bytes.fromhex(digits)  # words of 32 bits in native byte order
    words = [numbers[i : i + 4][::-1] for i in range(0, len(numbers), 4)]
    return socket.inet_ntop(family, b"".join(words)), int(port, 16)


@contextlib.contextmanager
def listening_as(user: int) -> Iterator[int]:
    """Let a process of another user listen on a port of 127.0.0.1, and return the port; only root can."""
    ready, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setuid(user)
            with socket.create_server(("127.0.0.1", 0)) as server:
                os.write(write, str(server.getsockname()[1]).encode())
                while True:
                    server.accept()[0].recv(1)
        finally:
            os._exit(0)
    try:
        yield int(os.read(ready, 10))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(write)
