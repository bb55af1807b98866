"""Each result belongs to the visit in which its frame was decided, however late recorder and controller are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from support.recorder import WatchedCamera
from support.rings import frame_stamp, result_stamp
from tridetr.recorder.camera_recorder import Visit
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState
from tridetr.shm.detections import DETECTION_DTYPE

STEP_NS = 100_000_000
AFTER_NS = 1_000_000_000


class Scene(WatchedCamera):
    """One camera: frames with results, the controller's board, and a recorder that polls when told to."""

    def __init__(self, instance: str, folder: Path, stack: ExitStack) -> None:
        super().__init__(instance, folder, stack, slots=6)

    def show(self, *widths: int, first: int = 0) -> int:
        """Publish frames with a person of these widths (0: nobody), or only results; return the last sequence.

        Args:
            widths: Widths of the boxes in pixels.
            first: Sequence of the first one, of a frame ring that was created again; 0: publish frames.
        """
        for place, width in enumerate(widths):
            self.number += 1
            times = dict.fromkeys(
                ("capture_monotonic_ns", "capture_unix_ns"), self.number * STEP_NS
            )
            sequence = first + place
            if not first:
                slot = self.frames.begin()
                assert slot is not None
                sequence = self.frames.publish(slot, frame_stamp(self.number, **times))
            found = np.zeros(1 if width else 0, DETECTION_DTYPE)
            if width:
                found[0] = (0, 0, width, 40, 0.9, 1, 0)
            self.results.publish(result_stamp(self.number, frame_sequence=sequence, **times), found)
        return sequence

    def decide(self, visit: str, decided: int, ended: int = 0) -> None:
        state = SentryState.TRACKING if visit else SentryState.STANDBY
        self.board.write(
            SentrySnapshot(
                SentryMode.ALARMED,
                state,
                0,
                visit,
                1 << 62,
                decided_frame_sequence=decided,
                visit_class="person",
                ended_frame_sequence=ended,
            )
        )

    def visits(self) -> list[tuple[str, int, int, int]]:
        """Return ID, first and last frame and width of the best box of each visit."""
        return [(visit.visit_id, *_shown(visit)) for visit in self.watcher.visits]


def _shown(visit: Visit) -> tuple[int, int, int]:
    run = visit.run
    assert visit.span.end_ns == run.last_ns + AFTER_NS
    assert run.best is not None
    (box,) = run.best.facts.boxes
    return run.first_ns // STEP_NS, run.last_ns // STEP_NS, round(box.xyxy[2])


@pytest.fixture
def scene(instance: str, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(instance, tmp_path, stack)


def open_visit(scene: Scene) -> None:
    """Let a visit of three frames begin, of which the second one is the best."""
    scene.decide("visit-a", scene.show(10, 20, 10))
    scene.watcher.poll()
    assert scene.visits() == [("visit-a", 1, 3, 20)]


def test_results_that_the_controller_has_not_decided_wait(scene: Scene) -> None:
    """The board showed the first visit until the controller, which had no CPU time, came to the second one."""
    open_visit(scene)
    for width in (0, 0, 30, 40):
        scene.show(width)
        scene.watcher.poll()
    assert scene.visits() == [("visit-a", 1, 3, 20)]
    scene.decide("visit-b", decided=7, ended=4)
    scene.watcher.poll()
    assert scene.visits() == [
        ("visit-a", 1, 3, 20),
        ("visit-b", 6, 7, 40),
    ]


def test_results_that_come_while_the_recorder_reads_the_board_wait(scene: Scene) -> None:
    open_visit(scene)
    scene.show(0, 15)
    scene.decide("visit-a", decided=4)
    scene.watcher.poll()
    assert scene.visits() == [("visit-a", 1, 3, 20)]
    scene.decide("visit-a", decided=5)
    scene.watcher.poll()
    assert scene.visits() == [("visit-a", 1, 5, 20)]


def test_results_that_may_be_of_another_visit_belong_to_none(scene: Scene) -> None:
    """The recorder stood still from the first to the third visit: which of the first two a frame is of is not known."""
    open_visit(scene)
    scene.decide("visit-c", scene.show(0, 50, 0, 30, 35), ended=6)
    scene.watcher.poll()
    assert scene.visits() == [
        ("visit-a", 1, 3, 20),
        ("visit-c", 7, 8, 35),
    ]


def test_a_visit_that_came_and_went_unseen_is_not_the_start_of_the_next_one(scene: Scene) -> None:
    scene.decide("", scene.show(0, 50, 50))
    scene.watcher.poll()
    scene.decide("visit-b", scene.show(0, 30, 30), ended=4)
    scene.watcher.poll()
    assert scene.visits() == [("visit-b", 5, 6, 30)]


def test_visits_are_followed_after_the_frame_ring_was_created_again(scene: Scene) -> None:
    """Its sequences restart: the results that waited would have waited, with all later ones, until it caught up."""
    scene.decide("", scene.show(0, 0, 0), ended=2)
    scene.watcher.poll()
    scene.show(30)  # not decided before the ring is gone
    scene.watcher.poll()
    scene.decide("visit-b", scene.show(30, 40, first=1))
    scene.watcher.poll()
    assert [visit.visit_id for visit in scene.watcher.visits] == ["visit-b"]
    assert scene.watcher.visits[0].run.last_ns == 6 * STEP_NS


def test_few_pictures_wait_for_a_decision(scene: Scene) -> None:
    """While the controller is away, the pictures of its cameras must not fill the memory; the best ones are kept."""
    open_visit(scene)
    for width in range(21, 41):
        scene.show(width)
        scene.watcher.poll()
    assert sum(one.frame is not None for one in scene.watcher._undecided._waiting) == 4
    scene.decide("visit-a", decided=23)
    scene.watcher.poll()
    assert scene.visits() == [("visit-a", 1, 23, 40)]
    assert not scene.watcher._undecided._waiting
