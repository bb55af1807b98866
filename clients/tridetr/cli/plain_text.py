"""Text from elsewhere for the terminal."""

from __future__ import annotations

from rich.text import Text

from tridetr.foreign_text import printable


def plain(value: object) -> Text:
    r"""Return a value's text for a table, without markup and without codes that control the terminal.

    >>> plain("[/red]\x1b[2J").plain
    '[/red]?[2J'
    """
    return Text(printable(str(value)))
