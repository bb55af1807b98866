"""Find RTP packets that the network has delivered twice, as bonded links and mirrored ports do.

FFmpeg appends the payload of a repeated packet a second time. The decoder of H.265 makes a wrecked picture of it,
without an error. Compressed video never repeats hundreds of bytes by chance.
"""

from __future__ import annotations

_STEP = 128  # bytes between two samples: each packet that is looked for holds one
_SAMPLE = 24
_SHORTEST, _LONGEST = 200, 1600  # payload of a packet; the longest includes start code and header
_TOLERANCE = 16  # bytes next to the payload that are alike by chance, or start code and header


def has_duplicate(data: bytes) -> bool:
    """Return whether a part of a picture is followed by a copy of itself.

    Args:
        data: Compressed picture, assembled from RTP packets.

    >>> import random
    >>> parts = [random.Random(n).randbytes(1400) for n in range(3)]
    >>> has_duplicate(b"".join(parts)), has_duplicate(b"".join([parts[0], *parts]))
    (False, True)
    """
    for start in range(0, len(data) - _SAMPLE, _STEP):
        sample = data[start : start + _SAMPLE]
        distance = data.find(sample, start + 1, start + _LONGEST + _SAMPLE) - start
        # Where the picture itself is periodic, the copies are not as long as they are apart
        if distance >= _SHORTEST and abs(_copied(data, start, distance) - distance) <= _TOLERANCE:
            return True
    return False


def _copied(data: bytes, start: int, distance: int) -> int:
    """Return how many bytes around an index equal those at a distance after them."""
    first, end = start, start + _SAMPLE
    while first > 0 and data[first - 1] == data[first - 1 + distance]:
        first -= 1
    while end + distance < len(data) and data[end] == data[end + distance]:
        end += 1
    return end - first
