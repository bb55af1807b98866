"""All names and sizes of inter-process communication, in one place.

A ring is one flat file under ``/dev/shm`` (``shm_open`` knows no folders, and Triton opens it by that name):
``tridetr-<instance>-<camera>-<kind>-<generation>``. A wake-up queue belongs to one (ring, consumer):
``/tridetr-<instance>-<camera>-<kind>-<consumer>``. The Python backend of an embedded Triton names its own regions
``tridetr-<instance>-triton…``; so no camera may be called ``triton``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import posix_ipc

from tridetr.errors import ShmError

SHM_DIR = Path("/dev/shm")  # noqa: S108
QUEUE_DIR = Path("/dev/mqueue")  # not mounted everywhere: only used to find leftovers
PREFIX = "tridetr"

FRAMES, DETECTIONS, SENTRY, STATUS = "frames", "detections", "sentry", "status"
# Who reads the host pixels of frames that are born on a GPU: one board for each reader.
DEMANDS = {"gateway": "watch", "detector": "need"}
# Who is woken by a ring; the readers of a ring without consumers poll it.
CONSUMERS: dict[str, tuple[str, ...]] = {
    FRAMES: ("detector", "gateway"),
    DETECTIONS: ("controller", "gateway"),
    SENTRY: ("capture", "gateway"),
    STATUS: (),
    **dict.fromkeys(DEMANDS.values(), ()),
}
KIND_NUMBERS = {kind: number for number, kind in enumerate(CONSUMERS, start=1)}

# Slots ≥ all possible leases + 2 (the newest, and the one being written).
FRAME_SLOTS = 6
DETECTION_SLOTS = 16  # so that the controller sees every result, not only the newest
BOARD_SLOTS = 8
MAX_DETECTIONS = 300

_INSTANCE = re.compile(r"[a-z0-9]{1,16}")
CAMERA_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
RESERVED_CAMERAS = frozenset({"triton"})  # the Python backend's own regions carry this name
_SEGMENT = re.compile(
    rf"{PREFIX}-(?P<instance>[a-z0-9]{{1,16}})-(?P<camera>[a-z0-9][a-z0-9_-]{{0,31}})"
    rf"-(?P<kind>{'|'.join(CONSUMERS)})-(?P<generation>[1-9][0-9]{{0,9}})"
)


@dataclass(frozen=True)
class RingName:
    """Names one ring of one camera, whatever its generation."""

    instance: str
    camera: str
    kind: str

    def __post_init__(self) -> None:
        if not _INSTANCE.fullmatch(self.instance):
            raise ShmError(f"instance {self.instance!r}: use 1 to 16 lower-case letters and digits")
        if not CAMERA_NAME.fullmatch(self.camera) or self.camera in RESERVED_CAMERAS:
            raise ShmError(
                f"camera {self.camera!r}: use lower-case letters, digits, '_' and '-' (at most 32), "
                "and not the reserved name 'triton'"
            )
        if self.kind not in CONSUMERS:
            raise ShmError(f"ring kind {self.kind!r}: known are {', '.join(CONSUMERS)}")

    def segment(self, generation: int) -> str:
        """Return the file name under ``/dev/shm``."""
        return f"{PREFIX}-{self.instance}-{self.camera}-{self.kind}-{generation}"

    def path(self, generation: int) -> Path:
        """Return the file of a generation."""
        return SHM_DIR / self.segment(generation)

    def queue(self, consumer: str) -> str:
        """Return the name of a consumer's message queue."""
        if consumer not in CONSUMERS[self.kind]:
            known = ", ".join(CONSUMERS[self.kind]) or "none (its readers poll)"
            raise ShmError(f"consumer {consumer!r} of ring {self.kind!r}: known are {known}")
        return f"/{PREFIX}-{self.instance}-{self.camera}-{self.kind}-{consumer}"

    def generations(self) -> list[int]:
        """Return the generations that exist, lowest first."""
        found = (_SEGMENT.fullmatch(path.name) for path in SHM_DIR.iterdir())
        mine = (self.instance, self.camera, self.kind)
        return sorted(
            int(match["generation"])
            for match in found
            if match and match.group("instance", "camera", "kind") == mine
        )


def list_instance(instance: str) -> list[Path]:
    """Return the segments of an instance, the embedded Triton's included."""
    return sorted(SHM_DIR.glob(f"{PREFIX}-{instance}-*"))


def list_queues(instance: str) -> list[str]:
    """Return the message queues of an instance, as far as ``/dev/mqueue`` is mounted and tells."""
    return sorted(f"/{path.name}" for path in QUEUE_DIR.glob(f"{PREFIX}-{instance}-*"))


def unlink_instance(instance: str, cameras: Iterable[str] = ()) -> list[str]:
    """Remove all segments and queues of an instance; call it when all its processes have ended.

    Args:
        instance: Name of the instance.
        cameras: Cameras whose queues may exist though their rings do not. Without ``/dev/mqueue`` queues cannot
            be listed, so they are tried by name.

    Returns:
        The names of what was removed.

    Raises:
        ShmError: somebody else made one of them.
    """
    removed = []
    wanted = set(cameras)
    for path in list_instance(instance):
        if match := _SEGMENT.fullmatch(path.name):
            wanted.add(match["camera"])
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            raise ShmError(
                f"{path} belongs to another user: remove it as that user, or choose another `instance`"
            ) from None
        removed.append(path.name)
    queues = set(list_queues(instance))
    for camera in wanted:
        for kind, consumers in CONSUMERS.items():
            queues.update(RingName(instance, camera, kind).queue(name) for name in consumers)
    for queue in sorted(queues):
        try:
            posix_ipc.unlink_message_queue(queue)
        except posix_ipc.ExistentialError:
            continue
        except posix_ipc.PermissionsError:
            raise ShmError(
                f"message queue {queue} belongs to another user: choose another `instance`"
            ) from None
        removed.append(queue)
    return removed
