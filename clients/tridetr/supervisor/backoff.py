"""How long to wait before a dead process is started again."""

from __future__ import annotations

FIRST_S = 0.1
LONGEST_S = 5.0
STEADY_S = 20.0  # a process that lived this long is forgiven its past


class RestartBackoff:
    """Doubling waits: a single crash costs a tenth of a second, a crash loop never spins."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def delay_s(self, lived_s: float) -> float:
        """Return the seconds to wait after a process that lived ``lived_s``."""
        if lived_s >= STEADY_S:
            self._next_s = FIRST_S
        delay, self._next_s = self._next_s, min(self._next_s * 2, LONGEST_S)
        return delay
