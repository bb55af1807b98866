"""The commands ``status``, ``events`` and ``analyse``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from support.node import running_node
from support.proc import listening
from support.waiting import wait_for
from tridetr.analysis import workspace
from tridetr.shm.names import SHM_DIR
from tridetr_demo.scene.camera import SyntheticCamera


def tridetr(*words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tridetr", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def write_scene(path: Path, seconds: float, *, fps: int = 10) -> None:
    """Record a drawn street in which a person walks by."""
    film = SyntheticCamera(640, 360, seed=7, scene="street")
    planes = np.empty((540, 640), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuvj420p"
        for number in range(round(seconds * fps)):
            film.draw(number / fps, planes)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuvj420p")))
        container.mux(stream.encode())


@pytest.mark.timeout(300)
def test_analyse_prints_the_visits_in_media_time_and_opens_no_port(tmp_path: Path) -> None:
    """It opened a viewer without a token and a broker, for all users of the machine."""
    clip = tmp_path / "street.mp4"
    write_scene(clip, 25)
    command = [sys.executable, "-m", "tridetr", "analyse", str(clip), "--json"]
    names: set[str] = set()
    ports: set[tuple[str, int]] = set()
    out, errors = tmp_path / "out", tmp_path / "errors"
    with out.open("w") as stdout, errors.open("w") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            for child in psutil.Process(process.pid).children(recursive=True):
                names.add(child.name())
                ports.update(listening(child.pid))
        time.sleep(0.1)
    assert process.returncode == 0, errors.read_text()
    found = json.loads(out.read_text())
    assert "tritonserver" in names
    assert not ports
    assert found["complete"]
    assert found["frames"] == found["frames_analysed"] == 250  # in standby, not all are decided on
    assert found["model"]["name"]
    visits = found["visits"]
    assert visits
    for visit in visits:
        assert 0 < visit["begin_s"] <= 25
        assert visit["begin_s"] == pytest.approx(visit["frame_number"] / 10)
        assert visit["ended"] in ("left", None)
        assert visit["end_s"] is None or visit["begin_s"] < visit["end_s"] <= 25
    assert "only recognises drawn people" in errors.read_text()


@pytest.fixture
def short_folder() -> Iterator[str]:
    """Yield a folder in which names of Unix sockets are short enough."""
    with tempfile.TemporaryDirectory() as name:
        yield name


def test_what_a_killed_analysis_left_is_removed_by_the_next(
    tmp_path: Path, short_folder: str
) -> None:
    """The last pictures of the recording stayed in memory until the machine restarted."""
    clip = tmp_path / "street.mp4"
    write_scene(clip, 25)
    temporary = Path(short_folder)
    command = [sys.executable, "-m", "tridetr", "analyse", str(clip), "--json"]
    process = subprocess.Popen(
        command, env=os.environ | {"TMPDIR": str(temporary)}, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: list(temporary.glob("tridetr-a*/run/triton*")), 60)
        (folder,) = temporary.glob("tridetr-a*")
        frames = SHM_DIR / f"{folder.name}-recording-frames-1"
        wait_for(frames.exists, 60)
    finally:
        process.kill()
        process.wait()
    assert frames.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        with workspace() as (_, fresh):
            assert list(temporary.iterdir()) == [fresh]
    assert not list(SHM_DIR.glob(f"{folder.name}*"))
    assert not list(temporary.iterdir())


def test_status_and_events_of_a_running_node(tmp_path: Path) -> None:
    cameras = {"street": {"source": "synthetic", "width": 640, "height": 360, "fps": 10, "seed": 7}}
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123")
    gateway = {"host": "127.0.0.1", "port": 0, "token_file": str(token)}
    with running_node(tmp_path, cameras, gateway=gateway) as node:
        words = ["-c", str(node.file)]
        wait_for(lambda: tridetr("status", *words).returncode == 0, 90)
        (camera,) = json.loads(tridetr("status", *words, "--json").stdout)["cameras"]
        assert camera["name"] == "street"
        assert camera["watching"]["watching"]
        assert "street" in tridetr("status", *words).stdout

        def seen() -> list[dict[str, object]]:
            answer = tridetr("events", *words, "--json")
            return list(json.loads(answer.stdout)["events"])

        wait_for(lambda: [row for row in seen() if row["kind"] == "person_arrived"], 90)
        assert "person_arrived" in tridetr("events", *words).stdout
        assert tridetr("events", *words, "--camera", "hall").returncode == 2
    answer = tridetr("status", *words)
    assert answer.returncode == 2
    assert "is running" in answer.stderr
    assert "tridetr up" in answer.stderr
    assert "person_arrived" in tridetr("events", *words).stdout, (
        "also for a node that is not running"
    )
