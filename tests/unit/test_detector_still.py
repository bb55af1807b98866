"""Frames that show what the model has just seen: repeated where nothing is lost by it, inferred in every other case."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fake_triton import FakeTriton
from support.rings import put_frame
from tridetr.detector.still import brightness
from tridetr.errors import TritonError
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState, SentryWriter
from tridetr.shm.detections import DetectionReader
from tridetr.shm.frames import FrameWriter
from unit.test_detector import Results, make_config, running, skipped, until

CALM = (SentryMode.STANDBY, SentryState.STANDBY)
HOUR_S = 3600.0


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 400).map(lambda n: 2 * n),
    st.integers(1, 300).map(lambda n: 2 * n),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_small_thing_anywhere_changes_a_patch(
    width: int, height: int, across: float, down: float
) -> None:
    """As wide as a patch, and 40 brighter: edges and corners are no blind strips."""
    side = 4 * max(1, width // 240)
    before = np.full((height, width), 90, np.uint8)
    after = before.copy()
    x, y = round(across * max(0, width - side)), round(down * max(0, height - side))
    after[y : y + side, x : x + side] += 40
    assert np.abs(brightness(after) - brightness(before)).max() >= 40 / 4


def test_brightness_is_the_mean_of_a_patch_and_forgives_noise() -> None:
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(0, 250, 1920), (1080, 1)).astype(np.uint8)
    assert brightness(ramp).shape == (34, 60)
    np.testing.assert_allclose(brightness(ramp)[0, [0, -1]], [1.2, 248], atol=1)
    noisy = [ramp // 2 + rng.integers(0, 3, ramp.shape, np.uint8) for _ in range(2)]
    assert np.abs(brightness(noisy[0]) - brightness(noisy[1])).max() < 2.0


class Rig:
    """A detector with a fake server, a camera, and whoever writes the sentry board."""

    def __init__(self, instance: str, folder: Path, **detect: Any) -> None:
        self.client = FakeTriton()  # which sees a person in every frame
        self.config = make_config(
            instance, folder, detect={"unchanged_s": 60} | detect, alarm={"classes": ["car"]}
        )
        self.frames = FrameWriter(instance, "cam", width=64, height=32)
        self.sentry = SentryWriter(instance, "cam")
        self.results = Results(instance)
        self.number = 0

    def decide(self, mode: SentryMode, state: SentryState, lasts_s: float = HOUR_S) -> None:
        expires = time.monotonic_ns() + int(lasts_s * 1e9)
        self.sentry.write(SentrySnapshot(mode, state, 1, "", expires))

    async def show(self, value: int, **stamp: Any) -> None:
        self.number += 1
        put_frame(self.frames, value, self.number, **stamp)
        await until(lambda: len(self.results.take()) >= self.number)

    def close(self) -> None:
        self.results.reader.close()
        self.sentry.close()
        self.frames.close()


@pytest.fixture
def rig(instance: str, tmp_path: Path) -> Any:
    made = Rig(instance, tmp_path)
    yield made
    made.close()


async def test_the_answer_is_repeated_for_the_same_picture_and_says_so(rig: Rig) -> None:
    rig.decide(*CALM)
    counted = skipped("unchanged")
    async with running(rig.config, rig.client):
        for value in (100, 100, 101, 110, 110):  # 101: less than unchanged_below
            await rig.show(value)
    assert [value for _, value in rig.client.asked] == [100, 110]
    assert rig.results.values == [[100], [100], [100], [110], [110]]
    assert skipped("unchanged") == counted + 3
    stamps = rig.results.stamps
    assert [stamp.repeated for stamp in stamps] == [False, True, True, False, True]
    assert [(s.frame_number, s.frame_sequence) for s in stamps] == [(n, n) for n in range(1, 6)]
    assert [s.capture_monotonic_ns for s in stamps] == [n * 1000 + 1 for n in range(1, 6)]
    for stamp in stamps:
        # The times of the model are those of the inference that the answer is from.
        source = stamps[0] if stamp.frame_number < 4 else stamps[3]
        assert stamp.infer_end_ns == source.infer_end_ns
        assert stamp.published_ns >= stamp.taken_ns


async def test_slow_change_adds_up(rig: Rig) -> None:
    """Compared is with what the model saw, not with the last frame: dusk does not slip through."""
    rig.decide(*CALM)
    async with running(rig.config, rig.client):
        for value in (100, 101, 102, 103, 104):
            await rig.show(value)
    assert [value for _, value in rig.client.asked] == [100, 102, 104]


REASONS: dict[str, Callable[[Rig], None]] = {
    "alarmed": lambda rig: rig.decide(SentryMode.ALARMED, SentryState.TRACKING),
    "validation": lambda rig: rig.decide(SentryMode.STANDBY, SentryState.VALIDATION),
    "unknown": lambda rig: rig.decide(SentryMode.ALARMED, SentryState.UNKNOWN),
    "the controller is dead": lambda rig: rig.decide(*CALM, lasts_s=-1),
    "there never was a controller": lambda rig: None,
}


@pytest.mark.parametrize("reason", REASONS)
async def test_the_model_looks_unless_all_is_calm(rig: Rig, reason: str) -> None:
    REASONS[reason](rig)
    async with running(rig.config, rig.client):
        for _ in range(3):
            await rig.show(100)
    assert len(rig.client.asked) == 3


@pytest.mark.parametrize(
    ("detect", "alarm", "lossless"),
    [
        ({"unchanged_s": 0}, ["car"], False),
        ({"unchanged_s": 1e-6}, ["car"], False),
        ({}, ["car", "person"], False),
        ({}, ["car"], True),
    ],
    ids=["off", "too old", "somebody is there", "lossless"],
)
async def test_the_model_looks_at_every_frame(
    instance: str, tmp_path: Path, detect: dict[str, float], alarm: list[str], lossless: bool
) -> None:
    rig = Rig(instance, tmp_path, **detect)
    rig.config = make_config(
        instance, tmp_path, detect={"unchanged_s": 60} | detect, alarm={"classes": alarm}
    )
    rig.decide(*CALM)
    async with running(rig.config, rig.client):
        for _ in range(3):
            await rig.show(100, lossless=lossless)
    rig.close()
    assert len(rig.client.asked) == 3


async def test_another_size_and_a_failed_inference_are_looked_at(rig: Rig) -> None:
    rig.decide(*CALM)
    async with running(rig.config, rig.client):
        await rig.show(100)
        rig.frames.resize(32, 64)
        await rig.show(100)
        assert len(rig.client.asked) == 2
        rig.client.frame_errors.append(TritonError("no"))
        await rig.show(140)  # fails once, is tried again
        await rig.show(140)
    assert [value for _, value in rig.client.asked] == [100, 100, 140]
    assert not rig.client.frame_errors


async def test_a_dead_server_is_noticed_in_time(instance: str, tmp_path: Path) -> None:
    """Repeating ends after `unchanged_s` at the latest: then there are no results, and the state becomes unknown."""
    rig = Rig(instance, tmp_path, unchanged_s=0.4)
    rig.decide(*CALM)
    async with running(rig.config, rig.client):
        await rig.show(100)
        rig.client.error = TritonError("dead")
        began = time.monotonic()
        while time.monotonic() < began + 1.0:
            put_frame(rig.frames, 100, 2)
            await asyncio.sleep(0.02)
    with DetectionReader(instance, "cam", None) as reader:
        lease = reader.lease_newest()
        assert lease is not None
        with lease:
            age_ns = lease.stamp.published_ns - lease.stamp.infer_start_ns
    rig.close()
    assert age_ns <= 0.4e9 + 0.2e9
