"""Run a recorder process, and simulate capture, detector and controller of one camera for it."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml

from support.rings import frame_stamp, result_stamp
from support.waiting import wait_for
from tridetr.capture.packets import describe
from tridetr.config import Config
from tridetr.recorder.archive import Archive
from tridetr.recorder.camera_recorder import CameraWatcher
from tridetr.served_model import ServedModelReader
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState, SentryWriter
from tridetr.shm.detections import DETECTION_DTYPE, DetectionWriter
from tridetr.shm.frames import ColorRange, FrameWriter
from tridetr.shm.names import unlink_instance
from tridetr.shm.packets import PacketStamp, PacketWriter

FPS = 10
SIZE = (320, 240)


def luma_of(number: int) -> int:
    """Return the grey of a frame, by which it is known again after any coding: 12 steps, 10 apart."""
    return 60 + number % 12 * 10


def coded(count: int, folder: Path) -> tuple[Any, list[bytes]]:
    """Return what describes a stream of frames, and its packets: one for each, every tenth a key frame."""
    path = folder / "stream.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(
            "libx264", rate=FPS, options={"g": "10", "bf": "0", "sc_threshold": "0"}
        )
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            grey = np.full((SIZE[1], SIZE[0], 3), luma_of(number), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode(None))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return describe(stream), [bytes(p) for p in container.demux(stream) if p.size]


class Stage:
    """Ten frames a second: a ring of frames, one of results, one of packets if wanted, and the controller's board.

    Attributes:
        sees: Width of the person's box in pixels; 0: no person.
        visit: Id on the board; empty: no visit.
        captured: Number and Unix time of each frame.
    """

    def __init__(self, instance: str, folder: Path, *, packets: bool, board: bool = True) -> None:
        width, height = SIZE
        self.sees = 0
        self.visit = ""
        self.captured: list[int] = []
        self._frames = FrameWriter(
            instance, "hall", width=width, height=height, slots=6, jpeg_capacity=0
        )
        self._results = DetectionWriter(instance, "hall")
        self._board = SentryWriter(instance, "hall") if board else None
        self._packets: PacketWriter | None = None
        if packets:
            info, self._coded = coded(600, folder)
            self._packets = PacketWriter(instance, "hall", seconds=10, max_mib=8)
            self._packets.start_stream(info)
            self._info = info
        self._last = 0, ""  # sequence and visit of the frame before
        self._ended = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        for ring in (self._frames, self._results, self._board, self._packets):
            if ring is not None:
                ring.close()

    def show(self, width: int, visit: str, seconds: float) -> None:
        """Let a person of this width be there, in this visit, for a while."""
        self.sees, self.visit = width, visit
        time.sleep(seconds)

    def _play(self) -> None:
        while not self._done.wait(1 / FPS):
            self._frame(len(self.captured))

    def _frame(self, number: int) -> None:
        now, unix = time.monotonic_ns(), time.time_ns()
        self.captured.append(unix)
        if self._packets is not None:
            units = round(number / FPS * self._info.time_base[1] / self._info.time_base[0])
            stamp = PacketStamp(now, unix, units, units, None, number % 10 == 0)
            self._packets.put(memoryview(self._coded[number]), stamp)
        slot = self._frames.begin()
        if slot is None:
            return
        slot.planes[:] = 128
        slot.y[:] = luma_of(number)
        times = {"capture_monotonic_ns": now, "capture_unix_ns": unix}
        sequence = self._frames.publish(
            slot, frame_stamp(number, color_range=ColorRange.FULL, **times)
        )
        found = np.zeros(1 if self.sees else 0, DETECTION_DTYPE)
        if self.sees:
            found[0] = (10, 20, 10 + self.sees, 220, 0.9, 1, 0)
        self._results.publish(
            result_stamp(number, frame_sequence=sequence, width=SIZE[0], height=SIZE[1], **times),
            found,
        )
        last, before = self._last
        visit = self.visit
        self._last = sequence, visit
        if before not in ("", visit):
            self._ended = last
        if self._board is not None:
            state = SentryState.TRACKING if visit else SentryState.STANDBY
            self._board.write(
                SentrySnapshot(
                    SentryMode.ALARMED if visit else SentryMode.STANDBY,
                    state,
                    unix,
                    visit,
                    now + 5_000_000_000,
                    decided_frame_sequence=sequence,
                    ended_frame_sequence=self._ended,
                    visit_class="person" if visit else "",
                )
            )


def _camera_watcher(instance: str, folder: Path, stack: contextlib.ExitStack) -> CameraWatcher:
    """Return the part of a recorder that follows the camera ``cam``; the stack closes it."""
    config = Config.model_validate(
        {
            "instance": instance,
            "cameras": {"cam": {"source": "synthetic"}},
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
            "evidence": {"before_s": 2, "after_s": 1},
        }
    )
    archive = Archive(folder / "evidence", keep_days=1, max_mib=64)
    stack.callback(archive.close)
    models = ServedModelReader(config.run_dir)
    return stack.enter_context(CameraWatcher(config, "cam", models, archive))


class WatchedCamera:
    """The rings and the board of the camera ``cam``, without packets, and the part of a recorder that follows it.

    Args:
        slots: of the frame ring.
    """

    def __init__(
        self, instance: str, folder: Path, stack: contextlib.ExitStack, slots: int
    ) -> None:
        self.watcher = _camera_watcher(instance, folder, stack)
        self.frames = stack.enter_context(
            FrameWriter(instance, "cam", width=64, height=48, slots=slots, jpeg_capacity=0)
        )
        self.results = stack.enter_context(DetectionWriter(instance, "cam"))
        self.board = stack.enter_context(SentryWriter(instance, "cam"))
        self.number = 0


class Recorder:
    """``tridetr record`` as a process."""

    def __init__(self, instance: str, folder: Path, **evidence: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.evidence = Path(evidence.get("path", folder / "state" / "evidence"))
        self._file = folder / "node.yaml"
        self._log = folder / "recorder.log"
        self._file.write_text(
            yaml.safe_dump(
                {
                    "instance": instance,
                    "cameras": {"hall": {"source": "synthetic"}},
                    "run_dir": str(folder / "run"),
                    "state_dir": str(folder / "state"),
                    "evidence": {"before_s": 1, "after_s": 1, **evidence},
                }
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tridetr", "record", "--config", str(self._file)],
                stdout=log,
                stderr=log,
            )

    def start(self) -> None:
        """Start it, and wait until it records."""
        before = self.log().count("saving pictures and clips of visits")
        self.launch()
        wait_for(
            lambda: self.log().count("saving pictures and clips of visits") > before,
            30,
            "the recorder does not start",
        )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(30) == 0, self.log()

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @staticmethod
    def _read(file: Path) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM visit ORDER BY seq")]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows, after checking that each has its files."""
        file = self.evidence / "evidence.db"
        if not file.exists():
            return []
        found = self._read(file)
        for row in found:
            for kind in ("picture", "crop", "clip"):
                is_whole = row[kind] is None or (self.evidence / "files" / row[kind]).exists()
                assert is_whole or row not in self._read(file), row  # removed or replaced meanwhile
        return found

    def closed(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many visits are over, and return the rows."""

        def over() -> list[dict[str, Any]]:
            rows = self.rows()
            return rows if len(rows) == count and not any(r["is_open"] for r in rows) else []

        return wait_for(over, 60, f"not {count} visits that are over: {self.rows()}\n{self.log()}")


@contextlib.contextmanager
def recording(
    folder: Path, *, packets: bool = True, **evidence: Any
) -> Iterator[tuple[Recorder, Stage]]:
    """Run a recorder with a stage; at the end process, segments and queues are gone."""
    instance = "r" + uuid.uuid4().hex[:10]
    recorder = Recorder(instance, folder, **evidence)
    stage = Stage(instance, folder, packets=packets)
    try:
        recorder.start()
        yield recorder, stage
    finally:
        if recorder.process is not None and recorder.process.poll() is None:
            recorder.kill()
        stage.close()
        unlink_instance(instance, ["hall"])
