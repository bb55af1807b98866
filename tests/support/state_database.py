"""Rows for the controller's state database, and ways to damage its file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

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
