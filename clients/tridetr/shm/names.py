"""Names and sizes of everything that processes share.

A ring is one flat file under ``/dev/shm`` (``shm_open`` has no folders, and Triton opens the file by that name):
``tridetr-<instance>-<camera>-<kind>-<generation>``. A wake-up queue belongs to one (ring, consumer):
``/tridetr-<instance>-<camera>-<kind>-<consumer>``. The Python backend of an embedded Triton names its own regions
``tridetr-<instance>-triton-…``; so no camera may be called ``triton`` or ``triton-…``. :func:`owner_of` is the only
place that decides which component a file belongs to.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import posix_ipc

from tridetr.errors import ShmError
from tridetr.file_lock import FileLock, FileLockedError
from tridetr.files import give_access_back
from tridetr.shm import layout, locks

SHM_DIR = Path("/dev/shm")  # noqa: S108
QUEUE_DIR = Path("/dev/mqueue")  # not mounted everywhere: only used to find leftovers
PREFIX = "tridetr"

FRAMES, DETECTIONS, SENTRY, STATUS = "frames", "detections", "sentry", "status"
PACKETS = "packets"
VIEW = "view"  # packets of the second stream, which only viewers use
DEVICE = "device"  # the same frames in GPU memory
# Consumers that each ring wakes; readers of a ring without consumers poll it.
CONSUMERS: dict[str, tuple[str, ...]] = {
    FRAMES: ("detector", "gateway", "gpu"),
    DETECTIONS: ("controller", "gateway"),
    SENTRY: ("capture", "gateway", "gpu"),
    STATUS: (),
    DEVICE: ("detector",),
    PACKETS: ("gateway", "gpu"),
    VIEW: ("gateway",),
}
KIND_NUMBERS = {kind: number for number, kind in enumerate(CONSUMERS, start=1)}

# Slots ≥ all possible leases + 2 (the newest, and the one being written).
FRAME_SLOTS = 6
DEVICE_SLOTS = 4  # only the detector leases them
DETECTION_SLOTS = 16  # so that the controller sees every result, not only the newest
BOARD_SLOTS = 8
MAX_DETECTIONS = 300

_CHEAP_S = 0.005  # of CPU time: some thousand files
_PAUSES = 20.0  # times the cost of an expensive list until the next one

_INSTANCE = re.compile(r"[a-z0-9]{1,16}")
_GENERATION = re.compile(r"[1-9][0-9]{0,9}")
CAMERA_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_TRITON = "triton"  # the Python backend's regions have this in place of a camera's name
_SEGMENT = re.compile(
    rf"{PREFIX}-(?P<instance>[a-z0-9]{{1,16}})-(?P<camera>[a-z0-9][a-z0-9_-]{{0,31}})"
    rf"-(?P<kind>{'|'.join(CONSUMERS)})-(?P<generation>{_GENERATION.pattern})"
)
_TRITON_REGION = re.compile(rf"{PREFIX}-(?P<instance>[a-z0-9]{{1,16}})-{_TRITON}-")


def is_foreign(path: Path) -> bool:
    """Return whether a file belongs to another user than this one and root."""
    try:
        return path.lstat().st_uid not in (os.geteuid(), 0)
    except FileNotFoundError:
        return False


def camera_name_fault(name: str) -> str | None:
    """Return why a camera cannot have this name; None if it can.

    >>> camera_name_fault("yard-2")
    >>> camera_name_fault("triton-2")
    "camera name 'triton-2' is reserved for Triton's memory, like all names that begin with 'triton-'"
    """
    if not CAMERA_NAME.fullmatch(name):
        return f"camera name {name!r}: use lower-case letters, digits, '_' and '-' (at most 32)"
    if name == _TRITON or name.startswith(f"{_TRITON}-"):
        return f"camera name {name!r} is reserved for Triton's memory, like all names that begin with '{_TRITON}-'"
    return None


@dataclass
class _Found:
    """The ring files in ``/dev/shm``, by their names without the generation.

    Attributes:
        own: Generations of this user's and root's files.
        foreign: Generations of other users' files.
        valid_s: Until when it will do for readers [s, monotonic].
    """

    own: dict[str, list[int]] = field(default_factory=dict)
    foreign: dict[str, list[int]] = field(default_factory=dict)
    valid_s: float = -math.inf


_last_found = _Found()


def _find_rings(*, may_be_old: bool) -> _Found:
    """Return the ring files; with ``may_be_old``, an earlier list if a new one would be too expensive.

    Other users can create hundreds of thousands of files, so that a list takes seconds. Readers look for rings that
    do not exist yet, some of them for each frame.

    Raises:
        ShmError: The folder cannot be listed.
    """
    global _last_found
    if may_be_old and time.monotonic() < _last_found.valid_s:
        return _last_found
    began_s = time.thread_time()
    found, trusted = _Found(), (os.geteuid(), 0)
    try:
        with os.scandir(SHM_DIR) as entries:
            for entry in entries:
                stem, _, generation = entry.name.rpartition("-")
                if not stem.startswith(PREFIX) or not _GENERATION.fullmatch(generation):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    is_own = entry.stat(follow_symlinks=False).st_uid in trusted
                    kind = found.own if is_own else found.foreign
                    kind.setdefault(stem, []).append(int(generation))
    except OSError as error:
        raise ShmError(f"cannot list {SHM_DIR}: {error.strerror or error}") from error
    cost_s = time.thread_time() - began_s
    if cost_s > _CHEAP_S:
        found.valid_s = time.monotonic() + _PAUSES * cost_s
    _last_found = found
    return found


@dataclass(frozen=True)
class RingName:
    """Name of one ring of one camera, across its generations."""

    instance: str
    camera: str
    kind: str

    def __post_init__(self) -> None:
        if not _INSTANCE.fullmatch(self.instance):
            raise ShmError(f"instance {self.instance!r}: use 1 to 16 lower-case letters and digits")
        if fault := camera_name_fault(self.camera):
            raise ShmError(fault)
        if self.kind not in CONSUMERS:
            raise ShmError(f"unknown ring kind {self.kind!r}; use one of {', '.join(CONSUMERS)}")

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
            raise ShmError(
                f"unknown consumer {consumer!r} of ring {self.kind!r}; its consumers are {known}"
            )
        return f"/{PREFIX}-{self.instance}-{self.camera}-{self.kind}-{consumer}"

    def generations(self, *, refuse_foreign: bool = False, may_be_old: bool = False) -> list[int]:
        """Return the existing generations, lowest first.

        Files of other users are left out: anyone can create them, and their owner could see and change every frame.

        Args:
            refuse_foreign: Whether to raise an error if all that exist belong to another user.
            may_be_old: Whether an earlier list of ``/dev/shm`` will do, if a new one takes long.

        Raises:
            ShmError: ``/dev/shm`` cannot be listed, for example because no descriptor is left.
        """
        found, stem = _find_rings(may_be_old=may_be_old), self.segment(0)[:-2]
        own, foreign = found.own.get(stem, []), found.foreign.get(stem, [])
        if refuse_foreign and foreign and not own:
            raise ShmError(
                f"{self.segment(foreign[0])} belongs to another user: run all of tridetr as one user, or choose "
                "another `instance`"
            )
        return sorted(own)


@dataclass(frozen=True)
class RingFile:
    """A file that belongs to a ring: one generation of it."""

    name: RingName
    generation: int


@dataclass(frozen=True)
class TritonRegion:
    """A file that belongs to the Python backend of an instance's embedded Triton."""

    instance: str


