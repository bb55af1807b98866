"""A synthetic live camera: draws moving people in a street or a hall directly into I420 planes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tridetr.i420 import planes, require_even
from tridetr_demo.scene.backdrop import Background
from tridetr_demo.scene.furniture import draw_furniture
from tridetr_demo.scene.hall import draw_hall
from tridetr_demo.scene.i420 import rgb_to_i420
from tridetr_demo.scene.sprites import Sprite, blit_rgba, cast_shadow
from tridetr_demo.scene.staging import CAR, DOG, PERSON
from tridetr_demo.scene.street import draw_street
from tridetr_demo.scene.troupe import Perspective, Troupe
from tridetr_demo.scene.world import Timetable, TrueBox, Visit, make_timetable

NOISE = 3
NOISE_ROWS = 61
CLASS_OF = {"person": PERSON, "car": CAR, "dog": DOG}


@dataclass(frozen=True)
class _Standing:
    """A sprite in the current picture, and the position of its upper left corner."""

    sprite: Sprite
    left: int
    top: int
    foot: float
    class_id: int


class SyntheticCamera:
    """Draws the film of a camera over a street or in a hall; the same seed gives the same film.

    Frames are I420 with full-range BT.601 colours (like JPEG). Each has a little noise, so that no two are equal.

    Args:
        width: Even width in pixels.
        height: Even height in pixels.
        seed: Random seed.
        scene: `street` or `hall`.

    Raises:
        ValueError: A size is odd, or the scene is unknown.
    """

    def __init__(self, width: int, height: int, seed: int = 0, scene: str = "street") -> None:
        require_even(width, height)
        if scene not in ("street", "hall"):
            raise ValueError(f"unknown scene {scene!r}: use 'street' or 'hall'")
        self.width, self.height = width, height
        self.timetable: Timetable = make_timetable(seed, scene)
        rng = np.random.default_rng([seed, 5 if scene == "street" else 6])
        size_wh = (width, height)
        self._place = (
            draw_street(rng, size_wh, daylight=True)
            if scene == "street"
            else draw_hall(rng, size_wh)
        )
        self._view = Perspective(self._place)
        self._furniture = self._furnish(rng, self._place)
        # Away from the limits of a byte, so that the noise cannot wrap around
        self._background = rgb_to_i420(self._place.rgb)
        luma = self._background[:height]
        np.clip(luma, NOISE, 255 - NOISE, out=luma)
        noise = rng.integers(-NOISE, NOISE + 1, (height + NOISE_ROWS, width))
        self._noise = (noise & 0xFF).astype(np.uint8)
        self._troupe = Troupe(rng, self.timetable, self._view)

    def draw(self, time_s: float, out: NDArray[np.uint8]) -> list[TrueBox]:
        """Draw the frame of a moment.

        Args:
            time_s: Time since the film began [s]; the film repeats after `timetable.period_s`.
            out: Frame to draw into, uint8 [3H/2, W], contiguous; fully overwritten.

        Returns:
            True boxes of everything in view, the farthest first.
        """
        if out.shape != self._background.shape or out.dtype != np.uint8:
            raise ValueError(
                f"expected uint8 {self._background.shape} to draw on, got {out.dtype} {out.shape}"
            )
        target = planes(out)
        offset = int(time_s * 1000) * 7 % NOISE_ROWS
        np.add(
            self._background[: self.height],
            self._noise[offset : offset + self.height],
            out=target[0],
        )
        out[self.height :] = self._background[self.height :]
        present = self._present(time_s)
        for item in present:
            item.sprite.lay(target, item.left, item.top)
        return self._boxes(present)

    def truth(self, time_s: float) -> list[TrueBox]:
        """Return the true boxes of a moment, without drawing."""
        return self._boxes(self._present(time_s))

    def _furnish(self, rng: np.random.Generator, place: Background) -> list[_Standing]:
        """Draw furniture that is behind all people into the background; return furniture in front of some of them."""
        in_front: list[_Standing] = []
        street = place.road is not None
        behind = ("tree", "bench", "post") if street else ("planter", "bench", "desk")
        scale = {
            "tree": 2.0,
            "bench": 0.45,
            "post": 2.0,
            "planter": 0.75,
            "desk": 0.6,
            "bollard": 0.5,
            "bin": 0.5,
        }
        for kind in behind:
            foot = place.floor_y + 0.03 * self.height
            tall = max(12, round(self._view.body_height(foot) * scale[kind]))
            picture = draw_furniture(rng, kind, tall)
            x = rng.uniform(0.08, 0.92) * self.width
            cast_shadow(place.rgb, x, foot - 1, picture.shape[1])
            blit_rgba(place.rgb, picture, round(x - picture.shape[1] / 2), round(foot - tall))
        for kind in ("bollard", "bollard", "bin") if street else ("planter",):
            foot = self._view.foot(0.6, "furniture")
            sprite = Sprite.from_rgba(
                draw_furniture(rng, kind, round(self._view.body_height(foot) * scale[kind])),
                shadow=0.3,
            )
            x = rng.uniform(0.05, 0.95) * self.width
            in_front.append(self._stand(sprite, x, foot, 0))
        return in_front

    def _stand(self, sprite: Sprite, centre_x: float, foot: float, class_id: int) -> _Standing:
        x0, _, x1, y1 = sprite.box
        left, top = centre_x - (x0 + x1) / 2, foot - y1
        return _Standing(sprite, round(left / 2) * 2, round(top / 2) * 2, foot, class_id)

    def _present(self, time_s: float) -> list[_Standing]:
        """Return everything that moves or is in front of moving things, the farthest first."""
        items = list(self._furniture)
        for visit, across, walking in self.timetable.present(time_s):
            items.append(self._pose(visit, across, walking))
        return sorted(items, key=lambda item: item.foot)

    def _pose(self, visit: Visit, across: float, walking: bool) -> _Standing:
        actor = self._troupe.actor(visit)
        centre = across * self.width
        if walking:
            walked = centre if visit.rightwards else self.width - centre
            step = math.floor(walked / actor.cycle_px * len(actor.walking)) % len(actor.walking)
            sprite = actor.walking[step]
        else:
            sprite = actor.standing
        return self._stand(
            sprite if visit.rightwards else sprite.mirrored(),
            centre,
            self._view.foot(visit.lane, visit.role),
            CLASS_OF[visit.role],
        )

    def _boxes(self, present: list[_Standing]) -> list[TrueBox]:
        found: list[TrueBox] = []
        extents = [self._extent(item) for item in present]
        for index, item in enumerate(present):
            x0, y0, x1, y1 = extents[index]
            left = max(0, x0)
            top = max(0, y0)
            right = min(self.width, x1)
            bottom = min(self.height, y1)
            if item.class_id == 0 or left >= right or top >= bottom:
                continue
            shown = (right - left) * (bottom - top)
            for nearer in extents[index + 1 :]:
                wide = min(right, nearer[2]) - max(left, nearer[0])
                high = min(bottom, nearer[3]) - max(top, nearer[1])
                shown -= max(0, wide) * max(0, high)
            visible = max(0.0, shown / ((x1 - x0) * (y1 - y0)))
            found.append(TrueBox((left, top, right, bottom), item.class_id, visible))
        return found

    @staticmethod
    def _extent(item: _Standing) -> tuple[int, int, int, int]:
        x0, y0, x1, y1 = item.sprite.box
        return item.left + x0, item.top + y0, item.left + x1, item.top + y1
