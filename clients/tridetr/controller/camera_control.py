"""The sentry of one camera: turns results and silence into saved decisions and the sentry board in shared memory."""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

from tridetr import boot_clock
from tridetr.config import Config
from tridetr.controller.decider import Change, Decider
from tridetr.controller.interruptions import Interruptions
from tridetr.controller.joined_classes import JoinedClasses
from tridetr.controller.payloads import CameraFacts, FrameFacts, event_rows, frame_of_class
from tridetr.controller.problems import NO_RESULTS, CameraProblem
from tridetr.controller.result_rate import ResultRate
from tridetr.controller.resume import follow_classes, read_board, resume
from tridetr.controller.sight import CameraWatch, Judge, ResultSource, Sighting
from tridetr.controller.state_machine import Result, State, Transition
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import NewRow
from tridetr.controller.suspension import SuspensionWatch
from tridetr.controller.visits import Record, VisitEvent
from tridetr.errors import ShmError
from tridetr.served_model import ServedModelReader
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState, SentryWriter
from tridetr.shm.detections import ResultStamp
from tridetr.telemetry import metrics, tracing

logger = logging.getLogger("tridetr.controller")

START_S = 30.0  # grace period after the start in which missing results are not a problem
BOARD_RENEWAL_S = 1.0
BOARD_LEASE_S = 5.0  # without a renewal for this long, capture switches to full rate
_DOUBTFUL = "its pictures may not show the scene: damaged, or perhaps the camera is covered, out of focus or turned"
_RESULTS_PER_TURN = 16  # results handled before the event loop gets its turn
CHECKPOINT_S = 10.0  # resolution with which the time of a power cut during a visit is known
_STATES = {state: SentryState[state.name] for state in State}


