"""Explains why a device file cannot be used, and how to fix it."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from contextlib import suppress
from pathlib import Path

from tridetr.foreign_text import printable

_DENIED = (errno.EACCES, errno.EPERM)
_GONE = (errno.ENODEV, errno.ENXIO)


def explain(path: str, error: OSError) -> str:
    """Return a message with cause and remedy for an error when opening or starting a device."""
    if error.errno in _DENIED:
        return _denied(path)
    if error.errno == errno.EBUSY:
        return _busy(path)
    if error.errno == errno.ENOSPC:
        return (
            f"{path}: the USB bus has no bandwidth left for this format. Set pixel_format: mjpeg, "
            "a smaller width and height, or plug the camera into a port of another controller"
        )
    if error.errno in _GONE:
        return f"{path}: the device file exists, but its camera is gone. Plug the camera in again"
    if error.errno == errno.ENOTTY:
        return f"{path} is not a video device"
    return f"{path}: {error.strerror or error}"


def holders(path: str) -> list[str]:
    """Return the other processes that have the device open, such as "pid 812 (cheese)".

    Only processes that this user may inspect are found.
    """
    found = []
    target = os.path.realpath(path)
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            if any(_target(entry) == target for entry in (process / "fd").iterdir()):
                name = (process / "comm").read_bytes().decode(errors="replace").strip()
                found.append(f"pid {process.name} ({printable(name)})")
    return found


def _target(link: Path) -> str:
    with suppress(OSError):
        return os.readlink(link)  # noqa: PTH115  (a Path would cost more, in thousands of entries)
    return ""


def _busy(path: str) -> str:
    others = holders(path)
    who = f": {', '.join(others)}" if others else " (which one is not visible to this user)"
    return f"{path} is in use by another program{who}. Close that program: only one at a time can use a camera"


def _denied(path: str) -> str:
    info = Path(path).stat()
    try:
        group = grp.getgrgid(info.st_gid).gr_name
    except KeyError:
        group = str(info.st_gid)
    user = _user_name()
    start = (
        f"no permission to use {path} (mode {info.st_mode & 0o777:04o}, group {group}) as {user}"
    )
    if Path("/.dockerenv").exists():
        return f"{start}. Start the container with `--device {path} --group-add {info.st_gid}`"
    if info.st_gid == 0:
        return f"{start}. Assign the device to a group (with a udev rule, or `chgrp video {path}`)"
    return f"{start}. Run `sudo usermod -aG {group} {user}` and log in again"


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # an id without a name, as in many containers
        return f"user id {os.geteuid()}"
