"""Results of the detector that wait for the controller's decision on their frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tridetr.controller.payloads import FrameFacts
from tridetr.recorder.visit_picture import BestFrame

_MOST = 1000  # results
_MOST_PICTURES = 4  # among them


@dataclass(slots=True)
class Undecided:
    """A result that the controller has not decided on.

    Attributes:
        facts: The result.
        capture_ns: Capture time of its frame (monotonic).
        frame: The frame, if it was better than the best one when the result was read.
    """

    facts: FrameFacts
    capture_ns: int
    frame: BestFrame | None


class UndecidedResults:
    """The newest undecided results of one camera, oldest first, with the best pictures among them."""

    def __init__(self) -> None:
        self._waiting: deque[Undecided] = deque(maxlen=_MOST)

    @property
    def has_boxes(self) -> bool:
        """Whether something is in view in one of them."""
        return any(one.facts.boxes for one in self._waiting)

    def put(self, result: Undecided) -> None:
        """Add the newest result."""
        if self._waiting and result.facts.sequence < self._waiting[-1].facts.sequence:
            self._waiting.clear()  # the frame ring was removed and created again
        self._waiting.append(result)
        held = [(one.frame.value, one) for one in self._waiting if one.frame is not None]
        if len(held) > _MOST_PICTURES:
            min(held, key=lambda item: item[0])[1].frame = None

    def take(self, decided: int) -> Iterator[Undecided]:
        """Remove and yield the results up to a sequence in the frame ring: that of the newest frame decided on."""
        while self._waiting and self._waiting[0].facts.sequence <= decided:
            yield self._waiting.popleft()
