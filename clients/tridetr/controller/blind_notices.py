"""Decide who is notified when a camera is no longer watched, and when it is watched again.

Pure: all times are arguments. A camera is not watched while it has a problem (offline, frozen, blind, no results, a
model that does not know its classes). An intermittent problem counts as one outage: it begins once the camera has been
unwatched for ``BLIND_S`` in total since it was last watched for ``BLIND_S`` without interruption, and ends when the
camera has been watched for that long again. The next outage is notified ``QUIET_S`` later at the earliest. Each target
is notified once per outage, as soon as its filters match: a target that is armed during an outage is notified then.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tridetr.controller.payloads import SCHEMA, iso
from tridetr.controller.stored_rows import NewRow

BLIND, WATCHED = "blind", "watched"
KINDS = {BLIND: "camera_blind", WATCHED: "camera_watched"}
BLIND_S = 60.0
QUIET_S = 600.0
_SETTING = "blind/"


@dataclass(frozen=True, slots=True)
class BlindNotice:
    """One notification to send, and the setting that records it.

    Attributes:
        row: the event to queue; its ID is the same for all targets.
        targets: names of the targets to notify.
        setting: name of the setting that remembers this outage.
        kept: value of the setting; None deletes it.
    """

    row: NewRow
    targets: tuple[str, ...]
    setting: str
    kept: str | None


@dataclass(slots=True)
class _Camera:
    """The state of one camera.

    Attributes:
        is_blind: whether the camera is unwatched now.
        changed_s: ``boot_clock.now_ns`` [s] at which ``is_blind`` last changed.
        changed_unix_ns: the same moment, wall clock.
        blind_s: seconds without sight before that, since the camera was last watched for ``BLIND_S``.
        lost_unix_ns: start of the first of these gaps, wall clock.
        quiet_until_s: ``boot_clock.now_ns`` [s] before which no new outage is notified.
    """

    is_blind: bool
    changed_s: float
    changed_unix_ns: int
    blind_s: float = 0.0
    lost_unix_ns: int = 0
    quiet_until_s: float = float("-inf")


class BlindNotices:
    """Tracks the outages of all cameras.

    Args:
        device: name of the node.
        cameras: names of the cameras.
        settings: stored settings by name; those that start with ``blind/`` hold outages that were notified.
        audience: returns the targets that want an action (`blind`, `watched`) of a camera at a Unix time.
    """

    def __init__(
        self,
        device: str,
        cameras: Iterable[str],
        settings: Mapping[str, str],
        audience: Callable[[str, str, float], tuple[str, ...]],
    ) -> None:
        self._device = device
        self._settings = settings
        self._audience = audience
        self._cameras: dict[str, _Camera | None] = dict.fromkeys(cameras)

    @property
    def stale_settings(self) -> list[str]:
        """Settings of cameras that are no longer configured."""
        known = {_SETTING + camera for camera in self._cameras}
        return [name for name in self._settings if name.startswith(_SETTING) and name not in known]

    def look(self, camera: str, why: str, now_s: float, unix_ns: int) -> BlindNotice | None:
        """Update a camera's state and return the notification to send now; None if there is none.

        Args:
            camera: name of the camera.
            why: reason why it is not watched; empty = it is watched.
            now_s: ``boot_clock.now_ns`` [s].
            unix_ns: wall-clock time.
        """
        known = self._cameras[camera]
        if known is None:
            known = self._cameras[camera] = _Camera(bool(why), now_s, unix_ns, lost_unix_ns=unix_ns)
        elif known.is_blind != bool(why):
            if known.is_blind:
                known.blind_s += now_s - known.changed_s
            elif not known.blind_s:
                known.lost_unix_ns = unix_ns
            known.is_blind, known.changed_s, known.changed_unix_ns = bool(why), now_s, unix_ns
        lasted_s = now_s - known.changed_s
        if not known.is_blind and lasted_s >= BLIND_S:
            known.blind_s = 0.0
        if lasted_s + (known.blind_s if known.is_blind else 0.0) < BLIND_S:
            return None
        outage = self._outage(camera)
        if known.is_blind:
            return self._blind(camera, known, outage, why, now_s, unix_ns)
        if outage is None:
            return None
        wanted = self._audience(WATCHED, camera, unix_ns / 1e9)
        targets = tuple(name for name in wanted if name in outage["targets"])
        blind_s = (known.changed_unix_ns - outage["since_unix_ns"]) / 1e9
        more = {"duration_s": round(max(0.0, blind_s), 3)}
        return self._notice(WATCHED, camera, outage, targets, unix_ns, None, more)

    def _blind(
        self,
        camera: str,
        known: _Camera,
        outage: dict[str, Any] | None,
        why: str,
        now_s: float,
        unix_ns: int,
    ) -> BlindNotice | None:
        if outage is None:
            if now_s < known.quiet_until_s:
                return None
            since = known.lost_unix_ns
            outage = {"id": str(uuid.uuid4()), "since_unix_ns": since, "targets": []}
        wanted = self._audience(BLIND, camera, unix_ns / 1e9)
        targets = tuple(name for name in wanted if name not in outage["targets"])
        if not targets:
            return None
        known.quiet_until_s = now_s + QUIET_S
        kept = json.dumps({**outage, "targets": [*outage["targets"], *targets]})
        return self._notice(BLIND, camera, outage, targets, unix_ns, kept, {"reason": why})

    def _notice(
        self,
        action: str,
        camera: str,
        outage: dict[str, Any],
        targets: tuple[str, ...],
        unix_ns: int,
        kept: str | None,
        more: dict[str, Any],
    ) -> BlindNotice:
        event = {
            "schema": SCHEMA,
            "event_id": f"{outage['id']}:{action}",
            "kind": KINDS[action],
            "device": self._device,
            "camera": camera,
            "since": iso(outage["since_unix_ns"]),
            "decided_at": iso(unix_ns),
            **more,
        }
        row = NewRow(unix_ns, event["kind"], json.dumps(event), event["event_id"])
        return BlindNotice(row, targets, _SETTING + camera, kept)

    def _outage(self, camera: str) -> dict[str, Any] | None:
        """Return the camera's outage that was notified already; None if there is none."""
        try:
            found = json.loads(self._settings[_SETTING + camera])
            return {
                "id": str(found["id"]),
                "since_unix_ns": int(found["since_unix_ns"]),
                "targets": [str(name) for name in found["targets"]],
            }
        except (KeyError, ValueError, TypeError, OverflowError):
            return None
