"""Limit the video packets on the way to one viewer to what its connection carries in less than a second. Pure."""

from __future__ import annotations

from collections import deque

_GOAL_S = 0.7  # time that packets should take to the viewer and back as an acknowledgement
_LATE_S = 1.0  # a viewer that takes longer is sent nothing more until everything is acknowledged
_FIRST_BYTES = 256 * 1024  # allowed until acknowledgements show what the connection carries
_LEAST_BYTES = 32 * 1024  # always allowed
_DECAY = 0.98  # of the limit, per acknowledgement


class Flight:
    """The video packets that were sent to a viewer and are not acknowledged yet.

    Proxies and operating systems take megabytes that the link has not carried yet, so only acknowledgements show what
    it carries. The caller passes the time, in seconds.

    Example:
        >>> flight = Flight()
        >>> flight.add(400_000, now=0.0)
        >>> flight.may_add(now=0.1)
        False
        >>> flight.acknowledge(1, now=0.2)
        >>> flight.may_add(now=0.2)
        True
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, int, int]] = deque()  # time, bytes, bytes in flight then
        self._sent = 0  # packets
        self._bytes = 0
        self._limit = float(_FIRST_BYTES)
        self._is_late = False

    def __len__(self) -> int:
        """Return the number of packets in flight."""
        return len(self._waiting)

    def may_add(self, now: float) -> bool:
        """Return whether another packet may be sent; with nothing in flight, one of any size may."""
        if not self._waiting:
            self._is_late = False
            return True
        self._is_late = self._is_late or now - self._waiting[0][0] > _LATE_S
        return not self._is_late and self._bytes < self._limit

    def add(self, size: int, now: float) -> None:
        """Note that a packet was sent."""
        self._sent += 1
        self._bytes += size
        self._waiting.append((now, size, self._bytes))

    def acknowledge(self, packets: int, now: float) -> None:
        """Note that the viewer has this many of all packets, and adapt to how long they took."""
        newest = None
        while self._waiting and self._sent - len(self._waiting) < packets:
            newest = self._waiting.popleft()
            self._bytes -= newest[1]
        if newest is None:
            return
        took_s, carried = max(0.001, now - newest[0]), newest[2]
        fits = carried * min(2.0, _GOAL_S / took_s)
        if took_s > _GOAL_S:
            self._limit = max(_LEAST_BYTES, fits)
        else:
            # A limit far above what is used would fill buffers if the link became slower.
            self._limit = max(_LEAST_BYTES, fits, self._limit * _DECAY)
