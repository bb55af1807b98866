"""The detector with a fake server that fails on command: no frame is lost, repeated or delayed for long."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.fake_triton import INFO, FakeTriton, unavailable
from support.rings import put_frame
from support.waiting import slack
from tridetr.config import Config
from tridetr.detector import detector_process
from tridetr.detector.detector_process import Detector
from tridetr.errors import ConfigError, InferenceFailed, ModelError, RegionNotRegistered
from tridetr.model_card import ModelInfo
from tridetr.served_model import ServedModelReader
from tridetr.shm.detections import DetectionReader, ResultStamp
from tridetr.shm.frames import FrameWriter, TraceContext
from tridetr.telemetry import metrics


def make_config(instance: str, folder: Path, **sections: Any) -> Config:
    fields: dict[str, Any] = {
        "instance": instance,
        "cameras": {"cam": {"source": "synthetic"}},
        "run_dir": folder,
        "state_dir": folder,
    }
    return Config.model_validate(fields | sections)


@contextlib.asynccontextmanager
async def running(config: Config, client: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run a detector; it must end within two seconds."""
    stop = asyncio.Event()
    task = asyncio.create_task(Detector(config, client).run(stop))
    try:
        yield task
    finally:
        stop.set()
        began = time.monotonic()
        await asyncio.gather(task, return_exceptions=True)
        assert time.monotonic() - began < slack(2)


