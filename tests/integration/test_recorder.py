"""The recorder with simulated rings: the picture and the clip that it saves, with and without packets."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from support.recorder import FPS, Recorder, Stage, luma_of, recording
from support.waiting import wait_for
from tridetr.recorder.evidence_database import ENDED

SETTLE_S = 2.0


def greys(path: Path, full_range: bool = False) -> list[int]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [int(np.median(frame)) for frame in frames]


def frame_at(stage: Stage, unix_ns: int) -> int:
    return min(range(len(stage.captured)), key=lambda n: abs(stage.captured[n] - unix_ns))


def one_visit(recorder: Recorder, stage: Stage) -> dict[str, Any]:
    stage.show(0, "", SETTLE_S)
    stage.show(40, "", 0.5)  # seen, not confirmed yet
    stage.show(40, "visit-a", 1.0)
    stage.show(90, "visit-a", 0.5)
    stage.show(60, "visit-a", 1.0)
    stage.show(0, "visit-a", 0.5)  # gone, before the all-clear
    stage.show(0, "", 3.0)
    (_row,) = recorder.closed()
    wait_for(lambda: recorder.rows()[0]["clip"], 30, "no clip")
    return recorder.rows()[0]


@pytest.mark.parametrize("packets", [True, False])
def test_visit_is_saved_with_best_picture_and_clip(tmp_path: Path, packets: bool) -> None:
    with recording(tmp_path, packets=packets) as (recorder, stage):
        row = one_visit(recorder, stage)
        files = recorder.evidence / "files"
        facts = json.loads(row["picture_facts"])
        # The frame with the largest box, and its own pixels
        (box,) = facts["boxes"]
        assert box["xyxy"][2] - box["xyxy"][0] == 90
        number = facts["frame_number"]
        assert abs(greys(files / row["picture"])[0] - luma_of(number)) <= 3
        # From a second before the first detection to a second after the last
        started, ended = (
            frame_at(stage, row[name]) for name in ("started_unix_ns", "ended_unix_ns")
        )
        assert 2.5 * FPS < ended - started < 4 * FPS
        clip = json.loads(row["clip_facts"])
        assert clip["encoded"] is not packets
        first, last = (frame_at(stage, clip[name]) for name in ("started_unix_ns", "ended_unix_ns"))
        gop = 10 if packets else 2
        assert started - FPS - gop <= first <= started - FPS + 2
        assert ended + FPS - 2 <= last <= ended + FPS
        shown = greys(files / row["clip"])
        if packets:
            assert first % 10 == 0
            wanted = [luma_of(number) for number in range(first, last + 1)]
            assert len(shown) == len(wanted)
            assert max(abs(a - b) for a, b in zip(shown, wanted, strict=True)) <= 4
        assert abs(shown[0] - luma_of(first)) <= 4
        assert abs(shown[-1] - luma_of(last)) <= 4
        with av.open(str(files / row["clip"])) as container:
            stream = container.streams.video[0]
            assert stream.duration is not None
            assert stream.time_base is not None
            length = float(stream.duration * stream.time_base)
        assert length == pytest.approx((last - first) / FPS, abs=0.4)
        recorder.stop()
        assert {f.name for f in files.iterdir()} == {row["picture"], row["crop"], row["clip"]}


def test_unconfirmed_detection_leaves_nothing(tmp_path: Path) -> None:
    with recording(tmp_path) as (recorder, stage):
        stage.show(0, "", SETTLE_S)
        stage.show(50, "", 1.0)
        stage.show(0, "", 1.0)
        recorder.stop()
        assert recorder.rows() == []
        assert not list((recorder.evidence / "files").iterdir())


def test_pictures_or_clips_only(tmp_path: Path) -> None:
    with recording(tmp_path, clips=False) as (recorder, stage):
        stage.show(50, "visit-a", 1.5)
        stage.show(0, "", 1.0)
        (row,) = recorder.closed()
        assert row["picture"]
        assert not row["clip"]
    folder = tmp_path / "clips"
    folder.mkdir()
    with recording(folder, pictures=False) as (recorder, stage):
        stage.show(50, "visit-b", 1.5)
        stage.show(0, "", 3.0)
        (row,) = recorder.closed()
        assert row["clip"]
        assert not row["picture"]


def test_two_visits_share_the_video_between_them(tmp_path: Path) -> None:
    """The second visit begins before the clip of the first one ends: both clips are complete."""
    with recording(tmp_path, before_s=2, after_s=4) as (recorder, stage):
        stage.show(0, "", SETTLE_S + 2)
        for visit in ("visit-a", "visit-b"):
            stage.show(50, visit, 1.5)
            stage.show(0, "", 1.0)
        # The visits are over, but their clips are not complete
        assert [row["is_open"] for row in recorder.rows()] == [ENDED, ENDED]
        stage.show(0, "", 4.5)
        rows = recorder.closed(2)
        wait_for(lambda: all(row["clip"] for row in recorder.rows()), 30)
        rows = recorder.rows()
        spans = [json.loads(row["clip_facts"]) for row in rows]
        assert spans[1]["started_unix_ns"] < spans[0]["ended_unix_ns"]
        for row, span in zip(rows, spans, strict=True):
            assert span["ended_unix_ns"] - row["ended_unix_ns"] > 3.5e9
            shown = greys(recorder.evidence / "files" / row["clip"])
            first = frame_at(stage, span["started_unix_ns"])
            wanted = [luma_of(first + n) for n in range(len(shown))]
            assert max(abs(a - b) for a, b in zip(shown, wanted, strict=True)) <= 4


def test_a_recorder_that_stands_still_between_two_visits_does_not_mix_them(tmp_path: Path) -> None:
    """The results that had waited counted for the first visit: its picture, end and clip were the second one's."""
    with recording(tmp_path) as (recorder, stage):
        assert recorder.process is not None
        stage.show(0, "", SETTLE_S)
        stage.show(50, "visit-a", 1.5)
        recorder.process.send_signal(signal.SIGSTOP)
        left = time.time_ns()
        stage.show(0, "visit-a", 0.4)
        stage.show(0, "", 0.3)
        came = time.time_ns()
        stage.show(90, "", 0.2)  # seen, not confirmed yet
        stage.show(90, "visit-b", 0.4)
        recorder.process.send_signal(signal.SIGCONT)
        stage.show(90, "visit-b", 0.5)
        stage.show(0, "", 3.0)
        recorder.closed(2)
        wait_for(lambda: all(row["clip"] for row in recorder.rows()), 30)
        first, second = recorder.rows()
    assert (first["visit_id"], second["visit_id"]) == ("visit-a", "visit-b")
    widths = []
    for row in (first, second):
        facts = json.loads(row["picture_facts"])
        (box,) = facts["boxes"]
        widths.append(box["xyxy"][2] - box["xyxy"][0])
        assert row["started_unix_ns"] <= facts["unix_ns"] <= row["ended_unix_ns"]
    assert widths == [50, 90]
    slack = 0.15e9  # a frame
    assert first["ended_unix_ns"] < left + slack
    assert json.loads(first["clip_facts"])["ended_unix_ns"] < left + 1e9 + slack
    assert came - slack < second["started_unix_ns"] < came + 2 * slack
