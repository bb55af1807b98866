"""Detect classes that arrive while a visit is already open. Pure: all times are arguments.

A parked car or a sleeping dog keeps its visit open for hours. A person who arrives during that time opens no visit, so
that no one would be notified. Each class of ``alarm.classes`` is therefore followed separately, with the same
thresholds as the visit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tridetr.controller.payloads import Box
from tridetr.controller.state_machine import STANDBY, TRACKING, Keys, Result, Transition, step

# Overlap from which a box can be an object that was detected as another class before, such as a car as a truck, and
# from which it surely is: a motorcycle seen from the front overlaps its rider by half
_SAME_IOU, _SURELY_SAME_IOU = 0.5, 0.8
_Corners = tuple[float, float, float, float]


@dataclass(slots=True)
class _Place:
    """Where an object of a class was last detected *as that class*.

    A box that only counts as the class, because it overlaps, does not move the place: the object that it really is
    would keep the name wherever it goes.

    Attributes:
        corners: of its box.
        seen_ns: when it was detected there, or another class surely at the same place.
    """

    corners: _Corners
    seen_ns: int


class JoinedClasses:
    """Follows the alarm classes of one camera.

    Args:
        keys: thresholds of the state machine.
        classes: names of the alarm classes.
        there: ``in_view`` before a restart; they count as in view until they are seen to be gone. When the others
            were last seen is unknown, so a repeated arrival is possible, but none is lost.
    """

    def __init__(self, keys: Keys, classes: Iterable[str], there: Collection[str]) -> None:
        self._keys = keys
        self._memories = {name: TRACKING if name in there else STANDBY for name in classes}
        self._looked_ns = 0  # time of the newest result
        self._seen_ns: dict[str, int] = {}
        self._places: dict[str, list[_Place]] = {}  # of classes seen at most `hold_s` ago

    @property
    def in_view(self) -> tuple[str, ...]:
        """The classes that have arrived and are not seen to be gone."""
        return tuple(name for name, memory in self._memories.items() if memory.visit_open)

    def announce(self, name: str, time_ns: int) -> None:
        """Count a class as in view, because the visit was opened in its name; its own count may not be complete yet.

        Args:
            name: name of the class.
            time_ns: monotonic capture time of the frame that opened the visit; pass it to ``look`` next.
        """
        self._memories[name] = TRACKING
        self._seen_ns[name] = time_ns

    def look(self, found: Sequence[Box], time_ns: int) -> list[str]:
        """Return the classes that have arrived with a result.

        A class that was gone for less than ``hold_s`` does not arrive again.

        Args:
            found: detections that passed the alarm filter.
            time_ns: monotonic capture time of their frame.
        """
        hold_ns = self._keys.hold_s * 1e9
        if time_ns - self._looked_ns >= hold_ns:
            # What was counted before does not confirm an arrival
            self._memories = {
                name: memory if memory.visit_open else STANDBY
                for name, memory in self._memories.items()
            }
        self._looked_ns = time_ns
        for name in [name for name in self._places if time_ns - self._seen_ns[name] >= hold_ns]:
            del self._places[name]
        places = self._places_of(found, time_ns)
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

    def age(self, suspended_ns: int) -> None:
        """Count what was seen as older, by a time for which the monotonic clock stood still."""
        self._seen_ns = {name: seen_ns - suspended_ns for name, seen_ns in self._seen_ns.items()}
        self._looked_ns -= suspended_ns

    def forget(self) -> None:
        """Start over, because the visit has ended."""
        self._memories = dict.fromkeys(self._memories, STANDBY)
        self._seen_ns.clear()
        self._places.clear()

    def _places_of(self, found: Sequence[Box], time_ns: int) -> dict[str, list[_Place]]:
        """Return the places of each class in a result; a box at the place of another class's object has that class."""
        boxes: dict[str, list[_Corners]] = {}
        for box in found:
            boxes.setdefault(box.name, []).append(box.xyxy)
        places = {
            name: [_Place(corners, time_ns) for corners in boxes[name]]
            for name in self._places
            if name in boxes
        }
        for name in boxes.keys() - self._places.keys():
            for corners in boxes[name]:
                other, place = self._object_at(corners, places, time_ns)
                if place is None:
                    place = _Place(corners, time_ns)
                places.setdefault(other or name, []).append(place)
        return places

    def _object_at(
        self, corners: _Corners, seen: dict[str, list[_Place]], time_ns: int
    ) -> tuple[str, _Place | None]:
        """Return the class and place of the object of another class that a box shows; "" if it is another object.

        Args:
            corners: the box.
            seen: places of the classes that were detected in the same result.
            time_ns: time of the result.
        """
        for other, places in self._places.items():
            here = seen.get(other, ())
            for place in (*here, *places):
                overlap = _iou(corners, place.corners)
                if overlap >= _SURELY_SAME_IOU:
                    place.seen_ns = time_ns
                    return other, place
                is_itself_there = any(_iou(one.corners, place.corners) >= _SAME_IOU for one in here)
                is_recent = time_ns - place.seen_ns < self._keys.hold_s * 1e9
                if overlap >= _SAME_IOU and is_recent and not is_itself_there:
                    return other, place
        return "", None


def _iou(one: _Corners, other: _Corners) -> float:
    """Return the intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)]
    return width * height / (sum(areas) - width * height)
