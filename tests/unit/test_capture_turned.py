"""A camera that was turned to another view is reported, until the new view is learned."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from support.views import (
    PLACES,
    RNG,
    SIZE,
    STILLS,
    Film,
    Picture,
    Watch,
    X,
    Y,
    blurred,
    check_suspicion,
    lamp,
    overlaid,
    still,
)
from tridetr.capture import blind
from tridetr.shm.boards import BlindReason

LAMPS = np.where(lamp(0.2, 0.35, 0.7) + lamp(0.7, 0.45, 0.5) + lamp(0.9, 0.3, 0.4) > 120, 230, 0)


def at_night(film: Film, gain: float) -> Film:
    return lambda time_s: np.maximum(film(time_s) * gain + 6, LAMPS).astype(np.float32)


POOL = np.exp(-(((X - 0.6) / 0.065) ** 2 + ((Y - 0.42) / 0.21) ** 2) / 2).astype(np.float32)


@pytest.mark.parametrize("place", ["street1", "hall2", "hall3"])
@pytest.mark.parametrize(
    ("light", "overlay"),
    [
        ("lamps", None),
        ("lamps", "date and name"),
        ("a light at the door", None),
        ("a light at the door", "date and name"),
        ("dusk", None),
    ],
)
def test_a_camera_that_is_turned_from_the_dark_into_the_light_is_reported(
    light: str, overlay: str | None, place: str
) -> None:
    """Any lit view counted as the usual one in the light, and a visit got its all-clear."""
    film, watch = STILLS[place], Watch()
    films: dict[str, Film] = {
        "lamps": at_night(film, 0.03),
        "a light at the door": lambda time_s: film(time_s) * (0.02 + 0.8 * POOL),
        "dusk": lambda time_s: film(time_s) * np.float32(0.12),
    }
    others = [other for other in STILLS.values() if other is not film]
    dark = films[light]
    if overlay:
        dark = overlaid(dark, overlay)
        others = [overlaid(other, overlay) for other in others]
    watch.see(dark, 60)
    for other in others:
        turned = watch.see(other, 20)
        assert turned[-1] is BlindReason.TURNED, "not in 20 s"
        watch.see(dark, 20)


def edge(inside: NDArray[np.bool_], levels: float) -> Picture:
    """Return a thing of sharp edges, brighter than what is behind it by some levels."""
    return blurred((128 + levels * inside).astype(np.float32), 1) - 128


WALL = (165 - 25 * ((X - 0.3) ** 2 + (Y + 0.2) ** 2)).astype(np.float32)
NEAR = np.hypot((X - 0.62) * 16 / 9, Y - 0.41)  # distance from a point, in heights
SQUARE = np.maximum(np.abs(X - 0.4) * 16 / 9, np.abs(Y - 0.6))
CLOUDS = np.asarray(
    Image.fromarray(RNG.normal(0, 1, (9, 16)).astype(np.float32)).resize(
        SIZE[::-1], Image.Resampling.BICUBIC
    )
)
PLAIN_VIEWS: dict[str, Picture] = {
    "smoke detector": WALL + edge(NEAR < 0.09, 40) - edge(NEAR < 0.04, 60),
    "socket": WALL + edge(SQUARE < 0.07, -50) + edge(SQUARE < 0.03, 70),
    "edge of a ceiling": WALL + edge(Y + 0.35 * X > 0.7, -45),
    "corner": WALL * 0.6 + edge((X > 0.45), 25) + edge((X > 0.45) & (Y > 0.8 - 0.3 * X), 30),
    "lamp": (WALL * 0.7 + 130 * np.exp(-((NEAR / 0.12) ** 2))).astype(np.float32),
    "picture": WALL + edge(SQUARE < 0.2, -70) + edge(SQUARE < 0.17, 90),
    "branch": WALL + edge((np.abs(Y - 0.3 - 0.3 * X) < 0.015) & (X < 0.6), -90),
    "clouds": (190 + 9 * CLOUDS).astype(np.float32),
    "dim socket": 0.3 * WALL + edge(SQUARE < 0.07, -18),
}


@pytest.mark.parametrize("overlay", [None, "date and name"])
@pytest.mark.parametrize("place", ["street2", "hall1", "hall3"])
@pytest.mark.parametrize("what", PLAIN_VIEWS)
def test_a_camera_that_is_turned_to_a_wall_or_the_sky_is_reported(
    what: str, place: str, overlay: str | None
) -> None:
    """Little in a picture proved nothing: it was learned as the usual view, and a visit got its all-clear."""
    usual, plain = STILLS[place], still(lambda _: PLAIN_VIEWS[what])
    if overlay:
        usual, plain = overlaid(usual, overlay), overlaid(plain, overlay)
    watch = Watch()
    assert set(watch.see(usual, 40)) == {None}
    check_suspicion(watch, plain, 20)
    assert watch.see(plain, 1) != [None, None]
    assert watch.see(usual, 6)[-1] is None


def test_a_plain_new_view_is_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that faces the ceiling would have nothing left to compare its pictures with."""
    monkeypatch.setattr(blind, "_NEW_VIEW_NS", 60 * 10**9)
    watch = Watch()
    watch.see(STILLS["hall1"], 40)
    found = watch.see(lambda _: PLAIN_VIEWS["socket"], 120)
    assert set(found[40:]) == {BlindReason.TURNED}
    assert watch.see(STILLS["hall1"], 5)[-1] is None