async def until(condition: Callable[[], Any], within_s: float = 20) -> Any:
    """Return the first true value of a condition."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return value


class Results:
    """Collects all results of a camera."""

    def __init__(self, instance: str, camera: str = "cam") -> None:
        self.reader = DetectionReader(instance, camera, None)
        self.stamps: list[ResultStamp] = []
        self.values: list[list[int]] = []  # x1 of each detection
        self._after = 0

    def take(self) -> list[ResultStamp]:
        while (lease := self.reader.lease_next(self._after)) is not None:
            with lease:
                self._after = lease.sequence
                self.stamps.append(lease.stamp)
                self.values.append(lease.detections["x1"].astype(int).tolist())
        return self.stamps


def skipped(reason: str) -> float:
    return float(metrics.FRAMES_SKIPPED.labels("cam", reason)._value.get())


@pytest.fixture
def frames(instance: str) -> Any:
    with FrameWriter(instance, "cam", width=64, height=32) as writer:
        yield writer


@pytest.fixture
def results(instance: str) -> Any:
    taken = Results(instance)
    yield taken
    taken.reader.close()


async def test_each_frame_becomes_a_result(
    instance: str, tmp_path: Path, frames: FrameWriter, results: Results
) -> None:
    client = FakeTriton()
    trace = TraceContext(0x1234, 0x56)
    async with running(make_config(instance, tmp_path), client):
        for number in range(5):
            put_frame(frames, 10 + number, number, trace=trace if number == 3 else None)
            await until(lambda: len(results.take()) > number)
    assert results.values == [[10], [11], [12], [13], [14]]
    for number, stamp in enumerate(results.stamps):
        assert (stamp.frame_number, stamp.frame_sequence) == (number, number + 1)
        assert (stamp.width, stamp.height) == (64, 32)
        assert (stamp.capture_monotonic_ns, stamp.capture_unix_ns) == (
            number * 1000 + 1,
            number * 1000 + 2,
        )
        assert stamp.taken_ns <= stamp.infer_start_ns <= stamp.infer_end_ns <= stamp.published_ns
        assert (stamp.model_name, stamp.model_version) == ("rfdetr_ort", "1")
        assert stamp.trace == (trace if number == 3 else None)
    assert client.traces[3] == (f"{0x1234:032x}", trace.traceparent)
    assert client.traces[0] == ("", None)
    served = ServedModelReader(tmp_path).read()
    assert served is not None
    assert served.classes == {"person": 1, "car": 3}


async def test_one_frame_is_in_flight_and_the_newest_comes_next(
    instance: str, tmp_path: Path, frames: FrameWriter, results: Results
) -> None:
    client = FakeTriton()
    client.hold.clear()
    before = skipped("superseded")
    async with running(make_config(instance, tmp_path), client):
        put_frame(frames, 1)
        await until(lambda: client.asked)
        for value in range(2, 40):  # far more than the ring has slots
            assert put_frame(frames, value)
        client.hold.set()
        await until(lambda: len(results.take()) == 2)
    # The frame that the server was reading was not overwritten.
    assert results.values == [[1], [39]]
    assert client.most_in_flight == 1
    assert skipped("superseded") - before == 37


async def test_waits_for_a_server_that_starts_late(
    instance: str,
    tmp_path: Path,
    frames: FrameWriter,
    results: Results,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = FakeTriton(error=unavailable())
    caplog.set_level(logging.INFO, "tridetr")
    async with running(make_config(instance, tmp_path), client):
        put_frame(frames, 1)
        await until(lambda: client.models_asked > 3)
        put_frame(frames, 2)
        client.error = None
        await until(lambda: results.take())
    assert results.values == [[2]]
    assert [record.message for record in caplog.records].count(
        "inference is unavailable: connection refused"
    ) == 1


async def test_regions_are_registered_again_with_a_restarted_server(
    instance: str, tmp_path: Path, frames: FrameWriter, results: Results
) -> None:
    client = FakeTriton()
    async with running(make_config(instance, tmp_path), client):
        put_frame(frames, 1)
        await until(lambda: results.take())
        client.restart()
        put_frame(frames, 2)
        await until(lambda: len(results.take()) == 2)
        client.info = ModelInfo("other", "7", "onnxruntime", "cpu", "fp32", {"person": 1})
        client.error = unavailable()
        client.restart()
        put_frame(frames, 3)
        await until(lambda: client.models_asked > 4)
        client.error = None
        await until(lambda: len(results.take()) == 3)
    assert results.values == [[1], [2], [3]]
    assert results.stamps[2].model_name == "other"  # the served model is queried again


async def test_no_lossless_frame_is_lost_when_the_server_dies(
    instance: str, tmp_path: Path, frames: FrameWriter, results: Results
) -> None:
    client = FakeTriton()
    async with running(make_config(instance, tmp_path), client):
        for number in range(6):
            if number in (1, 4):
                client.hold.clear()
            put_frame(frames, 50 + number, number, lossless=True)
            if number in (1, 4):
                await until(lambda: any(client.in_flight.values()))
                client.error = unavailable()
                client.hold.set()
                client.restart()
                await until(lambda: not any(client.in_flight.values()))
                client.error = None
            if number == 2:
                client.frame_errors += [
                    InferenceFailed("no"),
                    InferenceFailed("no"),
                    RegionNotRegistered("no"),
                ]
            await until(lambda: len(results.take()) > number)
    assert results.values == [[50], [51], [52], [53], [54], [55]]
    assert [stamp.frame_number for stamp in results.stamps] == list(range(6))


async def test_failed_frames_are_counted_logged_once_and_retried_with_pauses(
    instance: str,
    tmp_path: Path,
    frames: FrameWriter,
    results: Results,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = FakeTriton(frame_errors=[InferenceFailed("bad shape")] * 5)
    errors = metrics.INFERENCE_ERRORS.labels("cam", "refused")
    before, lost = errors._value.get(), skipped("error")
    caplog.set_level(logging.INFO, "tridetr")
    began = time.monotonic()
    async with running(make_config(instance, tmp_path), client):
        put_frame(frames, 1)
        await until(lambda: len(client.frame_errors) < 4)
        put_frame(frames, 2)  # supersedes the first frame
        await until(lambda: results.take())
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2 + 0.4 + 0.8
    assert results.values == [[2]]
    assert errors._value.get() - before == 5
    assert skipped("error") - lost == 1
    said = [record.message for record in caplog.records]
    assert said.count("inference of a frame failed: bad shape") == 1
    assert said.count("inference results are available again") == 1


async def test_wrong_boxes_are_dropped_counted_and_logged_once(
    instance: str,
    tmp_path: Path,
    frames: FrameWriter,
    results: Results,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = FakeTriton(second_box=(1, 1, np.nan, 2))
    invalid = metrics.BOXES_INVALID.labels("cam")
    before = invalid._value.get()
    async with running(make_config(instance, tmp_path), client):
        put_frame(frames, 1)
        await until(results.take)
        put_frame(frames, 2)
        await until(lambda: len(results.take()) == 2)
    assert invalid._value.get() - before == 2
    assert caplog.text.count("inverted, NaN") == 1


async def test_a_slow_answer_is_logged_and_waited_for(
    instance: str, tmp_path: Path, frames: FrameWriter, results: Results
) -> None:
    """A client-side deadline would not stop the server, which still reads the frame."""
    client = FakeTriton()
    client.hold.clear()
    slow = metrics.INFERENCE_ERRORS.labels("cam", "slow")
    before = slow._value.get()
    config = make_config(instance, tmp_path, triton={"infer_timeout_s": 0.2})
    async with running(config, client):
        put_frame(frames, 1)
        await until(lambda: slow._value.get() > before)
        for value in range(2, 30):
            put_frame(frames, value)
        client.hold.set()
        await until(lambda: len(results.take()) == 2)
    assert results.values == [[1], [29]]


async def test_follows_the_ring_to_its_next_generation(
    instance: str, tmp_path: Path, frames: FrameWriter, results: Results
) -> None:
    client = FakeTriton()
    async with running(make_config(instance, tmp_path), client):
        put_frame(frames, 1)
        await until(lambda: results.take())
        frames.resize(128, 64)
        put_frame(frames, 2)
        await until(lambda: len(results.take()) == 2)
        await until(lambda: client.unregistered)
        assert list(client.regions) == [f"tridetr-{instance}-cam-frames-2"]
    assert (results.stamps[1].width, results.stamps[1].height) == (128, 64)
    assert not client.regions  # no region stays registered


async def test_a_recreated_ring_is_registered_again(
    instance: str, tmp_path: Path, results: Results
) -> None:
    client = FakeTriton()
    async with running(make_config(instance, tmp_path), client):
        for value in (1, 2):
            with FrameWriter(instance, "cam", width=64, height=32) as frames:
                put_frame(frames, value)
                await until(lambda: len(results.take()) == value)
                frames._name.path(1).unlink()
    assert results.values == [[1], [2]]
    assert client.registered == [f"tridetr-{instance}-cam-frames-1"] * 2


async def test_the_detector_may_start_before_capture_and_be_restarted(
    instance: str, tmp_path: Path, results: Results
) -> None:
    client = FakeTriton()
    config = make_config(instance, tmp_path)
    async with running(config, client):
        await until(lambda: client.models_asked or True)
        with FrameWriter(instance, "cam", width=64, height=32) as frames:
            put_frame(frames, 1)
            await until(lambda: results.take())
    client.restart()
    before = skipped("superseded")
    async with running(config, client):
        # The newest frame is inferred again: the result of the first detector may not have been read.
        await until(lambda: len(results.take()) == 2)
        with FrameWriter(instance, "cam", width=64, height=32) as frames:
            put_frame(frames, 3)
            await until(lambda: len(results.take()) == 3)
    assert [stamp.frame_sequence for stamp in results.stamps] == [1, 1, 2]
    assert skipped("superseded") == before


async def test_cameras_take_turns(instance: str, tmp_path: Path) -> None:
    """A camera that always has a frame ready gets no more than its share."""
    client = FakeTriton()
    cameras = ["fast", "slow", "other"]
    config = make_config(
        instance, tmp_path, cameras={name: {"source": "synthetic"} for name in cameras}
    )
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(FrameWriter(instance, name, width=64, height=32))
            for name in cameras
        ]
        async with running(config, client):
            for turn in range(40):
                client.hold.clear()
                for writer in writers:
                    put_frame(writer, turn)
                await until(lambda: len(client.asked) > turn)
                client.hold.set()
                await asyncio.sleep(0)
            await until(lambda: not any(client.in_flight.values()))
    counts = {name: sum(f"-{name}-" in region for region, _ in client.asked) for name in cameras}
    assert max(counts.values()) - min(counts.values()) <= 2, counts


async def test_unknown_classes_stop_the_detector(instance: str, tmp_path: Path) -> None:
    config = make_config(instance, tmp_path, detect={"classes": ["person", "unicorn"]})
    async with running(config, FakeTriton()) as task:
        with pytest.raises(ConfigError, match="unicorn"):
            await task


async def test_a_model_that_does_not_conform_stops_the_detector(
    instance: str, tmp_path: Path
) -> None:
    config = make_config(instance, tmp_path)
    async with running(config, FakeTriton(error=ModelError("boxes: wanted FP32"))) as task:
        with pytest.raises(ModelError, match="wanted FP32"):
            await task


@pytest.mark.parametrize(
    ("detect", "camera", "info", "count"),
    [
        ({}, None, INFO, 1),  # the model's own score
        ({"min_score": 0.1}, None, INFO, 2),
        ({"min_score": 0.1}, {"min_score": 0.95}, INFO, 0),  # the camera's own section
        ({"min_score": 0.1, "classes": ["car"]}, None, INFO, 1),
        ({"classes": ["person"]}, None, ModelInfo("m", "1", "e", "p", "fp32"), 1),  # COCO's names
    ],
)
async def test_detections_are_filtered_by_the_configured_score_and_classes(
    instance: str,
    tmp_path: Path,
    frames: FrameWriter,
    results: Results,
    detect: dict[str, Any],
    camera: dict[str, Any] | None,
    info: ModelInfo,
    count: int,
) -> None:
    cameras = {"cam": {"source": "synthetic", "detect": camera}}
    config = make_config(instance, tmp_path, detect=detect, cameras=cameras)
    async with running(config, FakeTriton(info=info)):
        put_frame(frames, 1)
        await until(lambda: results.take())
    assert len(results.values[0]) == count


async def test_assumed_class_names_are_reported_once(
    instance: str,
    tmp_path: Path,
    frames: FrameWriter,
    results: Results,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = FakeTriton(info=ModelInfo("m", "1", "e", "p", "fp32"))
    async with running(make_config(instance, tmp_path), client):
        put_frame(frames, 1)
        await until(lambda: results.take())
        client.restart()  # its model is queried again
        put_frame(frames, 2)
        await until(lambda: len(results.take()) == 2)
    assert client.models_asked == 2
    (record,) = [r for r in caplog.records if "does not name its classes" in r.getMessage()]
    assert record.levelname == "WARNING"
    assert "Remedy: " in record.getMessage()


async def test_another_model_on_an_external_server_is_noticed_without_a_failure(
    instance: str,
    tmp_path: Path,
    frames: FrameWriter,
    results: Results,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its class ids used to be read with the table of the model before."""
    monkeypatch.setattr(detector_process, "_LOOK_S", 0.02)
    config = make_config(
        instance, tmp_path, triton={"url": "127.0.0.1:1"}, detect={"classes": ["car"]}
    )
    client, served = FakeTriton(second_score=0.9), ServedModelReader(tmp_path)
    async with running(config, client) as task:
        put_frame(frames, 7)
        await until(results.take)
        client.info = dataclasses.replace(INFO, classes={"person": 3, "car": 1})
        asked = client.models_asked
        await until(lambda: client.models_asked >= asked + 2)  # the second one with the new answer
        put_frame(frames, 2)
        await until(lambda: len(results.take()) == 2)
        assert served.classes() == {"person": 3, "car": 1}
        client.error = unavailable()  # while it is asked
        asked = client.models_asked
        await until(lambda: client.models_asked >= asked + 2)
        client.error = ModelError("boxes: wanted FP32")
        put_frame(frames, 3)
        with pytest.raises(ModelError, match="wanted FP32"):
            await task
    assert results.values == [[1], [2]]  # the car's: the second box, then the first


