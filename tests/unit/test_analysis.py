"""Deriving the visits in a recording from the events of the run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.clips import write_clip
from tridetr.analysis import Joined, Recording, open_recording, recording_config, visits_of
from tridetr.config.load import parse_config
from tridetr.controller.history import HistoryRow
from tridetr.errors import ConfigError, SourceError


def row(
    seq: int, what: str, visit: str = "v1", frame: int | None = None, s: float = 0
) -> HistoryRow:
    details = {
        "event_id": f"{visit}:{what}", "visit_id": visit, "class": "person", "frame_number": frame,
        "duration_s": s, "score": 0.9 if frame is not None else None,
    }  # fmt: skip
    return HistoryRow(seq, seq, "recording", f"person_{what}", details)


def test_events_are_paired_to_visits_in_media_time() -> None:
    recording = Recording(Path("a.mp4"), tuple(n / 10 for n in range(101)))
    rows = [
        row(1, "arrived", frame=20),
        HistoryRow(2, 2, "recording", "camera_lost", {"message": "blind"}),
        row(3, "left", frame=50, s=3.0),
        row(4, "arrived", "v2", frame=60),
        row(5, "lost", "v2", s=60.0),
        row(6, "arrived", "v3", frame=99),
    ]
    first, second, third = visits_of(rows, recording)
    assert (first.begin_s, first.end_s, first.ended, first.score) == (2.0, 5.0, "left", 0.9)
    assert (second.end_s, second.ended) == (10.0, "lost"), "never behind the recording's end"
    assert (third.begin_s, third.end_s, third.ended) == (9.9, None, None)


def test_classes_that_join_a_visit_are_listed_with_it() -> None:
    recording = Recording(Path("a.mp4"), tuple(n / 10 for n in range(101)))
    joined = row(2, "5a6e:joined", frame=45)
    rows = [row(1, "arrived", frame=20), joined, row(3, "left", frame=50, s=3.0)]
    (visit,) = visits_of(rows, recording)
    assert visit.joined == (Joined("person", 4.5, 0.9, 45),)
    assert visit.end_s == 5.0
    assert visits_of([joined], recording) == [], "its visit began before the history"


def test_frames_have_presentation_times(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 30, fps=10)  # with B-frames: packets are out of order
    recording = open_recording(clip)
    assert recording.times_s == pytest.approx([n / 10 for n in range(30)])
    assert recording.time_s(1000) == recording.duration_s == pytest.approx(2.9)


@pytest.mark.parametrize("content", [None, b"", b"no video at all"])
def test_a_file_that_is_not_a_video_is_rejected(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "clip.mp4"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SourceError, match=r"cannot open .*clip\.mp4"):
        open_recording(file)


def test_the_address_of_a_stream_is_not_repeated() -> None:
    with pytest.raises(SourceError, match="a recording is a file") as error:
        open_recording(Path("rtsp://viewer:sekret@camera/1"))
    assert "sekret" not in str(error.value)


def test_the_settings_of_a_camera_are_used(tmp_path: Path) -> None:
    text = (
        "sentry: {clear_s: 7}\nalarm: {classes: [car]}\n"
        "cameras: {hall: {source: synthetic, blind_check: false, frozen_s: 99, "
        "mask: [[[0, 0], [1, 0], [1, 0.5]]], alarm: {min_area: 0.1}}}"
    )
    settings = parse_config(text, origin=tmp_path / "node.yaml")
    recording = Recording(tmp_path / "a.mp4", (0.0,))
    config = recording_config(recording, settings, "hall", "a1", tmp_path)
    camera = config.cameras["recording"]
    assert (camera.source.text, camera.realtime, camera.loop) == (f"{tmp_path}/a.mp4", False, False)
    assert not camera.blind_check
    assert (camera.mask, camera.frozen_s) == ((((0, 0), (1, 0), (1, 0.5)),), 99)
    assert config.sentry.clear_s == 7
    assert (config.alarm.classes, config.alarm.min_area) == (("car",), 0.1)
    assert config.instance != settings.instance
    assert recording_config(recording, settings, None, "a1", tmp_path).alarm.min_area == 0
    with pytest.raises(ConfigError, match="no camera 'yard'"):
        recording_config(recording, settings, "yard", "a1", tmp_path)


def test_a_name_in_another_encoding_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    file.touch()
    with pytest.raises(SourceError, match="not UTF-8; rename it"):
        open_recording(file)
