"""Judge whether results come often enough to confirm a person in time. Pure: all times are arguments."""

from __future__ import annotations

from tridetr.config import SentrySection
from tridetr.controller.problems import TOO_SLOW
from tridetr.mean_interval import MeanInterval


class ResultRate:
    """Averages the time between one camera's results, if the detector passed over pictures in between.

    A person is confirmed after ``confirm_frames`` results. That takes too long if it takes longer than ``confirm_s``
    and ``unknown_s`` together, unless the camera's own frame rate is that low.

    Args:
        keys: The camera's `sentry` section.

    Example:
        >>> rate = ResultRate(SentrySection())
        >>> for n in range(20):
        ...     rate.look(sequence=10 * n, capture_ns=3_000_000_000 * n)
        >>> bool(rate.problem)
        True
    """

    def __init__(self, keys: SentrySection) -> None:
        self._mean = MeanInterval(keys.longest_interval_s)
        self._unknown_s = keys.unknown_s
        self._sequence = self._capture_ns = 0

    def look(self, sequence: int, capture_ns: int) -> None:
        """Note a result: the sequence and capture time of its picture."""
        skipped = sequence > self._sequence + 1
        gap_s = (capture_ns - self._capture_ns) / 1e9
        is_first = self._sequence == 0 or sequence <= self._sequence
        self._sequence, self._capture_ns = sequence, capture_ns
        if is_first or not 0 < gap_s <= self._unknown_s:  # a longer gap is a problem of its own
            return
        self._mean.add(gap_s, counts=skipped)

    @property
    def problem(self) -> str:
        """Why a person can be missed; empty = results come often enough."""
        return TOO_SLOW if self._mean.is_long else ""
