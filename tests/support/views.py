"""Drawn views of cameras, what happens before them, and a detector that watches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tridetr.capture.blind import LOOK_NS, BlindDetector
from tridetr.shm.boards import BlindReason
from tridetr_demo.scene import SyntheticCamera

Picture = NDArray[np.float32]
Film = Callable[[float], Picture]
SIZE = (180, 320)
RNG = np.random.default_rng(5)
_NOISE = RNG.normal(0, 1, (SIZE[0] + 61, SIZE[1] + 97)).astype(np.float32)
X, Y = np.meshgrid(np.linspace(0, 1, SIZE[1]), np.linspace(0, 1, SIZE[0]))


def drawn(seed: int, scene: str) -> Film:
    camera = SyntheticCamera(SIZE[1], SIZE[0], seed=seed, scene=scene)
    frame = np.empty((SIZE[0] * 3 // 2, SIZE[1]), np.uint8)

    def film(time_s: float) -> Picture:
        camera.draw(time_s, frame)
        return frame[: SIZE[0]].astype(np.float32)

    return film


PLACES: dict[str, Film] = {
    f"{scene}{seed}": drawn(seed, scene)
    for scene, seed in (("street", 1), ("street", 2), ("hall", 1), ("hall", 2), ("hall", 3))
}


def still(film: Film) -> Film:
    """Return six pictures of a film again and again, which is faster than drawing each."""
    pictures = [film(float(second)) for second in range(6)]
    return lambda time_s: pictures[int(time_s) % 6]


STILLS = {place: still(film) for place, film in PLACES.items()}


def text(down: float, across: float, width: float, time_s: float) -> NDArray[np.bool_]:
    """Pixels of a line of text with a running clock."""
    strokes = ((X * 80).astype(int) * 7919 + (Y * 60).astype(int) * 104729) % 3 == 0
    along = (X - across) / width
    seconds = (along > 0.9) & ((X * 80 + time_s).astype(int) % 2 == 0)
    line = (np.abs(Y - down - 0.045) < 0.045) & (np.abs(along - 0.5) < 0.5)
    return np.asarray(line & (strokes ^ seconds))


def logo(_time_s: float) -> NDArray[np.bool_]:
    return (X > 0.85) & (X < 0.95) & (Y > 0.7) & (Y < 0.8) & (np.sin(60 * X) > 0)


OVERLAYS: dict[str, Callable[[float], NDArray[np.bool_]]] = {
    "date at the edge": lambda time_s: text(0.02, 0.03, 0.45, time_s),
    "date and name": lambda time_s: text(0.11, 0.03, 0.6, time_s) | text(0.7, 0.6, 0.35, 0),
    "logo": logo,
}


def overlaid(film: Film, overlay: str) -> Film:
    """Return a film into which the camera draws, whatever its lens shows."""
    return lambda time_s: np.where(OVERLAYS[overlay](time_s), 235, film(time_s)).astype(np.float32)


class Watch:
    """Feeds a film to a detector, two looks a second, and records its results."""

    def __init__(self) -> None:
        self.detector = BlindDetector()
        self.looks = 0
        self._rng = np.random.default_rng(1)

    def see(self, film: Film, seconds: float, noise: float = 2.0) -> list[BlindReason | None]:
        found = []
        for _ in range(round(seconds * 2)):
            down, right = self._rng.integers(0, 61), self._rng.integers(0, 97)
            view = film(self.looks / 2)
            grain = noise * _NOISE[down : down + view.shape[0], right : right + SIZE[1]]
            picture = np.clip(view + grain, 0, 255).astype(np.uint8)
            found.append(self._look(picture))
        return found

    def _look(self, picture: NDArray[np.uint8]) -> BlindReason | None:
        self.looks += 1
        return self.detector.judge(
            lambda step: picture[::step], picture.shape[0], self.looks * LOOK_NS
        )


def check_suspicion(watch: Watch, film: Film, seconds: float) -> None:
    """Let a film begin; from 2.5 s on, it must be suspicious at each look."""
    assert set(watch.see(film, 2.5)) == {None}
    for _ in range(round(2 * (seconds - 2.5))):
        watch.see(film, 0.5)
        assert watch.detector.is_suspect, watch.looks


def blurred(picture: Picture, radius: float) -> Picture:
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius))).astype(np.float32)


def lamp(across: float, down: float, width: float) -> Picture:
    distance = ((X - across) * 16) ** 2 + ((Y - down) * 9) ** 2
    return (255 * np.exp(-distance / width**2)).astype(np.float32)


def person(time_s: float) -> NDArray[np.bool_]:
    """Pixels of a person who walks past close to the lens, over three quarters of the view."""
    return (np.abs(X - ((time_s % 20) / 10 - 0.5)) < 0.38) & (Y > 0.1)


# Events in which the camera sees, with the sensor noise [levels]
SEEN: dict[str, tuple[Callable[[Film], Film], float]] = {
    "lights off, a faint rest": (lambda film: lambda time_s: film(time_s) * 0.05 + 8, 3),
    "night with noise": (lambda film: lambda time_s: film(time_s) * 0.2 + 5, 12),
    "night, smoothed by the camera": (
        lambda film: lambda time_s: blurred(film(time_s), 0.8) * 0.25,
        5,
    ),
    "infrared light": (
        lambda film: (
            lambda time_s: np.clip(
                255 * (film(time_s) / 255) ** 0.5 * (1.1 - (X - 0.5) ** 2 - (Y - 0.5) ** 2), 0, 255
            )
        ),
        6,
    ),
    "infrared swaps dark and bright": (lambda film: lambda time_s: 230 - 0.8 * film(time_s), 5),
    "lamps at night": (
        lambda film: lambda time_s: film(time_s) * 0.15 + lamp(0.2, 0.3, 0.7) + lamp(0.7, 0.4, 0.5),
        4,
    ),
    "black except under a lamp": (
        lambda film: lambda time_s: np.where(X < 0.4, film(time_s) * 0.7, 0),
        0,
    ),
    "headlights": (
        lambda film: (
            lambda time_s: (
                film(time_s) * 0.25
                + lamp((time_s % 10) / 10, 0.6, 2)
                + lamp((time_s % 10) / 10 + 0.1, 0.6, 2)
            )
        ),
        5,
    ),
    "rain": (
        lambda film: lambda time_s: film(time_s) * 0.6 + 60 + 50 * (RNG.random(SIZE) < 0.02),
        5,
    ),
    "fog": (lambda film: lambda time_s: film(time_s) * 0.25 + 130, 3),
    "the sun from one side": (
        lambda film: lambda time_s: film(time_s) * np.clip(0.2 + 1.3 * X, 0, 1.3),
        2,
    ),
    "shadows of trees": (
        lambda film: lambda time_s: film(time_s) * np.where((X + Y / 2) % 0.3 < 0.12, 0.5, 1),
        2,
    ),
    "a person close to the lens": (
        lambda film: (
            lambda time_s: np.where(person(time_s), 60 + 20 * np.sin(30 * Y), film(time_s))
        ),
        2,
    ),
    "exposure that hunts": (
        lambda film: lambda time_s: film(time_s) * (0.6 + 0.5 * (time_s // 3 % 2)),
        2,
    ),
    "wind": (lambda film: lambda time_s: np.roll(film(time_s), int(time_s * 7) % 5 - 2, axis=1), 2),
}
