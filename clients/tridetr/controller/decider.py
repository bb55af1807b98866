"""The sentry of one camera over time: results and silence by the age of what was seen. Pure: all times are arguments.

Silence counts from the capture time of the newest frame that was decided on. A picture that is older than
``unknown_s``, or of a camera that is down, decides nothing: it cannot end Unknown. A frame that waited (the controller
was away) counts at the time it was captured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tridetr.controller.state_machine import Keys, Result, Silence
from tridetr.controller.visits import Record, VisitEvent, decide


class Sight(Protocol):
    """What the decision needs to know about the camera's capture."""

    @property
    def capture_alive(self) -> bool: ...
    def is_down(self, silent_s: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the record, and the event that it means."""

    before: Record
    after: Record
    event: VisitEvent | None


class Decider:
    """Holds what is decided and up to when the view was seen.

    Attributes:
        record: what was decided.
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
        """Take over a record.

        Args:
            keys: thresholds.
            record: the saved record.
            seen_ns: up to when its camera was seen.
            new_visit_id: makes the id of a visit that begins.
            patience_s: silence that is normal while capture lives: its source waits for each decision.
        """
        self.record = record
        self.seen_ns = seen_ns
        self._keys = keys
        self._new_visit_id = new_visit_id
        self._patience_s = patience_s

    def silent_s(self, now_ns: int) -> float:
        """Return the seconds since the view was seen last."""
        return math.inf if self.seen_ns is None else max(0.0, (now_ns - self.seen_ns) / 1e9)

    def wait(self, sight: Sight, now_ns: int, now_unix_ns: int) -> list[Change]:
        """Return what follows from having seen nothing until now."""
        silent_s = self._effective_s(sight, now_ns)
        return self._be_silent(Silence(silent_s, sight.is_down(silent_s)), now_unix_ns)

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
        """Return what follows from a result.

        Args:
            seen: whether something that alarms is in the frame, and the frame's own time.
            classes: of what alarms, best first.
            sight: the camera.
            seen_ns: monotonic time of the capture (of a recording: of now).
            now_ns: monotonic time.
            capture_unix_ns: wall-clock time of the capture.
        """
        seen_ns = min(seen_ns, now_ns)
        age_s = (now_ns - seen_ns) / 1e9
        if age_s >= self._keys.unknown_s or sight.is_down(age_s):
            return []
        changes = self._be_silent(Silence(self._effective_s(sight, seen_ns)), capture_unix_ns)
        self.seen_ns = seen_ns if self.seen_ns is None else max(self.seen_ns, seen_ns)
        return changes + self._step(seen, capture_unix_ns, classes)

    def _effective_s(self, sight: Sight, now_ns: int) -> float:
        silent_s = self.silent_s(now_ns)
        return max(0.0, silent_s - self._patience_s) if sight.capture_alive else silent_s

    def _be_silent(self, silence: Silence, at_unix_ns: int) -> list[Change]:
        changes: list[Change] = []
        while step := self._step(silence, at_unix_ns, ()):  # more than one may follow
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