def test_darkness_in_which_only_lamps_can_be_seen_is_reported() -> None:
    watch = Watch()
    watch.see(STILLS["hall1"], 40)
    lamps = np.maximum(LAMPS, 6).astype(np.float32)
    assert watch.see(lambda _: lamps, 20)[-1] is BlindReason.TURNED
    assert watch.see(at_night(STILLS["hall1"], 0.05), 5)[-1] is None


def test_a_new_size_does_not_hide_that_the_camera_was_turned() -> None:
    watch = Watch()
    watch.see(PLACES["hall1"], 40)
    assert watch.see(PLACES["street2"], 30)[-1] is BlindReason.TURNED
    found = watch.see(lambda time_s: PLACES["street2"](time_s)[:170], 60)
    assert set(found) == {BlindReason.TURNED}
    touched = watch.see(lambda _: np.full((170, SIZE[1]), 30, np.float32), 10)
    assert touched[-1] is BlindReason.COVERED
    found = watch.see(lambda time_s: PLACES["street2"](time_s)[:170], 10)
    assert found[-1] is BlindReason.TURNED


def test_a_new_view_is_learned_in_time_though_the_reason_changes_meanwhile() -> None:
    watch, found = Watch(), []
    watch.see(PLACES["hall1"], 40)
    watch.see(PLACES["street2"], 20)
    for _ in range(3):
        watch.see(lambda _: np.full(SIZE, 252, np.float32), 8)
        found = watch.see(PLACES["street2"], 610)
    assert found[-1] is None


@pytest.mark.parametrize("overlay", ["date at the edge", "date and name"])
@pytest.mark.parametrize("level", [30, 252])
def test_a_camera_that_is_turned_and_then_covered_stays_blind(
    level: int, overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an hour after it was turned, the cover was learned as the new view."""
    monkeypatch.setattr(blind, "_NEW_VIEW_NS", 60 * 10**9)
    watch = Watch()
    watch.see(overlaid(PLACES["hall1"], overlay), 40)
    assert watch.see(overlaid(PLACES["street2"], overlay), 20)[-1] is BlindReason.TURNED
    # So long that the noise once resembles the view
    found = watch.see(overlaid(lambda _: np.full(SIZE, level, np.float32), overlay), 200)
    assert None not in found
    assert BlindReason.TURNED not in found[100:]


def test_a_camera_that_was_turned_earlier_is_not_blind_forever() -> None:
    hall, watch = PLACES["hall1"], Watch()
    watch.see(hall, 40)
    watch.see(PLACES["street2"], 30)

    def lower(time_s: float) -> Picture:
        return PLACES["street2"](time_s)[:170]

    assert watch.see(lower, 5)[-1] is BlindReason.TURNED
    assert watch.see(lambda time_s: lower(time_s)[:60], 1) == [None, None]  # too small to judge
    black = np.full((170, SIZE[1]), 8, np.float32)
    assert watch.see(lambda _: black, 10, 5)[-1] is BlindReason.COVERED
    assert watch.see(lower, 10)[-1] is None


def test_a_permanent_new_view_is_learned() -> None:
    watch = Watch()
    watch.see(PLACES["hall1"], 40)
    assert watch.see(lambda _: np.full(SIZE, 30, np.float32), 10)[-1] is BlindReason.COVERED
    found = watch.see(PLACES["street2"], 1900)
    assert found[100] is BlindReason.TURNED
    assert BlindReason.TURNED in found
    assert found[-1] is None
    assert watch.see(PLACES["hall1"], 30)[-1] is BlindReason.TURNED


def test_a_reopened_source_keeps_its_learned_view() -> None:
    watch = Watch()
    watch.see(PLACES["hall1"], 40)
    watch.detector.reset()
    assert watch.see(PLACES["street2"], 30)[-1] is BlindReason.TURNED