def owner_of(file_name: str) -> RingFile | TritonRegion | None:
    """Return what a file under ``/dev/shm`` belongs to; None if it is not tridetr's, or of an unknown kind.

    >>> owner_of("tridetr-home-yard-frames-3")
    RingFile(name=RingName(instance='home', camera='yard', kind='frames'), generation=3)
    >>> owner_of("tridetr-home-triton-0c6e")
    TritonRegion(instance='home')
    """
    match = _SEGMENT.fullmatch(file_name)
    if match and camera_name_fault(match["camera"]) is None:
        name = RingName(match["instance"], match["camera"], match["kind"])
        return RingFile(name, int(match["generation"]))
    if match := _TRITON_REGION.match(file_name):
        return TritonRegion(match["instance"])
    return None


def triton_region_prefix(instance: str) -> str:
    """Return the prefix of the names of the Python backend's regions."""
    return f"{PREFIX}-{instance}-{_TRITON}-"


def list_instance(instance: str) -> list[Path]:
    """Return the segments of an instance, including the embedded Triton's."""
    return sorted(SHM_DIR.glob(f"{PREFIX}-{instance}-*"))


def _triton_regions(instance: str) -> list[Path]:
    return [
        path
        for path in list_instance(instance)
        if isinstance(owner_of(path.name), TritonRegion) and not is_foreign(path)
    ]


