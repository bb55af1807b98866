"""The recorder on real footage: each visit has a picture of the person and a clip of the camera's own packets."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from support.data import FOOTAGE, FOOTAGE_TRUTH, ORACLE, shared
from support.node import running_node

VISITS = [(228, 444), (511, 694), (747, 863), (940, 1182), (1237, 1357)]
FPS = 10
GOP_S = 1.0
BEFORE_S, AFTER_S = 5.0, 10.0


def iou(a: Any, b: Any) -> float:
    left, top = np.maximum(a[:2], b[:2])
    right, bottom = np.minimum(a[2:4], b[2:4])
    common = max(0.0, right - left) * max(0.0, bottom - top)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(common / (sum(areas) - common))


def packets_of(path: Path) -> list[tuple[str, bool]]:
    with av.open(str(path)) as container:
        found = container.demux(container.streams.video[0])
        return [(sha256(bytes(p)).hexdigest(), p.is_keyframe) for p in found if p.size]


def luma(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray(format="gray").astype(int)


@pytest.mark.timeout(600)
def test_five_visits_have_five_pictures_and_five_clips(tmp_path: Path) -> None:
    footage, oracle = shared(*FOOTAGE), shared(*ORACLE)
    truth = json.loads(shared(*FOOTAGE_TRUTH).read_text())["detections"]
    with running_node(
        tmp_path,
        {"hall": {"source": str(footage), "realtime": False, "loop": False}},
        model={"file": str(oracle), "precision": "fp32"},
        detect={"min_score": 0.5, "classes": ["person"]},
        evidence={"before_s": BEFORE_S, "after_s": AFTER_S},
    ) as node:
        summary = node.finish(within_s=500)
    assert not any(summary["restarts"].values())
    folder = tmp_path / "state" / "evidence"
    with closing(sqlite3.connect(folder / "evidence.db")) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM visit ORDER BY seq").fetchall()
    assert len(rows) == len(VISITS)
    assert len({file.name for file in (folder / "files").iterdir()}) == 3 * len(VISITS)

    camera = packets_of(footage)
    with av.open(str(footage)) as container:
        frames = list(container.decode(video=0))
    for row, (first, last) in zip(rows, VISITS, strict=True):
        assert (row["camera"], row["class"], row["is_open"]) == ("hall", "person", 0)
        seen = _check_picture(folder / "files" / row["picture"], row, frames, truth)
        assert first <= seen <= last
        _check_clip(folder / "files" / row["clip"], row, camera, last)


def _check_picture(path: Path, row: Any, frames: list[av.VideoFrame], truth: Any) -> int:
    """Check that the picture is the stated frame, without boxes, and the best one; return its frame number."""
    facts = json.loads(row["picture_facts"])
    number = int(facts["frame_number"])
    with av.open(str(path)) as jpeg:
        picture = next(jpeg.decode(video=0))
    original = frames[number]
    assert (picture.width, picture.height) == (original.width, original.height)
    assert np.abs(luma(picture) - luma(original)).mean() < 6
    others = [np.abs(luma(picture) - luma(frames[n])).mean() for n in (number - 8, number + 8)]
    assert np.abs(luma(picture) - luma(original)).mean() < min(others)
    best = max(facts["boxes"], key=lambda box: box["score"])
    assert max(iou(np.array(best["xyxy"]), np.array(found)) for found in truth[number]) > 0.9
    x, y, width, height = facts["crop"]
    left, top, right, bottom = best["xyxy"]
    assert x <= left
    assert y <= top
    assert x + width >= right - 1
    assert y + height >= bottom - 1
    with av.open(str(path.with_name(row["crop"]))) as jpeg:
        crop = next(jpeg.decode(video=0))
    assert (crop.width, crop.height) == (width, height)
    return number


def _check_clip(path: Path, row: Any, camera: list[tuple[str, bool]], last: int) -> None:
    """Check that the clip has the camera's packets unchanged, from before the first to after the last detection."""
    found = packets_of(path)
    assert found[0][1], "the clip starts with a key frame"
    places = range(len(camera) - len(found) + 1)
    begin = next((n for n in places if camera[n : n + len(found)] == found), None)
    assert begin is not None, "the packets are the camera's, and none is missing"
    facts = json.loads(row["clip_facts"])
    assert not facts["encoded"]
    start = (row["started_unix_ns"] - facts["started_unix_ns"]) / 1e9
    assert BEFORE_S <= start <= BEFORE_S + GOP_S
    end = (facts["ended_unix_ns"] - row["ended_unix_ns"]) / 1e9
    if last + AFTER_S * FPS < len(camera):  # otherwise the footage ends earlier
        assert AFTER_S - GOP_S <= end <= AFTER_S
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        assert abs(float(stream.duration * stream.time_base) - len(found) / FPS) < 0.2
        assert sum(1 for _ in clip.decode(stream)) == len(found)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), (
        "a browser can start playing before the download is complete"
    )
