"""Token-bucket rate limits. Pure: the caller passes the time."""

from __future__ import annotations

from collections import OrderedDict


class Bucket:
    """A token bucket that gains ``rate`` tokens per second, up to ``burst``.

    Example:
        >>> bucket = Bucket(rate=1, burst=2)
        >>> [bucket.take(0.0), bucket.take(0.0), bucket.take(0.0), bucket.take(1.0)]
        [True, True, False, True]
    """

    __slots__ = ("_burst", "_rate", "_then", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._then: float | None = None

    def take(self, now: float) -> bool:
        """Take one token at monotonic time ``now`` (seconds); return whether there was one."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def spend(self, now: float, tokens: float) -> float:
        """Take tokens, possibly in advance; return the seconds until the bucket is out of debt."""
        self._refill(now)
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._rate)

    def is_empty(self, now: float) -> bool:
        """Whether the next ``take`` would fail."""
        self._refill(now)
        return self._tokens < 1

    def wait_s(self) -> float:
        """Seconds until the next token."""
        return max(0.0, (1 - self._tokens) / self._rate)

    def _refill(self, now: float) -> None:
        if self._then is not None:
            grown = self._tokens + max(0.0, now - self._then) * self._rate
            self._tokens = min(self._burst, grown)
        self._then = now


class PeerBuckets:
    """One bucket per peer; beyond ``max_peers``, the least recently used one is dropped."""

    def __init__(self, rate: float, burst: float, max_peers: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._max_peers = max_peers
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, peer: str) -> Bucket:
        """Return the bucket of a peer."""
        bucket = self._buckets.get(peer)
        if bucket is None:
            bucket = self._buckets[peer] = Bucket(self._rate, self._burst)
            if len(self._buckets) > self._max_peers:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(peer)
        return bucket

    def __len__(self) -> int:
        return len(self._buckets)
