"""Whether a camera is watched, judged end to end: frames, results and decisions by their capture times (pure)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tridetr.gateway.facts import HEARTBEAT_S
from tridetr.shm.boards import CameraState, CameraStatus, SentrySnapshot, SentryState

_KEPT = 128  # results whose capture times are remembered, about one a second
_CAMERA_REASONS = {
    CameraState.STARTING: "the camera is starting",
    CameraState.OFFLINE: "the camera is offline",
    CameraState.FROZEN: "the camera sends the same picture again and again",
    CameraState.BLIND: "the camera cannot see",
    CameraState.ENDED: "the recording has ended",
}


@dataclass(frozen=True, slots=True)
class Chain:
    """What is known of one camera's way from the lens to the decision.

    Attributes:
        status: what capture reports.
        frame_age_s: age of the newest frame; None: there is none.
        result_age_s: age of the frame that the newest result is about.
        sentry: what the controller reports.
        decided_age_s: age of the newest frame that was decided on.
        unknown_classes: names that should alarm, but that the model does not have.
        has_alarm_classes: the model has at least one of the names that should alarm.
    """

    status: CameraStatus | None
    frame_age_s: float | None
    result_age_s: float | None
    sentry: SentrySnapshot | None
    decided_age_s: float | None
    unknown_classes: tuple[str, ...] = ()
    has_alarm_classes: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a camera is not watched.

    Attributes:
        part: ``camera``, ``capture``, ``detector``, ``controller`` or ``model``.
        reason: for people; holds nothing secret.
        age_s: for how long already, where that is known.
    """

    part: str
    reason: str
    age_s: float | None = None


def find_fault(
    chain: Chain, frame_limit_s: float, result_limit_s: float, now_ns: int
) -> Fault | None:
    """Return the first thing on the way that does not work; None: the camera is watched.

    Args:
        chain: what is known.
        frame_limit_s: age at which a frame is too old.
        result_limit_s: age at which a result or a decision is too old.
        now_ns: CLOCK_MONOTONIC.
    """
    status, sentry = chain.status, chain.sentry
    if status is None:
        return Fault("capture", "the capture process has not started")
    silent_s = (now_ns - status.heartbeat_monotonic_ns) / 1e9
    if status.state is not CameraState.ENDED and silent_s > HEARTBEAT_S:
        return Fault("capture", "the capture process does not report any more", silent_s)
    if status.state is not CameraState.LIVE:
        reason = _CAMERA_REASONS.get(status.state, f"the camera is {status.state.name.lower()}")
        return Fault("camera", reason)
    if chain.frame_age_s is None or chain.frame_age_s > frame_limit_s:
        return Fault("capture", "no new frame comes", chain.frame_age_s)
    if chain.result_age_s is None or chain.result_age_s > result_limit_s:
        return Fault("detector", "the detector gives no results", chain.result_age_s)
    if sentry is None or sentry.expires_monotonic_ns <= now_ns:
        return Fault("controller", "the controller is not running")
    if chain.decided_age_s is None or chain.decided_age_s > result_limit_s:
        return Fault("controller", "the controller decides nothing", chain.decided_age_s)
    if sentry.state is SentryState.UNKNOWN:
        return Fault("controller", "the state is unknown")
    if not chain.has_alarm_classes:
        names = ", ".join(map(repr, chain.unknown_classes))
        return Fault("model", f"the model does not know the alarm class {names}")
    return None


class Decided:
    """Finds out when the newest decided frame was captured: the controller reports its number only."""

    def __init__(self) -> None:
        self._results: deque[tuple[int, int]] = deque(maxlen=_KEPT)  # frame sequence, capture time

    def add(self, frame_sequence: int, capture_ns: int) -> None:
        """Remember a result's frame."""
        if self._results and frame_sequence < self._results[-1][0]:
            self._results.clear()  # the camera's ring was made again
        if not self._results or frame_sequence > self._results[-1][0]:
            self._results.append((frame_sequence, capture_ns))

    def capture_ns(self, decided: int) -> int | None:
        """Return the capture time of the newest remembered frame up to ``decided``; None: all are newer."""
        return next(
            (time for sequence, time in reversed(self._results) if sequence <= decided), None
        )
