"""Rows for the controller's state database, ways to damage its file, and the end of its process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tridetr.controller.state_files import close_files
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import NewRow


def event_row(number: int, details: str = "{}") -> NewRow:
    """Return the row of an arrival, for a store that runs without a controller."""
    return NewRow(number, "person_arrived", details, f"visit{number}:arrived")


def run_sql(statement: str) -> Callable[[Path], None]:
    """Return a function that executes SQL in the database at a path."""

    def damage(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.executescript(statement)
        connection.close()

    return damage


def let_go(store: Store) -> None:
    """Release what a store holds as the kernel does when its process dies: nothing is saved."""
    store._disk.submit(partial(close_files, store._database, store._lock))
    store._disk.close()
    join(store)


def join(store: Store) -> None:
    """Wait until the disk thread of a closed store has ended."""
    store._disk._thread.join(60)
    assert not store._disk._thread.is_alive()
