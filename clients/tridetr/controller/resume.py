"""Resume from the last run: each camera's saved record, and the time up to which it was watched."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from tridetr import boot_clock
from tridetr.config import Config
from tridetr.controller.payloads import event_rows
from tridetr.controller.state_machine import Memory, State, Transition
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import Saved
from tridetr.controller.visits import Record, VisitEvent
from tridetr.errors import ShmError
from tridetr.shm.boards import SentryReader, SentrySnapshot

logger = logging.getLogger("tridetr.controller")


def read_board(instance: str, camera: str) -> SentrySnapshot | None:
    """Return the snapshot that the previous controller of this run wrote; None after a fresh start."""
    with SentryReader(instance, camera) as reader:
        try:
            return reader.read()
        except ShmError:
            return None


def resume(store: Store, camera: str, board: SentrySnapshot | None) -> tuple[Record, int | None]:
    """Return the saved record, and the monotonic time up to which the camera was watched (None = unknown)."""
    saved = store.cameras.get(camera)
    if saved is None:
        return Record(), None
    try:
        record = Record.from_json(saved.record)
    except ValueError as error:
        logger.error(
            "the saved state cannot be used: %s; starting without it",
            error,
            extra={"camera": camera},
        )
        return Record(), None
    counted_ns = record.suspended_ns
    record = _up_to_date(record)
    now_ns = time.monotonic_ns()
    if board is not None and 0 < board.seen_monotonic_ns <= now_ns:
        return record, board.seen_monotonic_ns - (record.suspended_ns - counted_ns)
    if record.boot_id not in ("", boot_clock.boot_id()) and not boot_clock.is_right():
        # How long the machine was off is unknown: the person in view now may be another one.
        if record.memory.visit_open:
            logger.warning(
                "the machine was restarted and its clock is not set yet: the open visit ends as lost",
                extra={"camera": camera},
            )
        return record, None
    away_ns = time.time_ns() - (record.seen_unix_ns or saved.updated_unix_ns)
    if record.boot_id == boot_clock.boot_id() and record.seen_boot_ns:
        # The wall clock may have been set back; the boot clock stands still while a virtual machine is paused
        away_ns = max(away_ns, boot_clock.now_ns() - record.seen_boot_ns)
    # Another boot: only the wall clock is comparable, and only if it did not go backwards.
    return record, now_ns - away_ns if away_ns >= 0 else None


def follow_classes(
    store: Store, camera: str, device: str, record: Record, config: Config
) -> Record:
    """Return a camera's resumed record as it is with the alarm classes that are configured now.

    A visit continues only if the class that names it, and any class that was in view, can still raise an alarm.
    Otherwise, the next arrival would be taken for a part of it, so it ends with a ``lost`` event.

    Args:
        store: saves the event.
        camera: name of the camera.
        device: name of the node.
        record: the record, as ``resume`` returns it.
        config: configuration of the node.
    """
    listed = frozenset(config.alarm_for(camera).classes)
    able = listed.difference(config.unpublished_classes(camera))
    if not record.memory.visit_open or able.issuperset(
        (*record.visit_classes, *record.classes_in_view)
    ):
        return record
    if record.visit_classes[0] in able and not able.isdisjoint(record.classes_in_view):
        # Of a class that is listed but cannot be seen, it stays unknown whether it has left
        kept = tuple(name for name in record.visit_classes if name in listed)
        return replace(record, visit_classes=kept)
    logger.warning(
        "alarm.classes or detect.classes has changed: the open visit ends as lost (%s)",
        ", ".join(record.visit_classes),
        extra={"camera": camera},
    )
    was_unknown = record.memory.state is State.UNKNOWN
    fresh = replace(
        record,
        memory=Memory(),
        visit_id="",
        visit_since_unix_ns=0,
        state_since_unix_ns=record.state_since_unix_ns if was_unknown else 0,
        visit_classes=(),
        visit_since_ns=0,
        classes_in_view=(),
    )
    _end(store, camera, device, record, fresh)
    return fresh


def _up_to_date(record: Record) -> Record:
    """Return a record whose monotonic times are comparable with the current one."""
    if record.boot_id == boot_clock.boot_id():
        return record.age(max(0, boot_clock.suspended_ns() - record.suspended_ns))
    return replace(record, visit_since_ns=0)


def end_unwatched(
    store: Store, camera: str, device: str, saved: Saved, now: Record | None = None
) -> None:
    """End the open visit of a saved record that no sentry has resumed, with a ``lost`` event.

    Args:
        store: saves the event.
        camera: name of a camera that is no longer configured, or whose record was read late.
        device: name of the node.
        saved: the saved record.
        now: current record of the camera's sentry, if it has one.
    """
    try:
        record = _up_to_date(Record.from_json(saved.record))
    except ValueError:
        return
    if record.memory.visit_open and (now is None or now.visit_id != record.visit_id):
        _end(store, camera, device, record, now or Record())


def _end(store: Store, camera: str, device: str, record: Record, now: Record) -> None:
    """Save the ``lost`` event of a record's open visit, together with the record that follows it."""
    now_ns = time.time_ns()
    since = record.visit_since_unix_ns
    event = VisitEvent(Transition.LOST, record.visit_id, since, now_ns, record.visit_classes[0])
    lasted_ns = record.visit_since_ns and time.monotonic_ns() - record.visit_since_ns
    rows = event_rows(event, device, camera, None, now_ns, lasted_ns or None)
    store.commit(camera, now.to_json(), rows)
