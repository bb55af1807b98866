"""Apply results and silence to one camera's record, by the age of what was seen. Pure: all times are arguments.

Silence is measured from the capture time of the newest frame that was decided on. A result that is older than
``unknown_s``, or from a camera that is down, changes nothing: it cannot end Unknown. A result that waited (the
controller was not running) counts at its capture time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tridetr.controller.state_machine import Keys, Result, Silence
from tridetr.controller.visits import Record, VisitEvent, decide


class Sight(Protocol):
    """The capture state that a decision depends on."""

    @property
    def capture_alive(self) -> bool: ...
    def is_down(self, silent_s: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the record, and the event that it causes (None = no event)."""

    before: Record
    after: Record
    event: VisitEvent | None


class Decider:
    """Holds a camera's record and the time up to which its view was seen.

    Attributes:
        record: the current record.
        seen_ns: monotonic time up to which the view was seen; None = never.
    """

    def __init__(
        self,
        keys: Keys,
        record: Record,
        seen_ns: int | None,
        new_visit_id: Callable[[], str],
        patience_s: float = 0.0,
    ) -> None:
        """Continue from a saved record.

        Args:
            keys: thresholds.
            record: the saved record.
            seen_ns: monotonic time up to which the view was seen; None = never.
            new_visit_id: returns the ID for a new visit.
            patience_s: seconds of silence that are normal while capture is alive, because its source waits for
                each decision.
        """
        self.record = record
        self.seen_ns = seen_ns
        self._keys = keys
        self._new_visit_id = new_visit_id
        self._patience_s = patience_s

    def silent_s(self, now_ns: int) -> float:
        """Return the seconds since the view was last seen; infinity if never."""
        return math.inf if self.seen_ns is None else max(0.0, (now_ns - self.seen_ns) / 1e9)

    def age(self, suspended_ns: int) -> None:
        """Count what was seen as older, by a time for which the monotonic clock stood still."""
        if self.seen_ns is not None:
            self.seen_ns -= suspended_ns

    def wait(self, sight: Sight, now_ns: int, now_unix_ns: int) -> list[Change]:
        """Apply the silence up to now and return the resulting changes."""
        silent_s = self._effective_s(sight, now_ns)
        return self._apply_silence(Silence(silent_s, sight.is_down(silent_s)), now_unix_ns)

    def look(
        self,
        seen: Result,
        classes: Sequence[str],
        sight: Sight,
        *,
        seen_ns: int,
        now_ns: int,
        capture_unix_ns: int,
    ) -> list[Change]:
        """Apply a result and return the resulting changes.

        Args:
            seen: whether an alarm class is in the frame, and the frame's own time.
            classes: alarm classes in the frame, best score first.
            sight: the camera's capture state.
            seen_ns: monotonic capture time (for a recording: the current time).
            now_ns: monotonic time.
            capture_unix_ns: wall-clock capture time.
        """
        seen_ns = min(seen_ns, now_ns)
        age_s = (now_ns - seen_ns) / 1e9
        if age_s >= self._keys.unknown_s or sight.is_down(age_s):
            return []
        changes = self._apply_silence(Silence(self._effective_s(sight, seen_ns)), capture_unix_ns)
        self.seen_ns = seen_ns if self.seen_ns is None else max(self.seen_ns, seen_ns)
        return changes + self._step(seen, capture_unix_ns, classes)

    def _effective_s(self, sight: Sight, now_ns: int) -> float:
        silent_s = self.silent_s(now_ns)
        return max(0.0, silent_s - self._patience_s) if sight.capture_alive else silent_s

    def _apply_silence(self, silence: Silence, at_unix_ns: int) -> list[Change]:
        changes: list[Change] = []
        while step := self._step(silence, at_unix_ns, ()):  # one silence may cause several changes
            changes += step
        return changes

    def _step(
        self, seen: Result | Silence, at_unix_ns: int, classes: Sequence[str]
    ) -> list[Change]:
        before = self.record
        self.record, event = decide(
            before,
            seen,
            self._keys,
            at_unix_ns=at_unix_ns,
            new_visit_id=self._new_visit_id,
            classes=classes,
        )
        return [] if self.record is before else [Change(before, self.record, event)]
