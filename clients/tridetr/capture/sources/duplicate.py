"""Find RTP packets that the network has delivered more than once, as bonded links and mirrored ports do.

FFmpeg appends the payload of a repeated packet again. The decoder of H.265 makes a wrecked picture of it, without an
error. Compressed video never repeats hundreds of bytes by chance.
"""

from __future__ import annotations

_STEP = 128  # bytes between two samples: each packet that is looked for holds one
_SAMPLE = 24
_SHORTEST, _LONGEST = 200, 1600  # payload of a packet; the longest includes start code and header
_MOST_COPIES = 8
LONGEST_COPIES = _MOST_COPIES * _LONGEST  # bytes
_TOLERANCE = 16  # bytes next to the payload that are alike by chance, or start code and header


def has_duplicate(data: bytes) -> bool:
    """Return whether a part of a picture is followed by a copy of itself, or several.

    Args:
        data: Compressed picture, assembled from RTP packets of at most 1600 bytes.

    >>> import random
    >>> parts = [random.Random(n).randbytes(1400) for n in range(3)]
    >>> has_duplicate(b"".join(parts)), has_duplicate(b"".join([parts[0], *parts]))
    (False, True)
    """
    start = 0
    while start < len(data) - _SAMPLE:
        sample = data[start : start + _SAMPLE]
        distance = data.find(sample, start + 1, start + _LONGEST + _SAMPLE) - start
        if distance < _SHORTEST:
            start += _STEP
            continue
        first, end = _copied(data, start, distance)
        # Where the picture itself is periodic, what returns is not as long as a number of packets
        copies = max(1, round((end - first) / distance))
        if copies <= _MOST_COPIES and abs(end - first - copies * distance) <= _TOLERANCE:
            return True
        start = max(start + _STEP, end)
    return False


def _copied(data: bytes, start: int, distance: int) -> tuple[int, int]:
    """Return the bytes around an index that equal those at a distance after them: first, end; a long range is cut."""
    first, end = start, start + _SAMPLE
    longest = (_MOST_COPIES + 1) * distance
    while first > 0 and end - first < longest and data[first - 1] == data[first - 1 + distance]:
        first -= 1
    while (
        end + distance < len(data) and end - first < longest and data[end] == data[end + distance]
    ):
        end += 1
    return first, end
