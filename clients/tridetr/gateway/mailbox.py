"""What waits for one viewer: the newest message of each kind, never a queue (pure)."""

from __future__ import annotations

# The order in which waiting messages leave: facts first, boxes before the picture that they lie on.
KINDS = ("hello", "pong", "node", "status", "stream", "state", "watching", "detections", "frame")


class Mailbox:
    """Holds at most one message of each kind; a newer one replaces the older.

    So a viewer that does not read costs one frame of memory, whatever the time it sleeps.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, bytes] = {}

    def put(self, kind: str, message: bytes) -> bool:
        """Lay ``message`` down and return whether an older one of its kind was lost by that.

        Raises:
            ValueError: ``kind`` is not one of KINDS.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown kind of message {kind!r}")
        replaced = kind in self._waiting
        self._waiting[kind] = message
        return replaced

    def take(self, *, frames: bool = True) -> tuple[str, bytes] | None:
        """Remove and return the next message, or None; ``frames=False`` leaves the frame where it is."""
        for kind in KINDS:
            if kind == "frame" and not frames:
                continue
            message = self._waiting.pop(kind, None)
            if message is not None:
                return kind, message
        return None

    def discard(self, kind: str) -> None:
        """Forget the waiting message of this kind, if there is one."""
        self._waiting.pop(kind, None)

    def __len__(self) -> int:
        return len(self._waiting)