class CameraSentry:
    """Runs the state machine of one camera and saves each decision.

    Attributes:
        camera: name of the camera.
        record: the current record, as saved.
        unseen_classes: alarm classes that cannot be seen with the served model and `detect.classes`.
    """

    def __init__(
        self,
        config: Config,
        camera: str,
        store: Store,
        models: ServedModelReader,
        device: str,
        on_change: Callable[[CameraSentry], None],
    ) -> None:
        self.camera = camera
        self._boot_id = boot_clock.boot_id()
        self._device = device
        self._store = store
        keys = config.sentry_for(camera)
        self._unknown_s = keys.unknown_s
        self._on_change = on_change
        self._judge = Judge(config, camera, models)
        self.unseen_classes = self._judge.unseen
        self._watch = CameraWatch(config.instance, camera)
        self._last_capture_ns: int | None = None
        board = read_board(config.instance, camera)  # before the writer clears it
        self._decided = board.decided_frame_sequence if board else 0
        self._resume_frame = self._decided
        record, seen_ns = resume(store, camera, board)
        self.record = follow_classes(store, camera, device, record, config)
        self._ended = _ended_on(board, self.record)
        # A source that waits for each decision has no frames while the detector is busy: that silence is normal.
        self._is_recording = not config.cameras[camera].realtime
        patience_s = keys.hold_s if self._is_recording else 0.0
        self._suspension = SuspensionWatch(camera, keys.hold_s)
        self._decider = Decider(keys, self.record, seen_ns, lambda: str(uuid.uuid4()), patience_s)
        classes = config.alarm_for(camera).classes
        self._joined: JoinedClasses | None = None
        if len(classes) > 1:
            self._joined = JoinedClasses(keys, classes, self.record.classes_in_view)
        self._interruptions = Interruptions()
        self._result_rate = ResultRate(keys)
        self._results = ResultSource(config.instance, camera)
        self._board = SentryWriter(config.instance, camera)
        self._board_at = self._saved_at = -math.inf
        self._heard_at = self._started_at = time.monotonic()
        metrics.SENTRY_STATE.labels(camera).set(_STATES[self.record.memory.state])

    def fileno(self) -> int:
        """Return the file descriptor that becomes readable when there is a new result."""
        return self._results.fileno()

    def on_wake(self) -> bool:
        """Handle the available results, up to a limit; return whether there may be more."""
        self._notice_suspension()
        self._results.drain()
        for _ in range(_RESULTS_PER_TURN):
            found = self._results.next()
            if found is None:
                return False
            sighting, is_from_before = found
            with tracing.step("decide", sighting.stamp.trace, camera=self.camera):
                self._handle(sighting, is_from_before)
        return True

    def tick(self) -> None:
        """Handle silence, renew the board and catch missed wake-ups; call a few times a second."""
        self._watch.poll()
        self.on_wake()
        self._apply_silence()
        self._suspension.warn_of_step(visit_open=self.record.memory.visit_open)
        now = time.monotonic()
        if now - self._board_at >= BOARD_RENEWAL_S:
            self._judge.refresh()
            if self._judge.unseen != self.unseen_classes:
                self.unseen_classes = self._judge.unseen
                self._on_change(self)
            self._write_board()
        if now - self._heard_at > 1.0:
            self._heard_at = now
            self._results.look_again()
        if self.record.memory.visit_open and now - self._saved_at >= CHECKPOINT_S:
            self._save([])

    def facts(self) -> CameraFacts:
        """Return the facts that ``/status`` publishes."""
        camera, source, message = self._watch.describe()
        captured = self._last_capture_ns
        frame_age_s = None
        if captured is not None:
            frame_age_s = round(max(0, time.monotonic_ns() - captured) / 1e9, 3)
        seen_s = self._decider.silent_s(time.monotonic_ns())
        return CameraFacts(
            state=self.record.memory.state.value,
            alarmed=self.record.memory.alarmed,
            state_since_unix_ns=self.record.state_since_unix_ns,
            visit_id=self.record.visit_id,
            camera=camera,
            source=source,
            message=message,
            last_frame_age_s=frame_age_s,
            last_result_age_s=round(seen_s, 3) if math.isfinite(seen_s) else None,
            events_waiting=len(self._store.outbox),
            store=self._store.fault or "ok",
        )

    def problems(self) -> dict[CameraProblem, str]:
        """Return the camera's problems: for each kind why the camera is not watched; empty = no problem."""
        now = time.monotonic()
        starting = now - self._started_at < START_S
        found = dict.fromkeys(CameraProblem, "")
        is_unknown = self.record.memory.state is State.UNKNOWN
        why = self._camera_fault(starting=starting, is_unknown=is_unknown)
        if why:
            found[CameraProblem.CAMERA] = why
        elif is_unknown and not starting and self._judge.can_show_empty(self.record.visit_classes):
            found[CameraProblem.DETECTOR] = NO_RESULTS
        elif (interrupted := self._interruptions.problem(now)) is not None:
            found[interrupted[0]] = interrupted[1]
        elif not self._is_recording:
            found[CameraProblem.DETECTOR] = self._result_rate.problem
        if unseen := self._unseen_fault():
            found[CameraProblem.CLASSES] = unseen
        return found

    def _unseen_fault(self) -> str:
        """Return why alarm classes cannot be seen; empty if all can."""
        unknown, unpublished = map(", ".join, (self._judge.unknown, self._judge.unpublished))
        classes = [
            f"the model does not know: {unknown}" if unknown else "",
            f"not in detect.classes: {unpublished}" if unpublished else "",
        ]
        return "; ".join(filter(None, classes))

    def _camera_fault(self, *, starting: bool, is_unknown: bool) -> str:
        """Return why the camera does not deliver, or only too few good pictures, or late ones; empty if it delivers."""
        state, _, message = self._watch.describe()
        if state == "live":
            return message or (self._doubt() if is_unknown and not starting else "")
        if state == "starting" or (starting and state == "unknown"):
            return ""
        return f"{state}: {message}" if message else state

    def _doubt(self) -> str:
        """Return why the newest results do not count; empty if they do, or if there are none."""
        captured_ns = self._last_capture_ns or 0
        is_new = (time.monotonic_ns() - captured_ns) / 1e9 < self._unknown_s
        return _DOUBTFUL if is_new and self._watch.is_doubtful(captured_ns) else ""

    def _count_interruption(self, before: State, after: State) -> None:
        now = time.monotonic()
        if State.UNKNOWN not in (before, after):
            return
        if before is State.UNKNOWN:
            self._interruptions.regained(now)
        elif why := self._camera_fault(starting=False, is_unknown=True):
            self._interruptions.lost(CameraProblem.CAMERA, why, now)
        elif not self._judge.can_show_empty(self.record.visit_classes):
            self._interruptions.lost(CameraProblem.CLASSES, self._unseen_fault(), now)
        else:
            self._interruptions.lost(CameraProblem.DETECTOR, NO_RESULTS, now)

    def close(self) -> None:
        """Save the time up to which an open visit was seen, and free all resources; the board expires by itself."""
        if self.record.memory.visit_open:
            self._save([])
        self._results.close()
        self._watch.close()
        self._board.close()

    def _handle(self, sighting: Sighting, is_from_before: bool) -> None:
        """Decide on a result, unless an earlier process already has.

        Args:
            sighting: the result.
            is_from_before: whether it was published before this process started.
        """
        stamp = sighting.stamp
        self._heard_at = time.monotonic()
        known = (stamp.frame_sequence, stamp.capture_monotonic_ns) == (
            self.record.frame_sequence,
            self.record.frame_time_ns,
        )
        before = self.record.memory
        is_old = not stamp.lossless and stamp.capture_monotonic_ns <= self._suspension.old_until_ns
        if known or is_old or (is_from_before and stamp.frame_sequence <= self._resume_frame):
            if stamp.frame_sequence <= self._decided:
                return
        else:
            self._last_capture_ns = None if stamp.lossless else stamp.capture_monotonic_ns
            self._result_rate.look(stamp.frame_sequence, stamp.capture_monotonic_ns)
            self._decide_on(self._judge.judge(sighting), stamp)
        if stamp.frame_sequence < self._decided:
            self._ended = 0  # the frame ring was removed and created again: its sequences restarted
        self._decided = stamp.frame_sequence
        self._apply_silence()
        calm = before == self.record.memory and before.state is State.STANDBY
        # An empty frame in standby changes nothing, even if it is decided on again after a kill, so the board can wait
        # for the next tick. A lossless source waits for each decision.
        if stamp.lossless or not calm:
            self._write_board()

    def _decide_on(self, frame: FrameFacts, stamp: ResultStamp) -> None:
        is_unknown = self.record.memory.state is State.UNKNOWN
        if is_unknown:
            # Up to date: a camera that has just reconnected may still be blind
            self._watch.poll()
        if not frame.boxes:
            if self.record.memory.visit_open:
                self._judge.refresh()  # with the classes of a model that has just been replaced
            if not self._judge.can_show_empty(self.record.visit_classes):
                return
        may_prove = is_unknown or self.record.memory.alarmed or self._watch.is_blind
        if not frame.boxes and may_prove:
            # A person who covers the camera has not left: no all-clear until it is known whether it can see
            self._watch.poll()
            if self._watch.is_doubtful(stamp.capture_monotonic_ns):
                return
        now_ns, capture_ns = time.monotonic_ns(), stamp.capture_monotonic_ns
        changes = self._decider.look(
            Result(bool(frame.boxes), capture_ns),
            [box.name for box in frame.boxes],
            self._watch,
            seen_ns=now_ns if stamp.lossless else capture_ns,
            now_ns=now_ns,
            capture_unix_ns=frame.capture_unix_ns,
        )
        for change in changes[:-1]:
            self._take(change, None)
        if changes:
            self._take(changes[-1], frame, capture_ns)
        seen_ns = min(now_ns, now_ns if stamp.lossless else capture_ns)
        is_accepted = (self._decider.seen_ns or 0) >= seen_ns
        if self._joined is not None and is_accepted:
            self._follow_classes(self._joined, frame, capture_ns)

    def _follow_classes(self, joined: JoinedClasses, frame: FrameFacts, capture_ns: int) -> None:
        """Save which classes are in view, and events of those that have joined the open visit."""
        rows: list[NewRow] = []
        for name in joined.look(frame.boxes, capture_ns):
            if not self.record.memory.visit_open:
                continue
            since_ns, now_ns = self.record.visit_since_unix_ns, time.time_ns()
            event = VisitEvent(
                Transition.ARRIVED,
                self.record.visit_id,
                since_ns,
                now_ns,
                name,
                joined=str(uuid.uuid4()),
            )
            own = frame_of_class(frame, name)
            lasted_ns = self._lasted_ns(self.record, frame)
            rows += event_rows(event, self._device, self.camera, own, now_ns, lasted_ns)
        if rows or joined.in_view != self.record.classes_in_view:
            self._save(rows)
        if rows:
            self._report(rows, self.record.visit_id)

    def _notice_suspension(self) -> None:
        """Count the time for which the machine was suspended as silence; a recording has missed nothing."""
        suspended_ns = self._suspension.poll()
        if not suspended_ns or self._is_recording:
            return
        logger.warning(
            "the machine was suspended for %.0f s: what was last seen is that much older",
            suspended_ns / 1e9,
            extra={"camera": self.camera},
        )
        self.record = self._decider.record = self.record.age(suspended_ns)
        self._decider.age(suspended_ns)
        if self._joined is not None:
            self._joined.age(suspended_ns)
        if self._last_capture_ns is not None:
            self._last_capture_ns -= suspended_ns
        self._apply_silence()
        self._save([])
        self._write_board()

    def _apply_silence(self) -> None:
        """Apply the silence since the last result to the state machine."""
        for change in self._decider.wait(self._watch, time.monotonic_ns(), time.time_ns()):
            self._take(change, None)

    def _take(self, change: Change, frame: FrameFacts | None, stamp_ns: int = 0) -> None:
        """Save a change before it is published, so that nothing published can be lost in a crash."""
        before, after = change.before, change.after
        if frame is not None:
            after = replace(after, frame_sequence=frame.sequence, frame_time_ns=stamp_ns)
            if after.memory.visit_open and not before.memory.visit_open:
                after = replace(after, visit_since_ns=self._last_capture_ns or 0)
            self._decider.record = after
        self.record = after
        if before.visit_id and after.visit_id != before.visit_id:
            self._ended = self._decided
        if self._joined is not None and before.memory.visit_open and not after.memory.visit_open:
            self._joined.forget()
        event = change.event
        if self._joined is not None and event and event.transition is Transition.ARRIVED:
            self._joined.announce(event.class_name, stamp_ns)
        now_ns = time.time_ns()
        lasted_ns = self._lasted_ns(before, frame)
        rows = [
            *event_rows(event, self._device, self.camera, frame, now_ns, lasted_ns),
            *_sight_notes(before, after, self._watch.describe(), now_ns),
        ]
        self._save(rows)
        state = after.memory.state
        if (state, after.visit_classes) == (before.memory.state, before.visit_classes) and not rows:
            return
        if state is not before.memory.state:
            self._count_interruption(before.memory.state, state)
            metrics.SENTRY_STATE.labels(self.camera).set(_STATES[state])
            metrics.STATE_CHANGES.labels(self.camera, state.value).inc()
        self._report(rows, after.visit_id or before.visit_id)

    def _lasted_ns(self, record: Record, frame: FrameFacts | None) -> int | None:
        """Return how long a visit has lasted, whatever the wall clock did; None if unknown."""
        now_ns = time.monotonic_ns() if frame is None else self._last_capture_ns
        if not record.visit_since_ns or now_ns is None:
            return None
        return now_ns - record.visit_since_ns

    def _report(self, rows: Sequence[NewRow], visit_id: str) -> None:
        """Log saved rows, and have the change published."""
        for row in rows:
            logger.info("%s", row.kind, extra={"camera": self.camera, "visit": visit_id})
        self._on_change(self)

    def _save(self, rows: list[NewRow]) -> None:
        self._saved_at = time.monotonic()
        seen_ns = self._decider.seen_ns
        in_view = self._joined.in_view if self._joined is not None else self.record.visit_classes
        self.record = self._decider.record = replace(self.record, classes_in_view=in_view)
        if seen_ns is not None:
            silent_ns = time.monotonic_ns() - seen_ns
            self.record = self._decider.record = replace(
                self.record,
                seen_unix_ns=max(0, time.time_ns() - silent_ns),
                seen_boot_ns=max(0, boot_clock.now_ns() - silent_ns),
                boot_id=self._boot_id,
                suspended_ns=self._suspension.counted_ns,
            )
        self._store.commit(self.camera, self.record.to_json(), rows)

    def _write_board(self) -> None:
        record = self.record
        snapshot = SentrySnapshot(
            mode=SentryMode.ALARMED if record.memory.alarmed else SentryMode.STANDBY,
            state=_STATES[record.memory.state],
            state_since_unix_ns=record.state_since_unix_ns,
            visit_id=record.visit_id,
            visit_class=_fitting(record.visit_classes[0]) if record.visit_classes else "",
            expires_monotonic_ns=time.monotonic_ns() + round(BOARD_LEASE_S * 1e9),
            decided_frame_sequence=self._decided,
            seen_monotonic_ns=max(0, self._decider.seen_ns or 0),
            last_event_rowid=self._store.last_seq,
            ended_frame_sequence=self._ended,
        )
        try:
            self._board.write(snapshot)
            self._board_at = time.monotonic()
        except ShmError as error:  # all slots leased; the next tick tries again
            self._board_at = -math.inf
            logger.debug("%s", error, extra={"camera": self.camera})


def _ended_on(board: SentrySnapshot | None, record: Record) -> int:
    """Return the ``ended_frame_sequence`` of a resumed record.

    Args:
        board: the snapshot of the previous controller of this run; None after a fresh start.
        record: the record, whose visit may be another one already.
    """
    if board is None:
        return 0
    if board.visit_id and board.visit_id != record.visit_id:
        return board.decided_frame_sequence
    return board.ended_frame_sequence


def _fitting(class_name: str) -> str:
    """Return a class name cut to the board's 32 bytes, at a character boundary."""
    return class_name.encode()[:32].decode(errors="ignore")


def _sight_notes(
    before: Record, after: Record, camera: tuple[str, str, str], now_ns: int
) -> list[NewRow]:
    """Return a history note if sight of the camera was lost or regained; else an empty list."""
    was, now = before.memory.state is State.UNKNOWN, after.memory.state is State.UNKNOWN
    if was == now or (was and not before.state_since_unix_ns):
        return []
    details = json.dumps({"camera_state": camera[0], "message": camera[2]})
    return [NewRow(now_ns, "camera_lost" if now else "camera_back", details)]
