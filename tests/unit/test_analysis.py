"""Deriving the visits in a recording from the events of the run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.clips import write_clip
from tridetr.analysis import (
    Joined,
    Recording,
    open_recording,
    recording_config,
    visits_of,
    workspace,
)
from tridetr.config.load import parse_config
from tridetr.controller.history import HistoryRow
from tridetr.errors import ConfigError, SourceError
from tridetr.shm.names import SHM_DIR
from tridetr.supervisor import orphans


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


# --- what killed analyses left


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which is open to all users."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(orphans, "GRACE_S", 0.2)
    return folder


def killed(run_dir: Path, instance: str = "") -> str:
    """Leave the lock of a run that was killed, and return the name of its instance."""
    instance = instance or run_dir.parent.name.removeprefix("tridetr-")
    script = (
        "import os, sys, pathlib\nfrom tridetr.shm.instance_lock import InstanceLock\n"
        "lock = InstanceLock(sys.argv[1], pathlib.Path(sys.argv[2]))\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, instance, str(run_dir)], check=True)
    assert (SHM_DIR / f"tridetr-{instance}.lock").exists()
    return instance


def run_dir_in(folder: Path) -> Path:
    return folder / f"tridetr-a{uuid.uuid4().hex[:12]}" / "run"


@contextlib.contextmanager
def process_of(run_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of the node with this run folder."""
    environment = {**os.environ, orphans.MARK: orphans.mark(run_dir, "capture hall")}
    line = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("is_folder_a_link", [False, True])
def test_a_link_under_the_name_of_a_killed_analysis_leads_to_no_other_node(
    tmp_path: Path, temporary: Path, is_folder_a_link: bool
) -> None:
    """Another user could have the next analysis kill the processes of a node."""
    node = tmp_path / "node" / "run"
    node.mkdir(parents=True)
    (node / "secret").touch()
    run_dir = run_dir_in(temporary)
    instance = killed(run_dir)
    if is_folder_a_link:
        run_dir.parent.symlink_to(node.parent)
    else:
        run_dir.parent.mkdir(mode=0o777)
        run_dir.symlink_to(node)
        if os.geteuid() == 0:
            os.chown(run_dir.parent, 12345, 12345)
    with process_of(node) as process, workspace():
        assert process.poll() is None
    assert (node / "secret").exists()
    assert not (SHM_DIR / f"tridetr-{instance}.lock").exists()


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_killed_analysis_with_another_temporary_folder_is_cleaned_up(
    tmp_path: Path, temporary: Path, is_removed: bool
) -> None:
    run_dir = run_dir_in(tmp_path)
    instance = killed(run_dir)
    if not is_removed:
        run_dir.mkdir(parents=True)
        run_dir.parent.chmod(0o700)
    with process_of(run_dir) as process, workspace():
        assert not psutil.pid_exists(process.pid)  # ended, and reaped
    assert not run_dir.parent.exists()
    assert not (SHM_DIR / f"tridetr-{instance}.lock").exists()
    assert not list(temporary.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_another_user_is_not_emptied(temporary: Path) -> None:
    run_dir = run_dir_in(temporary)
    killed(run_dir)
    run_dir.mkdir(parents=True)
    os.chown(run_dir.parent, 12345, 12345)
    with workspace():
        pass
    assert run_dir.exists()


def test_the_folder_of_a_node_whose_name_looks_like_that_of_an_analysis_stays(
    tmp_path: Path, temporary: Path
) -> None:
    run_dir = tmp_path / "home" / "run"
    instance = f"a{uuid.uuid4().hex[:12]}"
    run_dir.mkdir(parents=True)
    run_dir.parent.chmod(0o700)
    killed(run_dir, instance)
    with process_of(run_dir) as process, workspace():
        assert process.poll() is None
    assert run_dir.exists()
