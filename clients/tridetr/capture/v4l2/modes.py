"""What a V4L2 camera offers, and which of it suits best. Pure: no device is touched here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

PixelFormatName = Literal["mjpeg", "yuyv", "nv12", "i420"]

# In the order of preference where size and rate are the same: 4:2:0 needs no decoding and half the
# bytes; MJPEG spares the bus and the viewer's encoder; YUYV is what any camera can do.
FOURCCS: dict[str, PixelFormatName] = {
    "NV12": "nv12",
    "YU12": "i420",
    "MJPG": "mjpeg",
    "JPEG": "mjpeg",
    "YUYV": "yuyv",
}

# Without a wish for size or rate: larger pictures and higher rates than these cost CPU time in
# every frame, and the model looks at a much smaller picture anyway.
DEFAULT_MAX_SIZE = (1920, 1080)
DEFAULT_FPS = 30.0
FLUENT_FPS = 15.0


@dataclass(frozen=True, slots=True)
class Mode:
    """One combination that a camera offers.

    Attributes:
        fourcc: The pixel format as V4L2 writes it, such as "MJPG".
        width: pixels.
        height: pixels.
        rates: Frames per second, highest first; empty where the driver does not say.
    """

    fourcc: str
    width: int
    height: int
    rates: tuple[float, ...] = ()

    @property
    def name(self) -> PixelFormatName | None:
        """The format's name in the configuration; None where we cannot read it."""
        return FOURCCS.get(self.fourcc)

    def rate_for(self, target: float) -> float:
        """Return the lowest offered rate that reaches the target, else the highest; 0: unknown."""
        reaching = [rate for rate in self.rates if rate >= target * 0.98]
        return min(reaching) if reaching else max(self.rates, default=0.0)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the configuration asks of a camera; None: no matter."""

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
    """The mode to ask for, and the rate [1/s] within it (0: leave it as it is)."""

    mode: Mode
    fps: float


def choose(modes: Iterable[Mode], wish: Wish) -> Choice | None:
    """Return the mode that comes nearest to the wish; None where no format can be read.

    A wanted size counts first, then the rate, then the format. Without a wanted size it is the
    largest up to 1920x1080 that is still fluent.
    """
    target = wish.fps or DEFAULT_FPS
    usable = [mode for mode in modes if mode.name and wish.pixel_format in (None, mode.name)]
    if wish.width and wish.height:
        at_size = _nearest(usable, wish.width, wish.height)
    else:
        at_size = _largest_fluent(usable, target)
    if not at_size:
        return None
    order = list(FOURCCS)
    best = max(
        at_size,
        key=lambda mode: (min(mode.rate_for(target), target), -order.index(mode.fourcc)),
    )
    return Choice(best, best.rate_for(target))


def _nearest(modes: Sequence[Mode], width: int, height: int) -> list[Mode]:
    def distance(mode: Mode) -> int:
        return abs(mode.width - width) + abs(mode.height - height)

    least = min(map(distance, modes), default=0)
    return [mode for mode in modes if distance(mode) == least]


def _largest_fluent(modes: Sequence[Mode], target: float) -> list[Mode]:
    max_width, max_height = DEFAULT_MAX_SIZE
    small = [mode for mode in modes if mode.width <= max_width and mode.height <= max_height]
    if not small:  # a camera that offers nothing but huge pictures
        least = min((mode.width * mode.height for mode in modes), default=0)
        return [mode for mode in modes if mode.width * mode.height == least]
    least_fps = min(target, FLUENT_FPS) * 0.98
    fluent = [m for m in small if not m.rates or m.rate_for(target) >= least_fps] or small
    largest = max(mode.width * mode.height for mode in fluent)
    return [mode for mode in fluent if mode.width * mode.height == largest]


def describe_modes(modes: Iterable[Mode]) -> str:
    """Return the formats with their sizes and highest rates, for people: one line a format."""
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
