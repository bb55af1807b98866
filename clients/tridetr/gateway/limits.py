"""Rate limits (pure: the caller tells the time)."""

from __future__ import annotations

from collections import OrderedDict


class Bucket:
    """A token bucket: ``rate`` tokens a second, at most ``burst`` of them saved up."""

    __slots__ = ("_burst", "_rate", "_then", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._then: float | None = None

    def take(self, now: float) -> bool:
        """Take one token; False where there is none. ``now`` is in seconds of a monotonic clock."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def spend(self, now: float, tokens: float) -> float:
        """Take tokens, also those that are still to come; return the seconds until they have."""
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
    """A bucket for each peer address; the peers that were longest silent are forgotten at the limit."""

    def __init__(self, rate: float, burst: float, max_peers: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._max_peers = max_peers
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, peer: str) -> Bucket:
        """Return the bucket of this peer."""
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
