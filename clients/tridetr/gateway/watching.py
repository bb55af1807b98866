"""Decide whether a camera is watched end to end, by the ages of its frames, results and decisions. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tridetr.gateway.facts import HEARTBEAT_S
from tridetr.shm.boards import CameraState, CameraStatus, SentrySnapshot, SentryState

_KEPT = 128  # results whose capture times are remembered
_CAMERA_REASONS = {
    CameraState.STARTING: "the camera is starting",
    CameraState.OFFLINE: "the camera is offline",
    CameraState.FROZEN: "the camera sends the same picture again and again",
    CameraState.BLIND: "the camera cannot see",
    CameraState.ENDED: "the recording has ended",
}


@dataclass(frozen=True, slots=True)
class Chain:
    """The state of one camera's pipeline, from capture to decision. Ages in seconds, None = never seen.

    Attributes:
        status: status that capture reports; None without a status.
        frame_age_s: age of the newest frame.
        result_age_s: age of the frame of the newest result.
        sentry: state that the controller reports; None without a state.
        decided_age_s: age of the newest frame that was decided on.
        alarm_classes: names of the alarm classes.
        unknown_classes: those that the model does not know.
        unpublished_classes: those that `detect.classes` leaves out.
    """

    status: CameraStatus | None
    frame_age_s: float | None
    result_age_s: float | None
    sentry: SentrySnapshot | None
    decided_age_s: float | None
    alarm_classes: tuple[str, ...]
    unknown_classes: tuple[str, ...] = ()
    unpublished_classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a camera is not watched.

    Attributes:
        part: ``camera``, ``capture``, ``detector``, ``controller`` or ``model``.
        reason: message for people; contains no secrets.
        age_s: seconds since the fault began; None if unknown.
    """

    part: str
    reason: str
    age_s: float | None = None


def find_fault(
    chain: Chain, frame_limit_s: float, result_limit_s: float, now_ns: int
) -> Fault | None:
    """Return the first fault in a camera's pipeline; None if the camera is watched.

    Args:
        chain: state of the pipeline.
        frame_limit_s: maximum age of the newest frame in seconds.
        result_limit_s: maximum age of the newest result and decision in seconds.
        now_ns: current CLOCK_MONOTONIC time.
    """
    status, sentry = chain.status, chain.sentry
    if status is None:
        return Fault("capture", "the capture process has not started")
    silent_s = (now_ns - status.heartbeat_monotonic_ns) / 1e9
    if status.state is not CameraState.ENDED and silent_s > HEARTBEAT_S:
        return Fault("capture", "the capture process has stopped reporting", silent_s)
    if status.state is not CameraState.LIVE:
        reason = _CAMERA_REASONS.get(status.state, f"the camera is {status.state.name.lower()}")
        return Fault("camera", reason)
    if status.message:  # why the pictures of a live camera are too few
        return Fault("camera", status.message)
    if chain.frame_age_s is None or chain.frame_age_s > frame_limit_s:
        return Fault("capture", "no new frames arrive", chain.frame_age_s)
    if chain.result_age_s is None or chain.result_age_s > result_limit_s:
        return Fault("detector", "the detector returns no results", chain.result_age_s)
    if sentry is None or sentry.expires_monotonic_ns <= now_ns:
        return Fault("controller", "the controller is not running")
    if chain.decided_age_s is None or chain.decided_age_s > result_limit_s:
        return Fault("controller", "the controller makes no decisions", chain.decided_age_s)
    known = set(chain.alarm_classes).difference(chain.unknown_classes)
    if not known:
        names = ", ".join(map(repr, chain.unknown_classes))
        return Fault("model", f"the model does not know the alarm class {names}")
    if known <= set(chain.unpublished_classes):
        names = ", ".join(map(repr, chain.unpublished_classes))
        return Fault("model", f"detect.classes leaves out the alarm class {names}")
    if sentry.state is SentryState.UNKNOWN:
        return Fault("controller", "the state is unknown")
    return None


class Decided:
    """Looks up when the newest decided frame was captured, since the controller reports only its sequence."""

    def __init__(self) -> None:
        self._results: deque[tuple[int, int]] = deque(maxlen=_KEPT)  # frame sequence, capture time

    def add(self, frame_sequence: int, capture_ns: int) -> None:
        """Remember the sequence and capture time of a result's frame."""
        if self._results and frame_sequence < self._results[-1][0]:
            self._results.clear()  # the camera's ring was recreated
        if not self._results or frame_sequence > self._results[-1][0]:
            self._results.append((frame_sequence, capture_ns))

    def capture_ns(self, decided: int) -> int | None:
        """Return the capture time of the newest remembered frame up to ``decided``; None if all are newer."""
        return next(
            (time for sequence, time in reversed(self._results) if sequence <= decided), None
        )
