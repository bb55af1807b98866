"""The motion gate: unchanged frames get the previous answer if that is safe; all others are inferred."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.fake_triton import FakeTriton
from support.rings import frame_stamp
from tridetr.errors import TritonError
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState, SentryWriter
from tridetr.shm.detections import DetectionReader
from tridetr.shm.frames import FrameWriter
from tridetr.telemetry import metrics
from unit.test_detector import Results, make_config, running, skipped, until

CALM = (SentryMode.STANDBY, SentryState.STANDBY)
HOUR_S = 3600.0


class Rig:
    """A detector with a fake server, a camera, and the writer of the sentry state."""

    def __init__(self, instance: str, folder: Path, **detect: Any) -> None:
        self.client = FakeTriton()  # detects a person in every frame
        self.config = make_config(
            instance, folder, detect={"motion_gate_s": 60} | detect, alarm={"classes": ["car"]}
        )
        self.frames = FrameWriter(instance, "cam", width=64, height=32)
        self.sentry = SentryWriter(instance, "cam")
        self.results = Results(instance)
        self.number = 0
        self.half: int | None = None

    def decide(self, mode: SentryMode, state: SentryState, lasts_s: float = HOUR_S) -> None:
        expires = time.monotonic_ns() + int(lasts_s * 1e9)
        self.sentry.write(SentrySnapshot(mode, state, 1, "", expires))

    def put(self, value: int, **stamp: Any) -> None:
        """Publish a frame of one value, its right half of another one if there is any."""
        self.number += 1
        slot = self.frames.begin()
        assert slot is not None
        slot.planes[:] = value
        if self.half is not None:
            slot.planes[:, slot.planes.shape[1] // 2 :] = self.half
        self.frames.publish(slot, frame_stamp(self.number, **stamp))

    async def learn(self, value: int = 100) -> None:
        """Show a still picture until its noise is learnt, and reset the counted requests."""
        for _ in range(12):
            await self.show(value)
        self.client.asked.clear()

    async def show(self, value: int, **stamp: Any) -> None:
        self.put(value, **stamp)
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


def looks(reason: str) -> float:
    return float(metrics.MOTION_GATE_LOOKS.labels("cam", reason)._value.get())


async def test_the_answer_is_repeated_for_the_same_picture_and_marked(rig: Rig) -> None:
    rig.decide(*CALM)
    learning, moved = looks("learning"), looks("motion")
    async with running(rig.config, rig.client):
        await rig.learn()
        counted, first = skipped("unchanged"), rig.number
        for value in (100, 101, 100):
            await rig.show(value)
    assert not rig.client.asked
    assert skipped("unchanged") == counted + 3
    assert looks("learning") > learning
    assert looks("motion") == moved
    stamps = rig.results.stamps[first:]
    assert rig.results.values[first:] == [[100]] * 3
    assert all(stamp.repeated for stamp in stamps)
    numbers = list(range(first + 1, first + 4))
    assert [stamp.frame_number for stamp in stamps] == numbers
    assert [stamp.frame_sequence for stamp in stamps] == numbers
    assert [stamp.capture_monotonic_ns for stamp in stamps] == [n * 1000 + 1 for n in numbers]
    for stamp in stamps:
        # The inference times are those of the repeated answer.
        assert stamp.infer_end_ns in [s.infer_end_ns for s in rig.results.stamps if not s.repeated]
        assert stamp.published_ns >= stamp.taken_ns


async def test_motion_is_inferred_until_it_settles(rig: Rig) -> None:
    rig.decide(*CALM)
    async with running(rig.config, rig.client):
        await rig.learn()
        rig.half = 140
        for _ in range(30):
            await rig.show(100)
    asked = len(rig.client.asked)
    assert 1 <= asked < 20  # until the running average has followed
    assert rig.results.stamps[-1].repeated
    assert not rig.results.stamps[-30].repeated


async def test_slow_changes_accumulate(rig: Rig) -> None:
    """A frame is compared with the last inferred one, too, and not only with its predecessor."""
    rig.decide(*CALM)
    async with running(rig.config, rig.client):
        await rig.learn()
        for step in range(60):
            rig.half = 100 + step // 12
            await rig.show(100)
    assert rig.client.asked


async def test_an_uncertain_answer_is_inferred_again_for_a_while(rig: Rig) -> None:
    rig.decide(*CALM)
    rig.client.second_score = 0.3
    async with running(rig.config, rig.client):
        await rig.learn()
        for _ in range(20):
            await rig.show(100)
    assert 0 < len(rig.client.asked) < 15
    assert rig.results.stamps[-1].repeated


async def test_a_person_found_in_an_unchanged_picture_counts_as_missed(
    instance: str, tmp_path: Path
) -> None:
    rig = Rig(instance, tmp_path, motion_gate_s=0.3)
    rig.decide(*CALM)
    missed = metrics.MOTION_GATE_MISSED.labels("cam")
    before = missed._value.get()
    async with running(rig.config, rig.client):
        await rig.learn()
        await rig.show(100)
        assert missed._value.get() == before
        rig.client.second_score = 0.8
        while rig.results.stamps[-1].repeated or not rig.client.asked:
            await rig.show(100)
        assert missed._value.get() == before + 1
        rig.client.asked.clear()
        await rig.show(100)
    assert len(rig.client.asked) == 1
    assert missed._value.get() == before + 1
    rig.close()


REASONS: dict[str, Callable[[Rig], None]] = {
    "alarmed": lambda rig: rig.decide(SentryMode.ALARMED, SentryState.TRACKING),
    "validation": lambda rig: rig.decide(SentryMode.STANDBY, SentryState.VALIDATION),
    "unknown": lambda rig: rig.decide(SentryMode.ALARMED, SentryState.UNKNOWN),
    "the controller is dead": lambda rig: rig.decide(*CALM, lasts_s=-1),
    "there never was a controller": lambda rig: None,
}


@pytest.mark.parametrize("reason", REASONS)
async def test_frames_are_inferred_unless_all_conditions_hold(rig: Rig, reason: str) -> None:
    REASONS[reason](rig)
    async with running(rig.config, rig.client):
        for _ in range(15):
            await rig.show(100)
    assert len(rig.client.asked) == 15


@pytest.mark.parametrize(
    ("detect", "alarm", "lossless"),
    [
        ({"motion_gate_s": 0}, ["car"], False),
        ({"motion_gate_s": 1e-6}, ["car"], False),
        ({}, ["car", "person"], False),
        ({}, ["car"], True),
    ],
    ids=["off", "too old", "a person is there", "lossless"],
)
async def test_every_frame_is_inferred(
    instance: str, tmp_path: Path, detect: dict[str, float], alarm: list[str], lossless: bool
) -> None:
    rig = Rig(instance, tmp_path, **detect)
    rig.config = make_config(
        instance, tmp_path, detect={"motion_gate_s": 60} | detect, alarm={"classes": alarm}
    )
    rig.decide(*CALM)
    async with running(rig.config, rig.client):
        for _ in range(15):
            await rig.show(100, lossless=lossless)
    rig.close()
    assert len(rig.client.asked) == 15


async def test_another_size_and_a_failed_inference_reset_the_gate(rig: Rig) -> None:
    rig.decide(*CALM)
    async with running(rig.config, rig.client):
        await rig.learn()
        rig.frames.resize(32, 64)
        await rig.show(100)
        assert len(rig.client.asked) == 1
        await rig.learn()
        rig.client.frame_errors.append(TritonError("no"))
        rig.half = 140
        await rig.show(100)  # fails once, is tried again
    assert len(rig.client.asked) == 1
    assert not rig.client.frame_errors


async def test_a_dead_server_is_noticed_in_time(instance: str, tmp_path: Path) -> None:
    """Answers are repeated for at most `motion_gate_s`. Then there are no results, and the state becomes unknown."""
    rig = Rig(instance, tmp_path, motion_gate_s=0.4)
    rig.decide(*CALM)
    async with running(rig.config, rig.client):
        await rig.learn()
        rig.client.error = TritonError("dead")
        began = time.monotonic()
        while time.monotonic() < began + 1.0:
            rig.put(100)
            await asyncio.sleep(0.02)
    with DetectionReader(instance, "cam", None) as reader:
        lease = reader.lease_newest()
        assert lease is not None
        with lease:
            age_ns = lease.stamp.published_ns - lease.stamp.infer_start_ns
    rig.close()
    assert age_ns <= 0.4e9 + 0.2e9
