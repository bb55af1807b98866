"""When the server counts as healthy: after a successful inference lately, nothing less.

Triton's own health stays true when the Python backend's process is gone. So the watcher reads the model's counters,
and where they tell of no success for a while, or of failures alone, it asks for one tiny inference itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PROBE_AFTER_S = 5.0


class Next(Enum):
    """What the watcher should do."""

    WAIT = "wait"
    PROBE = "probe"


@dataclass(slots=True)
class Health:
    """Judges by counters and times that it is told; has no clock and does no I/O.

    Attributes:
        last_success_s: monotonic time of the last inference known to have succeeded.
    """

    last_success_s: float
    _successes: int = 0
    _failures: int = 0

    def observe(self, successes: int, failures: int, now_s: float) -> Next:
        """Take the model's counters as of now.

        Args:
            successes: inferences that succeeded since the server's start.
            failures: inferences that failed.
            now_s: monotonic time.

        Returns:
            PROBE where there were failures and no success since the last look (a client's bad request, or a broken
            model: only an inference of our own tells), or no success for PROBE_AFTER_S.
        """
        succeeded, failed = successes > self._successes, failures > self._failures
        self._successes, self._failures = successes, failures
        if succeeded:
            self.last_success_s = now_s
            return Next.WAIT
        if failed or now_s - self.last_success_s >= PROBE_AFTER_S:
            return Next.PROBE
        return Next.WAIT

    def probed(self, now_s: float) -> None:
        """Note that our own inference succeeded."""
        self.last_success_s = now_s
