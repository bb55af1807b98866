"""Distinguish a camera that is seen only at times from one that was lost once. Pure: all times are arguments.

Each interruption alone is short, so a problem that ends with it would flicker, and would never last long enough to
trigger an alert or an automation.
"""

from __future__ import annotations

from tridetr.controller.problems import CameraProblem

CALM_S = 60.0  # sight without an interruption, after which the earlier ones no longer count
_MANY = 3


class Interruptions:
    """Counts how often sight of one camera was lost, with less than ``CALM_S`` of sight in between."""

    def __init__(self) -> None:
        self._count = 0
        self._kind, self._why = CameraProblem.CAMERA, ""
        self._seen_from_s: float | None = None

    def lost(self, kind: CameraProblem, why: str, now_s: float) -> None:
        """Count an interruption.

        Args:
            kind: kind of the problem that causes it.
            why: message of that problem.
            now_s: monotonic time.
        """
        if self._is_calm(now_s):
            self._count = 0
        self._count += 1
        self._kind, self._why, self._seen_from_s = kind, why, None

    def regained(self, now_s: float) -> None:
        """Start to measure sight without an interruption."""
        self._seen_from_s = now_s

    def problem(self, now_s: float) -> tuple[CameraProblem, str] | None:
        """Return the kind and message of the newest interruption if there were many; None if not."""
        if self._count < _MANY or self._is_calm(now_s):
            return None
        return self._kind, f"interrupted repeatedly, last by: {self._why}"

    def _is_calm(self, now_s: float) -> bool:
        return self._seen_from_s is not None and now_s - self._seen_from_s >= CALM_S