def close_triton_regions(instance: str) -> list[str]:
    """Revoke other users' access to the Python backend's regions; return the names of those that were changed."""
    closed = []
    for path in _triton_regions(instance):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
            closed.append(path.name)
    return closed


def remove_triton_regions(instance: str) -> list[str]:
    """Remove the regions that a killed Python backend left behind; return their names."""
    removed = []
    for path in _triton_regions(instance):
        path.unlink(missing_ok=True)
        removed.append(path.name)
    return removed


def list_queues(instance: str) -> list[str]:
    """Return the message queues of an instance; empty where ``/dev/mqueue`` is not mounted."""
    return sorted(f"/{path.name}" for path in QUEUE_DIR.glob(f"{PREFIX}-{instance}-*"))


def writer_of(path: Path) -> int | None:
    """Return the process ID of a ring file's writer (0 if not known yet); None if it has no writer."""
    give_access_back(path)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not locks.is_held(descriptor, layout.WRITER_BYTE):
            return None
        return int.from_bytes(os.pread(descriptor, 8, 8 * layout.WRITER_PID_WORD), "little")
    finally:
        os.close(descriptor)


def unlink_instance(instance: str, cameras: Iterable[str] = ()) -> list[str]:
    """Remove all segments, queues and unheld locks of an instance; call it after all its processes have ended.

    Args:
        instance: Name of the instance.
        cameras: Cameras whose queues may exist although their rings do not. Without ``/dev/mqueue``, queues cannot
            be listed, so they are tried by name.

    Returns:
        The names of what was removed.

    Raises:
        ShmError: Another user owns a queue, or a process still writes a segment, which is kept.
    """
    removed, written = [], []
    wanted = set(cameras)
    for path in list_instance(instance):
        owner, foreign = owner_of(path.name), is_foreign(path)
        if isinstance(owner, RingFile):
            wanted.add(owner.name.camera)
            if (pid := writer_of(path)) is not None:
                if not foreign:
                    written.append(f"{path.name} (process {pid})")
                continue
        try:
            path.unlink(missing_ok=True)
        except PermissionError as error:
            if not foreign:
                raise ShmError(f"{path} cannot be removed: {error.strerror}") from None
            continue  # rings do without this name
        removed.append(path.name)
    if written:
        raise ShmError(
            f"instance {instance!r} is in use: {', '.join(written)} has a writer. Stop that process, or give this "
            "node another `instance`"
        )
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
    for path in sorted(SHM_DIR.glob(f"{PREFIX}-{instance}.*lock")):  # left by killed processes
        with contextlib.suppress(FileLockedError, OSError):
            FileLock(path, temporary=True).close()
            removed.append(path.name)
    return removed