async def test_a_full_run_folder_does_not_end_the_detector(
    instance: str,
    tmp_path: Path,
    frames: FrameWriter,
    results: Results,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others use the last known class ids: a model with other ids must wait until they can be written."""
    monkeypatch.setattr(detector_process, "_LOOK_S", 0.02)
    obstacle = tmp_path / "served_model.json"
    obstacle.mkdir()  # as for a full disk, the file cannot be written
    client = FakeTriton()
    async with running(make_config(instance, tmp_path, triton={"url": "localhost:1"}), client):
        put_frame(frames, 10)
        await until(results.take)
        assert "cannot write the model's description" in caplog.text
        client.info = dataclasses.replace(INFO, classes={"person": 3, "car": 1})
        await until(lambda: "inference is unavailable: cannot write the model's" in caplog.text)
        put_frame(frames, 11)
        await asyncio.sleep(0.1)
        assert len(results.take()) == 1
        obstacle.rmdir()
        await until(lambda: len(results.take()) == 2)
        assert ServedModelReader(tmp_path).classes() == {"person": 3, "car": 1}


async def test_a_model_that_is_back_before_another_could_be_used_keeps_its_classes(
    instance: str,
    tmp_path: Path,
    frames: FrameWriter,
    results: Results,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detector_process, "_LOOK_S", 0.02)
    config = make_config(
        instance, tmp_path, triton={"url": "localhost:1"}, detect={"classes": ["person"]}
    )
    client = FakeTriton()
    async with running(config, client):
        put_frame(frames, 10)
        await until(results.take)
        served = tmp_path / "served_model.json"
        served.unlink()
        served.mkdir()  # as for a full disk, the file cannot be written
        client.info = dataclasses.replace(INFO, classes={"person": 7})
        await until(lambda: "inference is unavailable: cannot write the model's" in caplog.text)
        client.info = INFO
        put_frame(frames, 11)
        await until(lambda: len(results.take()) == 2)
    assert results.values == [[10], [11]]


async def test_two_detectors_are_refused(instance: str, tmp_path: Path) -> None:
    config = make_config(instance, tmp_path)
    async with running(config, FakeTriton()):
        with pytest.raises(Exception, match="already has a writer"):
            Detector(config, FakeTriton())


async def test_stops_while_the_server_does_not_answer(
    instance: str, tmp_path: Path, frames: FrameWriter
) -> None:
    client = FakeTriton()
    client.hold.clear()
    async with running(make_config(instance, tmp_path), client):
        put_frame(frames, 1)
        await until(lambda: client.asked)


@pytest.mark.parametrize(("color", "said"), [("bt601-full", 1), ("bt601-limited", 0), ("frame", 0)])
async def test_frames_of_another_colour_range_are_logged_once(
    instance: str,
    tmp_path: Path,
    frames: FrameWriter,
    results: Results,
    caplog: pytest.LogCaptureFixture,
    color: str,
    said: int,
) -> None:
    client = FakeTriton(info=dataclasses.replace(INFO, color=color))
    with caplog.at_level(logging.WARNING, "tridetr.detector"):
        async with running(make_config(instance, tmp_path), client):
            for number in range(3):
                put_frame(frames, 10, number)  # limited range
                await until(lambda: len(results.take()) > number)
    assert caplog.text.count("models recolor") == said
