"""A table of figures: its numbers as text, as Markdown, and its place in a document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
Cell = str | float | None


@dataclass(frozen=True)
class Table:
    """Attributes: name: as the documentation asks for it; bar: the column that is drawn, if any."""

    name: str
    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    bar: int | None = None


def number(value: Cell) -> str:
    """Return a number as text with three significant digits, which is more than such measurements have.

    >>> [number(v) for v in (0.1234, 12.345, 1234.5, None, "x")]
    ['0.123', '12.3', '1234', '–', 'x']
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def with_least(figures: dict[str, float]) -> str:
    """Return the median and, in parentheses, the minimum as text."""
    return f"{number(figures['p50'])} ({number(figures['min'])})"


def markdown(table: Table) -> str:
    """Return a table as Markdown."""
    lines = [table.head, ("---",) * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(number(cell) for cell in line) + " |" for line in lines)


def update(text: str, tables: list[Table]) -> tuple[str, list[str]]:
    """Insert tables into a document; return it and the names of missing tables."""
    known = {table.name: markdown(table) for table in tables}
    missing = []

    def replaced(match: re.Match[str]) -> str:
        if match["name"] not in known:
            missing.append(match["name"])
            return match[0]
        return f"{match['begin']}\n{known[match['name']]}\n<!-- /figures -->"

    pattern = r"(?P<begin><!-- figures: (?P<name>[^>]+?) -->)\n.*?<!-- /figures -->"
    return re.sub(pattern, replaced, text, flags=re.DOTALL), missing
