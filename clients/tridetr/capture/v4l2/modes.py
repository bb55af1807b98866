"""Modes that a V4L2 camera offers, and the choice of the best one. Does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

PixelFormatName = Literal["mjpeg", "yuyv", "nv12", "i420"]

# In order of preference where size and rate are equal: 4:2:0 needs no decoding and fewer bytes than
# YUYV; MJPEG saves bus bandwidth and the viewer's encoder; YUYV is what every camera supports.
FOURCCS: dict[str, PixelFormatName] = {
    "NV12": "nv12",
    "YU12": "i420",
    "MJPG": "mjpeg",
    "JPEG": "mjpeg",
    "YUYV": "yuyv",
}

# Limits where the configuration sets no size or rate: larger pictures and higher rates cost CPU time
# in every frame, although the model's input is much smaller.
DEFAULT_MAX_SIZE = (1920, 1080)
DEFAULT_FPS = 30.0
SMOOTH_FPS = 15.0


@dataclass(frozen=True, slots=True)
class Mode:
    """One pixel format and size that a camera offers, with its frame rates.

    Attributes:
        fourcc: The pixel format as V4L2 writes it, such as "MJPG".
        width: Pixels.
        height: Pixels.
        rates: Frames per second, highest first; empty if the driver reports none.
    """

    fourcc: str
    width: int
    height: int
    rates: tuple[float, ...] = ()

    @property
    def name(self) -> PixelFormatName | None:
        """The format's name in the configuration; None if tridetr cannot read it."""
        return FOURCCS.get(self.fourcc)

    def rate_for(self, target: float) -> float:
        """Return the lowest offered rate that reaches the target [fps], else the highest; 0 if unknown."""
        reaching = [rate for rate in self.rates if rate >= target * 0.98]
        return min(reaching) if reaching else max(self.rates, default=0.0)


@dataclass(frozen=True, slots=True)
class Wish:
    """Mode that the configuration asks for; None leaves a property open."""

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    pixel_format: PixelFormatName | None = None

    def __str__(self) -> str:
        size = f"{self.width}x{self.height}" if self.width else "any size"
        rate = f"{self.fps:g} fps" if self.fps else "any rate"
        return f"{self.pixel_format or 'any format'} {size} at {rate}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The mode to request, and its frame rate [fps] (0 leaves the rate unchanged)."""

    mode: Mode
    fps: float


def choose(modes: Iterable[Mode], wish: Wish) -> Choice | None:
    """Return the mode that best matches a wish; None if no offered format can be read.

    A requested size has priority, then the rate, then the format. Without a requested size, it is
    the largest one up to 1920x1080 that reaches 15 fps.

    >>> modes = [Mode("YUYV", 1920, 1080, (5.0,)), Mode("MJPG", 1280, 720, (30.0, 15.0))]
    >>> choice = choose(modes, Wish())
    >>> choice.mode.fourcc, choice.mode.width, choice.fps
    ('MJPG', 1280, 30.0)
    """
    target = wish.fps or DEFAULT_FPS
    usable = [mode for mode in modes if mode.name and wish.pixel_format in (None, mode.name)]
    if wish.width and wish.height:
        at_size = _nearest(usable, wish.width, wish.height)
    else:
        at_size = _largest_smooth(usable, target)
    if not at_size:
        return None
    order = list(FOURCCS)
    best = max(
        at_size, key=lambda mode: (min(mode.rate_for(target), target), -order.index(mode.fourcc))
    )
    return Choice(best, best.rate_for(target))


def _nearest(modes: Sequence[Mode], width: int, height: int) -> list[Mode]:
    def distance(mode: Mode) -> int:
        return abs(mode.width - width) + abs(mode.height - height)

    least = min(map(distance, modes), default=0)
    return [mode for mode in modes if distance(mode) == least]


def _largest_smooth(modes: Sequence[Mode], target: float) -> list[Mode]:
    max_width, max_height = DEFAULT_MAX_SIZE
    small = [mode for mode in modes if mode.width <= max_width and mode.height <= max_height]
    if not small:  # a camera that offers nothing but huge pictures
        least = min((mode.width * mode.height for mode in modes), default=0)
        return [mode for mode in modes if mode.width * mode.height == least]
    least_fps = min(target, SMOOTH_FPS) * 0.98
    smooth = [m for m in small if not m.rates or m.rate_for(target) >= least_fps] or small
    largest = max(mode.width * mode.height for mode in smooth)
    return [mode for mode in smooth if mode.width * mode.height == largest]


def describe_modes(modes: Iterable[Mode]) -> str:
    """Return a readable list of the formats with their sizes and highest rates, one line per format."""
    by_format: dict[str, list[Mode]] = {}
    for mode in modes:
        by_format.setdefault(mode.fourcc, []).append(mode)
    lines = []
    for fourcc, group in by_format.items():
        name = FOURCCS.get(fourcc)
        title = f"{fourcc} ({name})" if name else f"{fourcc} (not supported)"
        sizes = ", ".join(
            f"{mode.width}x{mode.height}" + (f"@{max(mode.rates):g}" if mode.rates else "")
            for mode in group
        )
        lines.append(f"{title}: {sizes or 'sizes unknown'}")
    return "\n".join(lines)
