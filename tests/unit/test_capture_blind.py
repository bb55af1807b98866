"""Covered, dazzled, blurred and turned cameras are detected; weather, light, people and night are not reported."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from support.views import (
    PLACES,
    RNG,
    SEEN,
    SIZE,
    STILLS,
    Film,
    Picture,
    Watch,
    X,
    Y,
    blurred,
    lamp,
    still,
)
from tridetr.capture import blind
from tridetr.capture.blind import LOOK_NS, BlindDetector
from tridetr.shm.boards import BlindReason

BLINDED: dict[str, tuple[Callable[[Film], Film], float, set[BlindReason], float]] = {
    # event, sensor noise, allowed results, time limit [s]
    "black with noise": (lambda _: lambda _: np.full(SIZE, 8.0), 5, {BlindReason.COVERED}, 10),
    "grey with noise": (lambda _: lambda _: np.full(SIZE, 95.0), 12, {BlindReason.COVERED}, 10),
    "a cloth with light at one side": (
        lambda _: lambda _: (60 + 80 * np.exp(-2 * ((X - 1) ** 2 + Y**2))).astype(np.float32),
        6,
        {BlindReason.COVERED},
        10,
    ),
    "white": (lambda _: lambda _: np.full(SIZE, 252.0), 4, {BlindReason.DAZZLED}, 10),
    "washed out": (
        lambda film: lambda time_s: film(time_s) * 0.1 + 245,
        4,
        {BlindReason.DAZZLED},
        10,
    ),
    "out of focus": (
        lambda film: lambda time_s: blurred(film(time_s), 5),
        2,
        {BlindReason.BLURRED},
        25,
    ),
    "sprayed": (
        lambda film: lambda time_s: blurred(film(time_s), 14) * 0.5 + 60,
        2,
        {BlindReason.BLURRED, BlindReason.COVERED},
        20,
    ),
    "turned round": (
        lambda film: lambda time_s: np.roll(PLACES["hall3"](time_s), 37, axis=1),
        2,
        {BlindReason.TURNED},
        20,
    ),
    "turned aside": (
        lambda film: lambda time_s: np.roll(film(time_s), 70, axis=1),
        2,
        {BlindReason.TURNED},
        20,
    ),
    "turned down": (
        lambda film: lambda time_s: np.roll(film(time_s), -50, axis=0),
        2,
        {BlindReason.TURNED},
        20,
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", BLINDED)
def test_blindness_is_reported_in_time_and_ends_when_the_view_is_back(
    what: str, place: str
) -> None:
    change, noise, reasons, within_s = BLINDED[what]
    film, watch = PLACES[place], Watch()
    assert set(watch.see(film, 40)) == {None}
    found = watch.see(change(film), within_s, noise)
    assert found[-1] in reasons
    assert set(found) <= {None, *reasons}
    assert watch.see(film, 4)[-1] is None


@pytest.mark.parametrize(
    ("place", "gain"), [*itertools.product(PLACES, (0.0, 0.35)), ("street1", 0.6), ("street2", 1.0)]
)
def test_a_blurred_lens_is_reported_in_noise_that_grows_with_the_light(
    place: str, gain: float
) -> None:
    """The noise in the lit middle counted as fine edges, because only that of the dark corners was known."""
    noise = np.random.default_rng(3)
    lit = np.exp(-3 * (2.5 * (X - 0.5) ** 2 + (Y - 0.5) ** 2)) * 0.8

    def sensor(film: Film) -> Film:
        def seen(time_s: float) -> Picture:
            light = film(time_s) * lit + 6
            grain = noise.normal(0, 1, SIZE) * gain * np.sqrt(0.06 * light + 9)
            return (light + grain).astype(np.float32)

        return seen

    film, watch = STILLS[place], Watch()
    assert set(watch.see(sensor(film), 45, 0)) == {None}
    found = watch.see(sensor(lambda time_s: blurred(film(time_s), 7)), 25, 0)
    assert found[-1] is BlindReason.BLURRED
    assert watch.see(sensor(film), 4, 0)[-1] is None


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", SEEN)
def test_normal_events_are_not_reported(what: str, place: str) -> None:
    change, noise = SEEN[what]
    film, watch = PLACES[place], Watch()
    watch.see(film, 40)
    assert set(watch.see(change(film), 60, noise)) == {None}
    assert set(watch.see(film, 30)) == {None}  # and back


@pytest.mark.parametrize("place", ["street1", "hall1"])
def test_a_day_and_a_night_are_not_reported(place: str) -> None:
    """Dusk, infrared light on, night, infrared light off, dawn: never blind."""
    film, watch = PLACES[place], Watch()
    watch.see(film, 60)
    for step in range(60):  # dusk
        light = 1 - 0.9 * step / 60
        assert set(watch.see(lambda t: film(t) * light + 4, 5, 2 + step / 8)) == {None}
    infrared, noise = SEEN["infrared light"]
    assert set(watch.see(infrared(film), 300, noise)) == {None}
    assert set(watch.see(SEEN["night with noise"][0](film), 120, 9)) == {None}
    for step in range(60):  # dawn
        light = 0.1 + 0.9 * step / 60
        assert set(watch.see(lambda t: film(t) * light + 4, 5, 9 - step / 8)) == {None}


def test_a_camera_that_starts_covered_is_reported() -> None:
    watch = Watch()
    assert watch.see(lambda _: np.full(SIZE, 12.0), 10, 6)[-1] is BlindReason.COVERED


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


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("what", sorted(BLINDED.keys() - {"out of focus", "sprayed"}))
def test_what_the_camera_draws_into_its_pictures_does_not_hide_blindness(
    what: str, overlay: str
) -> None:
    change, noise, reasons, within_s = BLINDED[what]
    film, watch = PLACES["hall1"], Watch()
    assert set(watch.see(overlaid(film, overlay), 40)) == {None}
    found = watch.see(overlaid(change(film), overlay), within_s, noise)
    assert found[-1] in reasons
    assert set(found) <= {None, *reasons}
    assert watch.see(overlaid(film, overlay), 6)[-1] is None


@pytest.mark.parametrize("what", SEEN)
def test_overlays_do_not_make_normal_events_look_blind(what: str) -> None:
    change, noise = SEEN[what]
    film, watch = PLACES["hall2"], Watch()
    watch.see(overlaid(film, "date and name"), 40)
    assert set(watch.see(overlaid(change(film), "date and name"), 60, noise)) == {None}


def test_a_lens_that_fogs_up_slowly_is_reported() -> None:
    """The usual sharpness follows slow changes and would excuse them."""
    film, watch, found = PLACES["hall1"], Watch(), []
    watch.see(film, 60)
    for step in range(40):
        found = watch.see(lambda time_s: blurred(film(time_s), step / 8), 15)
    assert found[-1] is BlindReason.BLURRED


VEILS: dict[str, Picture] = {
    "dew": (165 - 12 * ((2 * X - 1) ** 2 + (2 * Y - 1) ** 2)).astype(np.float32),
    "snow": (150 + 16 * (Y - 0.5)).astype(np.float32),
    "web in infrared light": (60 + 20 * np.exp(-2 * ((2 * X - 1) ** 2 + (2 * Y - 1) ** 2))).astype(
        np.float32
    ),
}


@pytest.mark.parametrize("veil", VEILS)
def test_a_lens_that_is_covered_slowly_is_reported(
    veil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual view follows slow changes, and had learned the cover."""
    monkeypatch.setattr(blind, "_SLOW", 60)
    film = overlaid(PLACES["hall1"], "date at the edge")

    def covered(time_s: float) -> Picture:
        clear = math.exp(-max(0, time_s - 60) / 40)
        return clear * PLACES["hall1"](time_s) + (1 - clear) * VEILS[veil]

    watch = Watch()
    found = watch.see(overlaid(covered, "date at the edge"), 420)
    assert set(found[:240]) == {None}
    assert found[-1] is BlindReason.COVERED
    assert watch.see(film, 6)[-1] is None


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("rest", "radius"), [(0.03, 2), (0.05, 4), (0.12, 0), (0.12, 5)])
def test_a_film_or_thin_cloth_over_the_lens_is_reported(
    place: str, rest: float, radius: float
) -> None:
    """A trace of the view remained, in which nobody can be seen: a visit got its all-clear."""
    usual, watch = STILLS[place], Watch()
    veiled = still(lambda time_s: blurred(usual(time_s), radius) * rest + 130 * (1 - rest))
    assert set(watch.see(usual, 60)) == {None}
    check_suspicion(watch, veiled, 19)
    assert watch.see(veiled, 1)[-1] in {BlindReason.BLURRED, BlindReason.COVERED}
    assert watch.see(usual, 5)[-1] is None


