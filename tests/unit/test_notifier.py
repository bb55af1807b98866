"""Targets that hang, without an error to show."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from tridetr.config import NotifySection
from tridetr.controller import notifier
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import NewRow
from tridetr.notify.notification import Message, example_message


async def test_a_delivery_that_hangs_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver or a library that never returns leaves no error: nothing was shown."""
    released = threading.Event()
    monkeypatch.setattr(notifier, "deliver", lambda *_: released.wait(30))
    section = NotifySection(name="hook", kind="webhook", url_file=tmp_path / "url")
    message: Message = example_message("node", "hall", None, None)
    store = Store(tmp_path, outbox_limit=100)
    store.audience = lambda _row: ("hook",)
    target = notifier.Notifier((section,), store, lambda *_: message)
    try:
        store.commit("hall", "{}", [NewRow(time.time_ns(), "person_arrived", "{}", "v:arrived")])
        target.pump()
        assert target.problem(60) == ""
        assert target.problem(0) == "hook: it does not keep up"
        released.set()
        for _ in range(500):
            if not target.problem(0):
                break
            await asyncio.sleep(0.01)
        assert target.problem(0) == ""
    finally:
        released.set()
        store.close()
