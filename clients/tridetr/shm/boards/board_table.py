"""What slots of boards hold (``schemas/sentry.fbs`` and ``status.fbs``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tridetr.wire.spec import Scalar, TableSpec, Text


class SentryMode(IntEnum):
    """How fast a camera shall run: standby (a few frames a second) or alarmed (all)."""

    STANDBY = 0
    ALARMED = 1


class SentryState(IntEnum):
    """State of a camera's decision."""

    UNKNOWN = 0
    STANDBY = 1
    VALIDATION = 2
    TRACKING = 3


class CameraState(IntEnum):
    """State of a camera's source."""

    STARTING = 0
    LIVE = 1
    OFFLINE = 2
    FROZEN = 3
    ENDED = 4
    BLIND = 5


class BlindReason(IntEnum):
    """Why a camera that delivers pictures cannot see."""

    NONE = 0
    COVERED = 1
    DAZZLED = 2
    BLURRED = 3
    TURNED = 4


@dataclass(frozen=True, slots=True)
class SentrySnapshot:
    """What the controller decided for one camera.

    Attributes:
        mode: How fast the camera shall run.
        state: State of the decision.
        state_since_unix_ns: Since when.
        visit_id: Id of the present visit, at most 36 bytes; empty: none.
        expires_monotonic_ns: CLOCK_MONOTONIC; afterwards nobody decides, and the camera runs at full rate.
        decided_frame_sequence: Newest frame of the frame ring that was decided on.
        last_event_rowid: Newest row of the event outbox.
        seen_monotonic_ns: CLOCK_MONOTONIC up to which the view was seen; 0: never.
        visit_class: Name of the class that opened the visit, at most 32 bytes; empty: no visit.
    """

    mode: SentryMode
    state: SentryState
    state_since_unix_ns: int
    visit_id: str
    expires_monotonic_ns: int
    decided_frame_sequence: int = 0
    last_event_rowid: int = 0
    seen_monotonic_ns: int = 0
    visit_class: str = ""


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How one camera is.

    Attributes:
        state: State of the source.
        since_unix_ns: Since when.
        heartbeat_monotonic_ns: CLOCK_MONOTONIC of this writing: an old one means that capture is dead.
        width: Pixels; 0: not known yet.
        height: Pixels.
        source_fps: Frames per second that the source promises; 0: not known.
        source_kind: ``v4l2``, ``rtsp``, ``http``, ``file`` or ``synthetic`` (at most 32 bytes).
        capture_clock: Where capture times come from: ``device``, ``arrival``, ``playback``, ``media`` or
            ``synthetic``.
        reconnects: How often the source was opened again.
        message: Why it is not live, at most 200 bytes; empty when all is well.
        blind_reason: Why a blind camera cannot see.
        view_fault: Why viewers do not get the second stream (``cameras.x.view``), at most 200 bytes; empty: they do,
            or it is not wanted.
    """

    state: CameraState
    since_unix_ns: int
    heartbeat_monotonic_ns: int
    width: int = 0
    height: int = 0
    source_fps: float = 0.0
    source_kind: str = ""
    capture_clock: str = ""
    reconnects: int = 0
    message: str = ""
    blind_reason: BlindReason = BlindReason.NONE
    view_fault: str = ""


SENTRY = TableSpec(
    b"TDSE",
    (
        Scalar("state_since_unix_ns", "Q"),
        Scalar("expires_monotonic_ns", "Q"),
        Scalar("decided_frame_sequence", "Q"),
        Scalar("seen_monotonic_ns", "Q"),
        Scalar("last_event_rowid", "Q"),
        Scalar("mode", "B"),
        Scalar("state", "B"),
        Text("visit_id", 36),
        Text("visit_class", 32),
    ),
)
STATUS = TableSpec(
    b"TDST",
    (
        Scalar("since_unix_ns", "Q"),
        Scalar("heartbeat_monotonic_ns", "Q"),
        Scalar("source_fps", "d"),
        Scalar("width", "I"),
        Scalar("height", "I"),
        Scalar("reconnects", "I"),
        Scalar("state", "B"),
        Text("source_kind", 32),
        Text("capture_clock", 16),
        Text("message", 200),
        Scalar("blind_reason", "B"),
        Text("view_fault", 200),
    ),
)