@pytest.mark.parametrize("radius", [3, 5])
@pytest.mark.parametrize("place", PLACES)
def test_a_person_in_view_when_the_camera_loses_focus_has_not_left(
    place: str, radius: float
) -> None:
    """It took six seconds to be suspicious, longer than `clear_s` (3)."""
    usual, watch = STILLS[place], Watch()
    watch.see(usual, 40)
    assert not watch.detector.is_suspect
    soft = still(lambda time_s: blurred(usual(time_s), radius))
    trusted = 0.0
    while watch.see(soft, 0.5)[-1] is None:
        trusted = 0 if watch.detector.is_suspect else trusted + 0.5
        assert trusted <= 1


@pytest.mark.parametrize("place", ["street1", "hall1", "hall3"])
def test_a_person_in_view_when_the_light_goes_off_has_not_left(place: str) -> None:
    usual, watch = STILLS[place], Watch()
    watch.see(usual, 60)
    dark = still(lambda time_s: usual(time_s) * 0.04 + 4)
    check_suspicion(watch, dark, 100)
    assert set(watch.see(dark, 30)) == {None}
    assert not watch.detector.is_suspect
    watch.see(usual, 5)
    assert not watch.detector.is_suspect


@pytest.mark.parametrize("place", ["street1", "hall1", "hall3"])
@pytest.mark.parametrize("learned_s", [40, 240])
def test_a_person_in_view_when_a_lamp_goes_off_again_has_not_left(
    place: str, learned_s: float
) -> None:
    """At night, the usual view is the dark one: compared with it, nothing was missing."""
    lit, watch = STILLS[place], Watch()
    dark = still(lambda time_s: lit(time_s) * 0.04 + 4)
    watch.see(dark, learned_s)
    watch.see(lit, 1)  # headlights
    watch.see(dark, 10)
    assert not watch.detector.is_suspect
    watch.see(lit, 30)
    check_suspicion(watch, dark, 100)
    if learned_s > 120:  # the usual view of a young camera is half lit now
        watch.see(dark, 30)
        assert not watch.detector.is_suspect


