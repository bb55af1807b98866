"""A disk that hangs under the pictures and clips: alarms go out without a picture, and the viewer goes on."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from tridetr.config import Config
from tridetr.controller import pictures
from tridetr.gateway import disk_reader

CONFIG = {"cameras": {"hall": {"source": "synthetic"}}, "evidence": {}}


def test_notifications_do_not_wait_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of a dead network share never returns, and no signal ends it."""
    released = threading.Event()
    reads: list[None] = []

    def hang(*_: object) -> tuple[str, bytes]:
        reads.append(None)
        assert released.wait(30)
        return "name", b"jpeg"

    monkeypatch.setattr(pictures, "newest_picture", hang)
    monkeypatch.setattr(pictures, "PATIENCE_S", 0.05)
    monkeypatch.setattr(pictures, "_READ_S", 0.05)
    waiting = pictures.PictureWait(Config.model_validate({**CONFIG, "state_dir": tmp_path}))
    try:
        assert waiting.read("visit", time.time_ns()) is None
        assert waiting.read("visit", time.time_ns()) is None
        assert len(reads) == 1, "hung threads accumulate"
    finally:
        released.set()
    for thread in threading.enumerate():
        if thread.name == "picture":
            thread.join(30)
    assert waiting.read("visit", time.time_ns()) == b"jpeg"


async def test_gateway_answers_while_the_disk_of_the_visits_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    monkeypatch.setattr(disk_reader, "PATIENCE_S", 0.05)
    reader = disk_reader.DiskReader("evidence.path")
    try:
        for _ in range(40):  # more than there are threads in any pool
            with pytest.raises(sqlite3.Error, match="does not answer"):
                await reader.read(released.wait, 30)
        assert await asyncio.wait_for(asyncio.to_thread(int, "1"), 30) == 1
    finally:
        released.set()
    assert await reader.read(int, "1") == 1
