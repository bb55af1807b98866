"""A light that blinks neither hides blindness nor looks like it; nor do people in real footage."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.data import FOOTAGE, shared
from support.views import (
    PLACES,
    SEEN,
    SIZE,
    STILLS,
    Film,
    Picture,
    Watch,
    X,
    blurred,
    still,
)
from tridetr.capture.blind import LOOK_NS, BlindDetector
from tridetr.shm.boards import BlindReason

Light = Callable[[float], float]  # levels by which a lamp makes the picture brighter at a time


def every(period_s: float, lit_s: float, levels: float) -> Light:
    return lambda time_s: levels if time_s % period_s < lit_s else 0.0


def irregular(seed: int, period_s: float, lit_s: float, levels: float) -> Light:
    """Flashes at random times, of random length and strength, `period_s` apart on average."""
    rng, times = np.random.default_rng(seed), [0.0]
    strengths: list[tuple[float, float]] = []

    def light(time_s: float) -> float:
        while times[-1] <= time_s:
            times.append(times[-1] + period_s * rng.uniform(0.3, 1.7))
            strengths.append((lit_s * rng.uniform(0.3, 1.0), levels * rng.uniform(0.6, 1.0)))
        flash = bisect.bisect_right(times, time_s) - 1
        length_s, strength = strengths[flash]
        return strength if time_s - times[flash] < length_s else 0.0

    return light


LIGHTS: dict[str, Callable[[float], Light]] = {  # by strength [levels]
    "every 2 s": lambda levels: every(2, 1, levels),
    "every 4 s": lambda levels: every(4, 0.3, levels),
    "every 8 s": lambda levels: every(8, 1.5, levels),
    "every 14 s": lambda levels: every(14, 0.5, levels),
    "irregular": lambda levels: irregular(1, 4, 1, levels),
    "flickering": lambda levels: irregular(3, 0.6, 0.6, levels),
}
AREAS: dict[str, Picture] = {
    "whole": np.ones(SIZE, np.float32),
    "left half": (X < 0.5).astype(np.float32),
}
# event, place, allowed result, limit [s]
STRANGE_VIEWS: dict[str, tuple[Callable[[Picture], Picture], str, BlindReason, float]] = {
    "upside down": (lambda view: view[::-1, ::-1], "hall1", BlindReason.TURNED, 20),
    "shifted": (lambda view: np.roll(view, 80, axis=1), "street1", BlindReason.TURNED, 20),
    "mirrored": (lambda view: view[:, ::-1], "hall3", BlindReason.TURNED, 20),
    "another place": (lambda _: PLACES["street2"](0.0), "hall2", BlindReason.TURNED, 20),
    "defocused": (lambda view: blurred(view, 5), "street2", BlindReason.BLURRED, 25),
    "defocused in a hall": (lambda view: blurred(view, 5), "hall1", BlindReason.BLURRED, 25),
}


def lit(film: Film, light: Light, area: str) -> Film:
    return lambda time_s: film(time_s) + light(time_s) * AREAS[area]


@pytest.mark.parametrize("levels", [8, 14, 40])
@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("what", STRANGE_VIEWS)
def test_a_light_that_blinks_does_not_hide_blindness(what: str, area: str, levels: float) -> None:
    """Each flash was taken for a new view, which started the proof again, so that it never ended."""
    for light in LIGHTS.values():
        check_blindness(what, area, light(levels))


def check_blindness(what: str, area: str, light: Light) -> None:
    change, place, reason, within_s = STRANGE_VIEWS[what]
    usual = STILLS[place]
    strange = still(lambda time_s: change(usual(time_s)))
    watch = Watch()
    assert set(watch.see(lit(usual, light, area), 35)) == {None}
    found = watch.see(lit(strange, light, area), within_s)
    assert found[-1] is reason
    assert set(found) == {None, reason}
    assert watch.see(lit(usual, light, area), 5)[-1] is None


@settings(max_examples=40, deadline=None)
@given(
    what=st.sampled_from(sorted(STRANGE_VIEWS)),
    area=st.sampled_from(sorted(AREAS)),
    seed=st.integers(0, 1000),
    period_s=st.floats(0.5, 15),
    lit_s=st.floats(0.3, 2),
    levels=st.floats(3, 60),
)
def test_no_light_hides_blindness(
    what: str, area: str, seed: int, period_s: float, lit_s: float, levels: float
) -> None:
    check_blindness(what, area, irregular(seed, period_s, lit_s, levels))


@pytest.mark.parametrize("levels", [8, 40])
@pytest.mark.parametrize(
    "what", ["another place", "defocused", "mirrored", "shifted", "upside down"]
)
def test_suspicion_survives_flashes(what: str, levels: float) -> None:
    """A person in view when the camera was turned had "left" with the first flash after `clear_s` (3)."""
    change, place, _, _ = STRANGE_VIEWS[what]
    usual = STILLS[place]
    strange = still(lambda time_s: change(usual(time_s)))
    for light, area in itertools.product(LIGHTS.values(), AREAS):
        watch = Watch()
        watch.see(lit(usual, light(levels), area), 35)
        watch.see(lit(strange, light(levels), area), 2.5)
        for _ in range(35):
            watch.see(lit(strange, light(levels), area), 0.5)
            assert watch.detector.is_suspect, (area, watch.looks)
        watch.see(lit(usual, light(levels), area), 4)
        assert not watch.detector.is_suspect, area


@pytest.mark.parametrize("levels", [8, 14, 40])
@pytest.mark.parametrize("brightness", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("place", ["street1", "hall1", "hall3"])
def test_a_light_that_blinks_is_not_reported(place: str, brightness: float, levels: float) -> None:
    usual = STILLS[place]
    for light, area in itertools.product(LIGHTS.values(), AREAS):
        watch = Watch()
        watch.see(usual, 35)
        dim = lit(lambda time_s: 4 + brightness * usual(time_s), light(levels), area)
        assert set(watch.see(dim, 40, 2 if brightness == 1 else 5)) == {None}
        assert set(watch.see(usual, 5)) == {None}


@pytest.mark.parametrize("levels", [8, 40])
@pytest.mark.parametrize("place", ["street1", "hall1"])
def test_a_day_and_a_night_with_a_light_that_blinks_are_not_reported(
    place: str, levels: float
) -> None:
    film, watch = STILLS[place], Watch()
    infrared, noise = SEEN["infrared light"]
    light = irregular(7, 4, 1, levels)

    def see(view: Film, seconds: float, noise: float) -> None:
        assert set(watch.see(lit(view, light, "whole"), seconds, noise)) == {None}

    see(film, 60, 2)
    for step in range(30):  # dusk
        see(lambda t: film(t) * (1 - 0.9 * step / 30) + 4, 5, 2 + step / 4)
    see(infrared(film), 120, noise)
    see(SEEN["night with noise"][0](film), 120, 9)
    for step in range(30):  # dawn
        see(lambda t: film(t) * (0.1 + 0.9 * step / 30) + 4, 5, 9 - step / 4)


def footage(step: int) -> Iterator[NDArray[np.uint8]]:
    with av.open(str(shared(*FOOTAGE))) as container:
        for frame in itertools.islice(container.decode(video=0), 0, None, step):
            yield frame.to_ndarray(format="gray")


@pytest.mark.parametrize(("light", "noise"), [(1.0, 0.0), (0.3, 3.0), (0.1, 5.0)])
def test_real_footage_of_people_is_never_reported(light: float, noise: float) -> None:
    """People come in, stand and leave for two minutes; then a hand covers the lens."""
    detector, now_ns = BlindDetector(), 0
    rng = np.random.default_rng(0)

    def look(picture: NDArray[np.float32]) -> BlindReason | None:
        grain = rng.normal(0, noise, picture.shape).astype(np.float32) if noise else 0
        noisy = np.clip(picture * light + grain, 0, 255).astype(np.uint8)
        return detector.judge(lambda step: noisy[::step], noisy.shape[0], now_ns)

    for picture in footage(5):
        now_ns += LOOK_NS
        assert look(picture.astype(np.float32)) is None
        shape = picture.shape
    for _ in range(20):
        now_ns += LOOK_NS
        hand = 40 + rng.normal(0, 4, shape)
        found = look(hand.astype(np.float32))
    assert found is BlindReason.COVERED


FOOTAGE_VIEWS: dict[str, Callable[[Picture], Picture]] = {
    "upside down": lambda view: view[::-1, ::-1],
    "shifted": lambda view: np.roll(view, view.shape[1] // 4, axis=1),
    "defocused": lambda view: blurred(view, view.shape[0] / 45),
    "covered by 70 %": lambda view: np.concatenate(
        [np.full_like(view[:, : view.shape[1] * 7 // 10], 10), view[:, view.shape[1] * 7 // 10 :]],
        axis=1,
    ),
}


@pytest.mark.parametrize("what", FOOTAGE_VIEWS)
def test_a_light_that_blinks_does_not_hide_blindness_in_real_footage(what: str) -> None:
    usual = [picture.astype(np.float32) for picture in itertools.islice(footage(10), 5)]
    strange = [FOOTAGE_VIEWS[what](picture) for picture in usual]
    rng = np.random.default_rng(3)
    grain = [rng.normal(0, 2, usual[0].shape).astype(np.float32) for _ in range(7)]
    lights = [LIGHTS[rhythm] for rhythm in LIGHTS if rhythm != "flickering"]
    for light, levels in zip(lights, itertools.cycle([14, 40, 8])):
        detector, found = BlindDetector(), []
        for look in range(120):
            view = (usual if look < 70 else strange)[look % 5]
            noisy = view + light(levels)(look / 2) + grain[look % 7]
            picture = np.clip(noisy, 0, 255).astype(np.uint8)
            found.append(detector.judge(lambda step: picture[::step], len(picture), look * LOOK_NS))
        assert set(found[:80]) == {None}
        assert found[-1] in {BlindReason.TURNED, BlindReason.BLURRED}
