"""Camera JPEGs for browsers: check what they claim to be (pure)."""

from __future__ import annotations

from tridetr.jpeg import complete, read_info


def for_browser(data: bytes, width: int, height: int) -> bytes | None:
    """Return the camera's JPEG such that any browser shows it, or None when it cannot be trusted.

    Args:
        data: the JPEG as the camera sent it.
        width: of the frame, in pixels; the JPEG may be one pixel larger (odd sizes are cropped).
        height: likewise.
    """
    info = read_info(data)
    if info is None or not (0 <= info.width - width <= 1 and 0 <= info.height - height <= 1):
        return None
    return bytes(complete(data, info))
