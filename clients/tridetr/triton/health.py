"""Health of the server: it counts as healthy only after a recent successful inference.

Triton's own health check still succeeds after the process of its Python backend has died. So the watcher reads the
model's counters. If they show no success for a while, or only failures, it runs a small inference of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

PROBE_AFTER_S = 5.0


@dataclass(slots=True)
class Health:
    """Decides from counters and times that the caller passes in; has no clock and does no I/O.

    Attributes:
        last_success_s: monotonic time of the last inference known to have succeeded.
    """

    last_success_s: float
    _successes: int = 0
    _failures: int = 0

    def needs_probe(self, successes: int, failures: int, now_s: float) -> bool:
        """Process the model's current counters and return whether the watcher must run an inference of its own.

        Args:
            successes: successful inferences since the server's start.
            failures: failed inferences since the server's start.
            now_s: monotonic time in seconds.

        Returns:
            True if there were failures but no success since the last call (only an inference of our own can
            distinguish a client's bad request from a broken model), or no success for PROBE_AFTER_S.
        """
        succeeded, failed = successes > self._successes, failures > self._failures
        self._successes, self._failures = successes, failures
        if succeeded:
            self.last_success_s = now_s
            return False
        return failed or now_s - self.last_success_s >= PROBE_AFTER_S

    def probed(self, now_s: float) -> None:
        """Record that our own inference succeeded."""
        self.last_success_s = now_s