def test_a_white_picture_with_black_bars_is_dazzled() -> None:
    def bars(film: Film) -> Film:
        return lambda time_s: np.where((X < 0.12) | (X > 0.88), 0, film(time_s)).astype(np.float32)

    watch = Watch()
    watch.see(bars(PLACES["hall1"]), 40)
    white = bars(lambda _: np.full(SIZE, 252, np.float32))
    assert watch.see(white, 10)[-1] is BlindReason.DAZZLED


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


def check_suspicion(watch: Watch, film: Film, seconds: float) -> None:
    """Let a film begin; from 2.5 s on, it must be suspicious at each look."""
    assert set(watch.see(film, 2.5)) == {None}
    for _ in range(round(2 * (seconds - 2.5))):
        watch.see(film, 0.5)
        assert watch.detector.is_suspect, watch.looks


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


@pytest.mark.parametrize(
    "view",
    [
        lambda time_s: np.full(SIZE, 30.0, np.float32),
        lambda time_s: np.full(SIZE, 250.0, np.float32),
        lambda time_s: blurred(PLACES["hall1"](time_s), 6),
        PLACES["street2"],
    ],
    ids=["covered", "dazzled", "blurred", "turned"],
)
def test_a_blind_camera_that_reconnects_again_and_again_stays_blind(view: Film) -> None:
    """Otherwise each new connection would give the all-clear until the blindness is proved again."""
    watch = Watch()
    watch.see(PLACES["hall1"], 40)
    reason = watch.see(view, 30)[-1]
    assert reason is not None
    for _ in range(4):
        watch.detector.reset()
        assert set(watch.see(view, 8)) == {reason}
    watch.detector.reset()
    back = watch.see(PLACES["hall1"], 8)
    assert back[0] is not None
    assert set(back[6:]) == {None}


