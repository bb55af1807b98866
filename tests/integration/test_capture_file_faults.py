"""Files as cameras that are damaged, missing or slow to read, and rings without room for their frames."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from support.capture_rig import capturing, play_through
from support.clips import jpegs, write_clip, write_mjpeg
from support.waiting import slack, wait_for
from tridetr.capture import publisher
from tridetr.errors import ShmError
from tridetr.shm.boards import CameraState
from tridetr.shm.frames import FrameReader
from tridetr.telemetry import heartbeat


def test_garbage_packets_are_skipped_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    packets = jpegs(30)
    noise = rng.integers(0, 256, 3000, dtype=np.uint8).tobytes()
    damaged = {3: noise, 9: packets[9][: len(packets[9]) // 2], 15: b"\xff\xd8" + bytes(50)}
    for index, data in damaged.items():
        packets[index] = data
    rig = play_through(tmp_path, write_mjpeg(tmp_path / "bad.avi", packets))
    numbers = [frame.stamp.frame_number for frame in rig.frames]
    assert numbers == [n for n in range(30) if n not in damaged]
    assert rig.skipped("corrupt") == 3


def test_damaged_h264_continues_after_the_damage(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", 90, options={"g": "15", "bf": "0"})
    data = bytearray(clip.read_bytes())
    rng = np.random.default_rng(1)
    third = len(data) // 3
    for at in rng.integers(third, 2 * third, third // 30):
        data[at] ^= 0xA5
    clip.write_bytes(data)
    rig = play_through(tmp_path, clip)
    assert rig.skipped("corrupt") > 0
    assert len(rig.frames) > 20


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.mp4", None, "No such file"),
        ("empty.mp4", b"", "damaged"),
        ("text.mp4", b"this is no video\n" * 500, "no video"),
        ("text.txt", b"this is no video\n" * 500, "no video"),
        ("noise.mp4", np.random.default_rng(0).bytes(50_000), ""),
        ("folder", "folder", "not a folder"),
        ("sound.wav", "sound", "no video in it"),
        ("no_index.mp4", "no_index", "damaged"),
    ],
)
def test_bad_files_are_offline_with_the_reason(
    tmp_path: Path, name: str, content: bytes | str | None, expected: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "sound":
        header = b"RIFF\x24\x10\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\x10\0\0"
        path.write_bytes(header + bytes(4096))
    elif content == "no_index":
        whole = write_clip(tmp_path / "whole.mp4", 30).read_bytes()
        path.write_bytes(whole[: whole.index(b"moov")])  # a recorder that lost power
    with capturing(tmp_path, path) as rig:
        status = rig.wait_state(CameraState.OFFLINE)
        assert expected in status.message
        wait_for(lambda: (rig.status() or status).reconnects >= 2, 30, "it is tried again")
        assert not rig.frames


def test_truncated_file_is_played_up_to_its_end(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mkv", 60).read_bytes()
    clip = tmp_path / "cut.mkv"
    clip.write_bytes(whole[: len(whole) * 2 // 3])
    assert 20 <= len(play_through(tmp_path, clip).frames) < 60


def test_a_file_that_appears_later_is_found(tmp_path: Path) -> None:
    path = tmp_path / "later.mp4"
    with capturing(tmp_path, path) as rig:
        rig.wait_state(CameraState.OFFLINE)
        write_clip(path, 30)
        rig.wait_state(CameraState.LIVE)
        rig.wait_frames(5)


def test_full_ring_is_a_counted_skip(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 60)
    with capturing(tmp_path, clip, slots=4) as rig:
        with FrameReader(rig.config.instance, rig.camera, "gateway") as reader:
            leases: list[object] = []
            last = 0

            def all_taken() -> bool:
                nonlocal last
                lease = reader.lease_newest(last)
                if lease is not None:
                    last = lease.sequence
                    leases.append(lease)
                return rig.skipped("ring_full") > 3

            wait_for(all_taken, 30, "skips while all slots are leased")
        rig.wait_frames(5)  # the reader has released its leases


class TestFifo:
    """Represents all files whose reads may block, such as those on a stalled network share."""

    def test_without_a_writer_capture_is_offline_and_alive(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        beats: list[float] = []
        monkeypatch.setattr(heartbeat, "beat", lambda: beats.append(time.monotonic()))
        fifo, clip = tmp_path / "fifo.ts", write_clip(tmp_path / "clip.ts", 60)
        os.mkfifo(fifo)
        before = set(threading.enumerate())
        with capturing(tmp_path, fifo, timeout_s=1) as rig:
            assert "FIFO without a writer" in rig.wait_state(CameraState.OFFLINE).message
            wait_for(lambda: (status := rig.status()) and status.reconnects >= 2, 30)
            assert max(np.diff(beats)) < 2.0, "no heartbeat: the supervisor would kill it"
            started = set(threading.enumerate()) - before
            assert len([t for t in started if t.name == "blocking-calls"]) == 1
            data = clip.read_bytes()
            with fifo.open("wb") as writer:
                writer.write(data[: len(data) // 2])
                writer.flush()
                rig.wait_frames(5)
                # A writer that pauses: offline, but the file is not reopened
                stalled = rig.wait_state(CameraState.OFFLINE)
                assert "no answer" in stalled.message
                writer.write(data[len(data) // 2 :])
                writer.flush()
                rig.wait_frames(5)
                assert rig.wait_state(CameraState.LIVE).reconnects == stalled.reconnects

    def test_does_not_delay_shutdown(self, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        with capturing(tmp_path, fifo, timeout_s=60) as rig:
            wait_for(lambda: (status := rig.status()) and status.state is CameraState.STARTING)
            rig.finish(within_s=slack(2.0))
        writer = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)  # releases the thread
        os.close(writer)


def test_status_reports_no_space_for_the_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise ShmError("/dev/shm is full")

    monkeypatch.setattr(publisher, "FrameWriter", full)
    clip = write_clip(tmp_path / "clip.mp4", 5)
    with capturing(tmp_path, clip) as rig:
        assert rig.wait_state(CameraState.OFFLINE).message == "/dev/shm is full"
        wait_for(lambda: not rig.running, 20, "the process ends, to be started again")
        assert isinstance(rig.errors.pop(), ShmError)
