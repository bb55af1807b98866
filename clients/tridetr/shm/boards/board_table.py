"""Contents of the boards' slots (``schemas/sentry.fbs`` and ``status.fbs``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tridetr.wire.spec import Scalar, TableSpec, Text


class SentryMode(IntEnum):
    """Frame rate of a camera: standby (a few frames per second) or alarmed (all frames)."""

    STANDBY = 0
    ALARMED = 1


class SentryState(IntEnum):
    """State of the controller's decision for a camera."""

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
    """The controller's decision for one camera.

    Attributes:
        mode: Frame rate at which the camera should run.
        state: State of the decision.
        state_since_unix_ns: When this state began (Unix time).
        visit_id: ID of the current visit, at most 36 bytes; empty if there is none.
        expires_monotonic_ns: CLOCK_MONOTONIC; after this time the decision is void, and the camera runs at full rate.
        decided_frame_sequence: Sequence, in the frame ring, of the newest frame that was decided on.
        last_event_rowid: Newest row of the event outbox; 0 if there is none.
        seen_monotonic_ns: CLOCK_MONOTONIC up to which the view was seen; 0 if never.
        visit_class: Name of the class that opened the visit, at most 32 bytes; empty if there is no visit.
        ended_frame_sequence: Sequence, in the frame ring, of the last frame that was decided on before the newest end
            of a visit; later frames do not belong to it. 0 if no visit has ended.
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
    ended_frame_sequence: int = 0


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """Status of one camera.

    Attributes:
        state: State of the source.
        since_unix_ns: When this state began (Unix time).
        heartbeat_monotonic_ns: When this was written (CLOCK_MONOTONIC); an old time means that capture is dead.
        width: Pixels; 0 if not known yet.
        height: Pixels.
        source_fps: Frames per second of the source, as reported or measured; 0 if unknown.
        source_kind: ``v4l2``, ``rtsp``, ``http``, ``file`` or ``synthetic`` (at most 32 bytes).
        capture_clock: Where capture times come from: ``device``, ``arrival``, ``playback``, ``media`` or
            ``synthetic``.
        reconnects: How often the source was reopened.
        message: Why the camera is not live, or why the pictures of a live one are too few; at most 200 bytes, or empty.
        blind_reason: Why a blind camera cannot see.
        view_fault: Why viewers do not get the second stream (``cameras.x.view``), at most 200 bytes; empty if they do,
            or if it is not wanted.
        doubtful_until_monotonic_ns: Capture time of the newest picture that may not show the scene (CLOCK_MONOTONIC):
            its source was damaged, or the camera is, or may be, blind or frozen; 0 if there was none.
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
    doubtful_until_monotonic_ns: int = 0


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
        Scalar("ended_frame_sequence", "Q"),
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
        Scalar("doubtful_until_monotonic_ns", "Q"),
    ),
)