def test_a_camera_that_is_covered_between_short_connections_is_reported() -> None:
    watch = Watch()
    watch.see(PLACES["hall1"], 40)
    found = []
    for _ in range(4):
        found += watch.see(lambda time_s: np.full(SIZE, 30.0, np.float32), 3)
        watch.detector.reset()
    assert found[-1] is BlindReason.COVERED


@pytest.mark.parametrize("light", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("cloth", [True, False], ids=["cloth", "black"])
def test_a_camera_that_is_being_covered_in_dim_light_is_suspect_before_the_all_clear(
    light: float, cloth: bool
) -> None:
    """The window of four seconds showed it later than `clear_s` (3), so the person who covered it had "left"."""

    def dim(time_s: float) -> Picture:
        return 16 + light * PLACES["hall1"](time_s)

    def cover(time_s: float) -> Picture:
        pattern = 6 * light * np.sin(50 * X + 30 * Y) + 30 * light * (X + Y)
        hand = (16 + (pattern if cloth else 0 * X)).astype(np.float32)
        share = min(1.0, time_s - start)
        return share * hand + (1 - share) * dim(time_s)

    watch = Watch()
    watch.see(dim, 40)
    start = watch.looks / 2
    for look in range(20):
        watch.see(cover, 0.5)
        assert look < 2 or watch.detector.is_suspect, look
    watch.see(dim, 5)
    assert not watch.detector.is_suspect


def test_a_camera_that_changes_to_pictures_too_small_to_judge_is_not_suspect() -> None:
    watch = Watch()
    watch.see(lambda time_s: np.full(SIZE, 30.0, np.float32), 8)
    assert watch.detector.is_suspect
    small = np.zeros((48, 64), np.uint8)
    start_ns = (watch.looks + 1) * LOOK_NS
    for step_ns in range(0, 2 * LOOK_NS, LOOK_NS // 4):
        assert watch.detector.judge(lambda n: small[::n], 48, start_ns + step_ns) is None
        assert not watch.detector.is_suspect


def test_small_and_changing_sizes_are_not_judged() -> None:
    detector = BlindDetector()
    for look, shape in enumerate(itertools.islice(itertools.cycle([(48, 64), (16, 16)]), 40)):
        flat = np.zeros(shape, np.uint8)
        assert detector.judge(lambda step: flat[::step], shape[0], look * LOOK_NS) is None


@settings(max_examples=20, deadline=None)
@given(
    place=st.sampled_from(sorted(PLACES)),
    light=st.floats(0.12, 1.3),
    offset=st.floats(0, 40),
    noise=st.floats(1, 7),
    shift=st.integers(-3, 3),
)
def test_no_lighting_of_the_same_view_is_reported(
    place: str, light: float, offset: float, noise: float, shift: int
) -> None:
    film, watch = PLACES[place], Watch()
    watch.see(film, 35)
    changed = watch.see(lambda t: np.roll(film(t), shift, axis=1) * light + offset, 30, noise)
    assert set(changed) == {None}


@settings(max_examples=20, deadline=None)
@given(
    place=st.sampled_from(sorted(PLACES)),
    level=st.floats(0, 200),
    noise=st.floats(0.5, 14),
    tilt=st.floats(0, 40),
)
def test_any_cover_is_reported_within_ten_seconds(
    place: str, level: float, noise: float, tilt: float
) -> None:
    watch = Watch()
    watch.see(PLACES[place], 35)
    cover = (level + tilt * X).astype(np.float32)
    assert watch.see(lambda _: cover, 10, noise)[-1] is BlindReason.COVERED
