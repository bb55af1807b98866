"""Text from cameras, servers and other programs, for messages and the terminal."""

from __future__ import annotations


def printable(text: str, limit: int | None = None) -> str:
    r"""Return a text without control characters and line breaks, truncated to a number of characters.

    >>> printable("text/\x1b[2Jplain", 12)
    'text/?[2Jpl…'
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    return "".join(char if char.isprintable() else "?" for char in text)


def is_unicode(text: str) -> bool:
    r"""Return whether a text can be encoded as UTF-8: JSON can contain halves of characters.

    >>> is_unicode("caf\u00e9"), is_unicode("\ud800")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
