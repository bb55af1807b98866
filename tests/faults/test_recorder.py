"""A recorder that is killed, has no disk space or removes old visits keeps what it can, and lists no lost file."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from support.mosquitto import listening, running_mosquitto
from support.recorder import Recorder, recording
from support.sentry import PERSON, running_controller
from support.small_disks import fill, mounted_tmpfs
from support.waiting import wait_for


def is_playable(path: Path) -> bool:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)) > 0


@pytest.mark.long_faults
@pytest.mark.timeout(300)
def test_a_recorder_that_is_killed_at_any_time_of_a_visit(tmp_path: Path) -> None:
    """Killed before, during and after several visits: each visit has its row and picture, and no partial file."""
    visits = [str(uuid.uuid4()) for _ in range(6)]
    with recording(tmp_path, before_s=1, after_s=1) as (recorder, stage):
        stage.show(0, "", 1.0)
        kills = (0.05, 0.4, 0.9, 1.6, 2.2, 2.9)  # seconds after the visit begins, which lasts two
        for number, after_s in enumerate(kills):
            stage.show(60, visits[number], min(after_s, 2.0))
            if after_s > 2.0:
                stage.show(0, "", after_s - 2.0)
            recorder.kill()
            for row in recorder.rows():  # as the gateway finds them in the meantime
                assert row["picture"] or row["clip"]
            recorder.start()
            if after_s < 2.0:
                stage.show(60, visits[number], 2.0 - after_s)
            stage.show(0, "", 3.0)
        stage.show(0, "", 1.0)
        rows = recorder.closed(len(kills))
        assert [row["visit_id"] for row in rows] == visits
        assert all(row["picture"] for row in rows)
        # A visit during which it was killed has a clip of what its successor still found in the ring
        assert sum(row["clip"] is not None for row in rows) >= 4
        files = recorder.evidence / "files"
        for row, after_s in zip(rows, kills, strict=True):
            assert row["clip"] is None or is_playable(files / row["clip"])
            if after_s < 2.0:  # the successor has seen the end
                assert row["ended_unix_ns"] - row["started_unix_ns"] > 1e9, row
        recorder.stop()
        named = {row[kind] for row in rows for kind in ("picture", "crop", "clip") if row[kind]}
        assert {file.name for file in files.iterdir()} == named


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_tmpfs(tmp_path, 6) as folder:
        yield folder


@pytest.mark.long_faults
@pytest.mark.timeout(300)
def test_a_full_disk_costs_the_picture_until_there_is_space(
    tmp_path: Path, small_disk: Path
) -> None:
    with recording(tmp_path, path=str(small_disk / "evidence")) as (recorder, stage):
        stage.show(60, "visit-before", 1.5)
        stage.show(0, "", 2.5)
        (kept,) = recorder.closed()
        fill(small_disk)
        stage.show(60, "visit-full", 2.0)
        stage.show(0, "", 2.5)
        wait_for(lambda: "cannot be saved" in recorder.log(), 30)
        assert recorder.process is not None
        assert recorder.process.poll() is None
        assert [row["visit_id"] for row in recorder.rows()] == [kept["visit_id"]]
        assert not list((recorder.evidence / "files").glob("*.part"))
        (small_disk / "ballast").unlink()
        stage.show(60, "visit-after", 1.5)
        stage.show(0, "", 2.5)
        ids = [row["visit_id"] for row in wait_for(lambda: _over(recorder, "visit-after"), 60)]
        # Saving the picture of the visit with the full disk is retried for a minute
        assert ids[0] == "visit-before"
        assert "visit-after" in ids
        assert "are saved again" in recorder.log()


def _over(recorder: Recorder, visit: str) -> list[dict[str, Any]]:
    rows = recorder.rows()
    over = any(row["visit_id"] == visit and row["clip"] and not row["is_open"] for row in rows)
    return rows if over else []


@pytest.mark.timeout(300)
def test_a_full_disk_neither_delays_nor_loses_an_alarm(tmp_path: Path, small_disk: Path) -> None:
    """Controller and recorder share a disk that is full: the broker still gets each event."""
    state = small_disk / "state"
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}, state_dir=str(state)) as (node, actor),
    ):
        recorder = Recorder(node.instance, tmp_path / "recorder", path=str(state / "evidence"))
        recorder.start()
        try:
            for number in range(3):
                if number == 1:
                    fill(small_disk)
                actor.show_and_wait(frames=3)
                actor.show_and_wait(PERSON, frames=12)
                wait_for(lambda: len(ear.events()) == 2 * number + 1, 20, "no alarm")
                actor.show_and_wait(frames=36)
                wait_for(lambda: len(ear.events()) == 2 * number + 2, 20, "no end")
            assert recorder.process is not None
            assert recorder.process.poll() is None
        finally:
            recorder.kill()
        kinds = [event["kind"] for event in ear.events()]
    assert kinds == ["person_arrived", "person_left"] * 3


@pytest.mark.long_faults
def test_retention_while_it_runs(tmp_path: Path) -> None:
    with recording(tmp_path, keep_days=1e-4, clips=False) as (recorder, stage):  # 8.6 s
        stage.show(50, "visit-a", 1.0)
        stage.show(0, "", 0.5)
        recorder.closed()
        begun = time.monotonic()
        wait_for(lambda: not recorder.rows(), 60, "the visit is not removed")
        assert time.monotonic() - begun > 1
        wait_for(lambda: not list((recorder.evidence / "files").iterdir()))
