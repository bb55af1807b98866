"""Classes that arrive while a visit is open already. Pure: all times are arguments.

A parked car or a sleeping dog keeps its visit open for hours. Who comes meanwhile opens none, and nobody would be
notified. So each class of `alarm.classes` is followed by itself, with the same keys as the visit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tridetr.controller.payloads import Box
from tridetr.controller.state_machine import STANDBY, TRACKING, Keys, Result, Transition, step

_SAME = (
    0.5  # overlap (IoU) from which on two boxes are the same thing: a car that is taken for a truck
)
_Corners = tuple[float, float, float, float]


class JoinedClasses:
    """Follows the classes of one camera.

    Args:
        keys: thresholds.
        classes: names that alarm.
        there: those that were seen in the open visit already (after a restart).
        now_ns: capture time as of now (monotonic).
    """

    def __init__(
        self, keys: Keys, classes: Iterable[str], there: Collection[str], now_ns: int
    ) -> None:
        self._keys = keys
        self._memories = {name: TRACKING if name in there else STANDBY for name in classes}
        self._seen_ns = dict.fromkeys(there, now_ns)
        self._places: dict[str, list[_Corners]] = {}  # as seen last, within `hold_s`

    def look(self, found: Sequence[Box], time_ns: int) -> list[str]:
        """Return the classes that have arrived with this result.

        One that was gone for less than ``hold_s`` has not arrived again.

        Args:
            found: what counts in the frame.
            time_ns: its capture time.
        """
        hold_ns = self._keys.hold_s * 1e9
        for name in [name for name in self._places if time_ns - self._seen_ns[name] >= hold_ns]:
            del self._places[name]
        places = self._places_of(found)
        arrived = []
        for name, memory in self._memories.items():
            there = name in places
            if not (there or memory.alarmed):
                continue
            after, transition = step(memory, Result(there, time_ns), self._keys)
            self._memories[name] = after
            if not after.visit_open:
                continue
            before_ns = self._seen_ns.get(name)
            if there:
                self._seen_ns[name], self._places[name] = time_ns, places[name]
            is_new = before_ns is None or time_ns - before_ns >= hold_ns
            if transition is Transition.ARRIVED and is_new:
                arrived.append(name)
        return arrived

    def forget(self) -> None:
        """Begin again: the visit is over."""
        self._memories = dict.fromkeys(self._memories, STANDBY)
        self._seen_ns.clear()
        self._places.clear()

    def _places_of(self, found: Sequence[Box]) -> dict[str, list[_Corners]]:
        """Return where things of each class are; a box where a thing of another class was stands for that one."""
        found_at: dict[str, list[_Corners]] = {}
        for box in found:
            name = box.name
            if name not in self._places:
                name = next(
                    (
                        other
                        for other, places in self._places.items()
                        if any(_overlap(box.xyxy, place) >= _SAME for place in places)
                    ),
                    name,
                )
            found_at.setdefault(name, []).append(box.xyxy)
        return found_at


def _overlap(one: _Corners, other: _Corners) -> float:
    """Return intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)]
    return width * height / (sum(areas) - width * height)
