"""V4L2 ioctl calls with linuxpy's structures, and queries of the modes that a driver offers.

linuxpy's high-level classes are not used: they fail on drivers with formats unknown to them, and
copy each frame out of the driver's buffer.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from typing import Any

from tridetr.capture.v4l2.modes import FOURCCS, Mode
from tridetr.errors import ConfigError

try:
    import linuxpy.video.raw
except ImportError:
    raise ConfigError(
        "cameras behind /dev/video* need linuxpy (GPL-3.0-or-later), which is not installed: "
        "pip install 'tridetr[v4l2]'"
    ) from None

raw: Any = linuxpy.video.raw  # structures whose fields are created at run time
IOC: Any = raw.IOC

_DISCRETE = 1
_MOST_ENTRIES = 512
# Offered between the smallest and the largest size of a driver that scales continuously
_COMMON_SIZES = ((320, 240), (640, 360), (640, 480), (1280, 720), (1920, 1080))


def call(fd: int, request: Any, argument: Any) -> Any:
    """Make an ioctl call and return its argument, which the driver has filled in.

    Raises:
        OSError: With the driver's errno.
    """
    fcntl.ioctl(fd, int(request), argument)
    return argument


def read_modes(fd: int, buffer_type: int) -> list[Mode]:
    """Return the modes that the device offers; a format without sizes is left out.

    Rates are not queried for formats that tridetr cannot read: some drivers list dozens of them.
    """
    return [
        Mode(fourcc, width, height, _rates(fd, fourcc, width, height) if fourcc in FOURCCS else ())
        for fourcc in _formats(fd, buffer_type)
        for width, height in _sizes(fd, fourcc)
    ]


def fourcc_text(code: int) -> str:
    """Return a pixel format as text, such as "YUYV"; big-endian formats end in -BE."""
    text = (code & 0x7FFF_FFFF).to_bytes(4, "little").decode("latin-1").rstrip()
    return f"{text}-BE" if code >> 31 else text


def fourcc_code(fourcc: str) -> int:
    """Return the number of a pixel format, the inverse of `fourcc_text`."""
    text, _, big_endian = fourcc.partition("-")
    code = int.from_bytes(text.ljust(4).encode("latin-1"), "little")
    return code | (1 << 31) if big_endian else code


def rate_of(interval: Any) -> float:
    """Return the frames per second of a frame interval (v4l2_fract); 0 if unknown."""
    if not interval.numerator:
        return 0.0
    return float(round(interval.denominator / interval.numerator, 3))


def _formats(fd: int, buffer_type: int) -> list[str]:
    entries = _listed(fd, IOC.ENUM_FMT, raw.v4l2_fmtdesc(type=buffer_type))
    return [fourcc_text(entry.pixelformat) for entry in entries]


def _sizes(fd: int, fourcc: str) -> list[tuple[int, int]]:
    sizes: list[tuple[int, int]] = []
    query = raw.v4l2_frmsizeenum(pixel_format=fourcc_code(fourcc))
    for entry in _listed(fd, IOC.ENUM_FRAMESIZES, query):
        if entry.type == _DISCRETE:
            sizes.append((entry.discrete.width, entry.discrete.height))
            continue
        span = entry.stepwise  # a single entry: any size between a minimum and a maximum
        low, high = (span.min_width, span.min_height), (span.max_width, span.max_height)
        between = [
            (width, height)
            for width, height in _COMMON_SIZES
            if low[0] < width < high[0] and low[1] < height < high[1]
        ]
        return [low, *between, high]
    return sizes


def _rates(fd: int, fourcc: str, width: int, height: int) -> tuple[float, ...]:
    query = raw.v4l2_frmivalenum(pixel_format=fourcc_code(fourcc), width=width, height=height)
    rates: set[float] = set()
    for entry in _listed(fd, IOC.ENUM_FRAMEINTERVALS, query):
        if entry.type == _DISCRETE:
            rates.add(rate_of(entry.discrete))
            continue
        rates |= {rate_of(entry.stepwise.min), rate_of(entry.stepwise.max)}
        break
    return tuple(sorted(rates - {0.0}, reverse=True))


def _listed(fd: int, request: Any, query: Any) -> Iterator[Any]:
    for index in range(_MOST_ENTRIES):
        query.index = index
        try:
            yield call(fd, request, query)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY, errno.ENODATA):
                return  # the end of the list, or a driver without such a list
            raise
