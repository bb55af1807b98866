"""Save a picture and a clip in a recorder's archive, and be killed at the first step, the second, and so on.

python archive_process.py FOLDER     # creates FOLDER/1, FOLDER/2, ...
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tridetr.recorder import archive
from tridetr.recorder.archive import Archive, VisitFacts

OLD = VisitFacts("00000000-0000-4000-8000-000000000001", "hall", "person", 1_000, 2_000)
VISIT = VisitFacts("00000000-0000-4000-8000-000000000002", "hall", "person", 2_000, 3_000)


class Countdown:
    """Kills this process before and after the calls that change the disk."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self()
            result = work(*args, **options)
            self()
            return result

        return counted


class CountedConnection(sqlite3.Connection):
    countdown: Countdown

    def execute(self, *args: Any) -> sqlite3.Cursor:
        self.countdown()
        cursor = super().execute(*args)
        self.countdown()
        return cursor


def main(folder: Path) -> None:
    step = 0
    while True:
        step += 1
        child = os.fork()
        if child == 0:
            prepare(folder / str(step))
            keep(folder / str(step), step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        assert os.WIFSIGNALED(status), status


def prepare(folder: Path) -> None:
    """Save a visit that exists before the process is killed."""
    with Archive(folder, keep_days=36_500, max_mib=64) as kept:
        kept.save_picture(OLD, (b"whole", b"crop"), 0.5, {"value": 1.0})
        kept.follow(OLD)


def keep(folder: Path, step: int) -> None:
    """Save a visit with two pictures and a clip, then remove the oldest visit; die at the given step."""
    countdown = Countdown(step)
    CountedConnection.countdown = countdown
    connect = sqlite3.connect
    archive.sqlite3.connect = lambda *args, **options: connect(  # type: ignore[attr-defined]
        *args, factory=CountedConnection, **options
    )
    with Archive(folder, keep_days=36_500, max_mib=64) as kept:
        os.fsync = countdown.around(os.fsync)
        for name in ("rename", "unlink", "write_bytes"):
            setattr(Path, name, countdown.around(getattr(Path, name)))
        for number in (1, 2):  # the second one replaces the first
            kept.save_picture(VISIT, (b"whole" * number, b"crop"), 0.5, {"value": float(number)})
        part = kept.part(f"{VISIT.visit_id}-18f.mp4")
        part.write_bytes(b"clip" * 1000)
        kept.save_clip(VISIT, part, {})
        kept.follow(VISIT)
        kept._retention.max_bytes = 100
        kept.retain()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
