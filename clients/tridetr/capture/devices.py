"""Lists this machine's V4L2 cameras, with a remedy for those that cannot be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tridetr.capture.v4l2.access import explain
from tridetr.capture.v4l2.device import Device
from tridetr.capture.v4l2.modes import Mode, Wish, choose, describe_modes


@dataclass(frozen=True, slots=True)
class CameraDevice:
    """One video device file.

    Attributes:
        path: Such as "/dev/video0".
        name: Name that the device reports; empty if it could not be queried.
        driver: Kernel driver, such as "uvcvideo".
        bus: Bus and port that it is connected to.
        modes: Modes that it offers, including formats that tridetr cannot read.
        problem: Why it cannot be used, with a remedy; None if it can.
    """

    path: str
    name: str = ""
    driver: str = ""
    bus: str = ""
    modes: tuple[Mode, ...] = ()
    problem: str | None = None

    def __str__(self) -> str:
        if self.problem:
            return f"{self.path} {self.name}".rstrip() + f": {self.problem}"
        return f"{self.path} {self.name} ({self.driver}, {self.bus})"


def list_cameras(folder: Path = Path("/dev")) -> list[CameraDevice]:
    """Return all video devices that may be cameras, sorted by number.

    Nodes that do not capture video (metadata, encoders) are left out. A device that another program
    uses can still be queried.
    """
    numbered = [
        (int(match.group(1)), path)
        for path in folder.glob("video*")
        if (match := re.fullmatch(r"video(\d+)", path.name))
    ]
    cameras = (_inspect(str(path)) for _, path in sorted(numbered))
    return [camera for camera in cameras if camera is not None]


def _inspect(path: str) -> CameraDevice | None:
    try:
        device = Device(path)
    except OSError as error:
        return CameraDevice(path, problem=explain(path, error))
    try:
        capability = device.capability
        if not capability.captures:
            return None
        modes = tuple(device.modes())
    except OSError as error:
        return CameraDevice(path, problem=explain(path, error))
    finally:
        device.close()
    problem = None
    if not choose(modes, Wish()):
        offers = describe_modes(modes) or "nothing"
        problem = f"it offers none of MJPEG, YUYV, NV12 and I420. It offers:\n{offers}"
    return CameraDevice(path, capability.card, capability.driver, capability.bus, modes, problem)
