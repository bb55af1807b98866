"""One camera's sentry: from results and silence to saved decisions, the board, and what the broker should show."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from tridetr.config import Config
from tridetr.controller.payloads import CameraFacts, FrameFacts
from tridetr.controller.resume import BOARD_LEASE_S, read_board, resume
from tridetr.controller.rows import event_rows, sight_notes
from tridetr.controller.sight import CameraWatch, Judge, ResultSource, Sighting
from tridetr.controller.state_machine import Result, Silence, State
from tridetr.controller.store import NewRow, Store
from tridetr.controller.visits import Record, VisitEvent, decide
from tridetr.errors import ShmError
from tridetr.served_model import ServedModelReader
from tridetr.shm.boards import (
    SentryMode,
    SentrySnapshot,
    SentryState,
    SentryWriter,
)
from tridetr.telemetry import metrics, tracing

logger = logging.getLogger("tridetr.controller")

BOARD_RENEWAL_S = 1.0
CHECKPOINT_S = 10.0  # how exactly the time of a power cut in mid-visit is known
_STATES = {state: SentryState[state.name] for state in State}


class CameraSentry:
    """Decides for one camera.

    Attributes:
        record: what was decided, as saved.
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
        self._device = device
        self._store = store
        self._keys = config.sentry_for(camera)
        # The source waits for each decision: its time stands still while the detector is busy.
        self._patience_s = 0.0 if config.cameras[camera].realtime else self._keys.hold_s
        self._on_change = on_change
        self._judge = Judge(config, camera, models)
        self._watch = CameraWatch(config.instance, camera)
        self._last_capture_ns: int | None = None
        board = read_board(config.instance, camera)  # before the writer clears it
        self._decided = board.decided_frame_sequence if board else 0
        self._resume_frame = self._decided
        self.record, away_s = resume(store, camera, board)
        self._results = ResultSource(config.instance, camera)
        self._board = SentryWriter(config.instance, camera)
        self._board_at = self._saved_at = -math.inf
        self._last_result_at = time.monotonic() - away_s
        self._quiet_since = time.monotonic()
        metrics.SENTRY_STATE.labels(camera).set(_STATES[self.record.memory.state])
        self._watch.poll()
        self._be_silent()  # the time away counts as silence, before any new result does
        self._write_board()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with a new result."""
        return self._results.fileno()

    def on_wake(self, budget: int = 16) -> bool:
        """Decide on the results that are there; returns whether ``budget`` was not enough."""
        self._results.drain()
        for _ in range(budget):
            found = self._results.next()
            if found is None:
                return False
            sighting, was_there_before = found
            with tracing.step("decide", sighting.stamp.trace, camera=self.camera):
                self._handle(sighting, was_there_before)
        return True

    def tick(self) -> None:
        """Call a few times a second: silence, the board's expiry, late wake-ups."""
        self._watch.poll()
        self.on_wake()
        self._be_silent()
        now = time.monotonic()
        if now - self._board_at >= BOARD_RENEWAL_S:
            self._judge.refresh()
            self._write_board()
        if now - max(self._quiet_since, self._last_result_at) > 1.0:
            self._quiet_since = now
            self._results.look_again()
        if self.record.memory.visit_open and now - self._saved_at >= CHECKPOINT_S:
            self._save([])

    def facts(self) -> CameraFacts:
        """Return what ``/status`` tells."""
        camera, source, message = self._watch.describe()
        captured = self._last_capture_ns
        frame_age_s = None
        if captured is not None:
            frame_age_s = round(max(0, time.monotonic_ns() - captured) / 1e9, 3)
        seen_s = time.monotonic() - self._last_result_at
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

    def close(self) -> None:
        """Save the time of an open visit and let go of everything; the board expires by itself."""
        if self.record.memory.visit_open:
            self._save([])
        self._results.close()
        self._watch.close()
        self._board.close()

    def _handle(self, sighting: Sighting, was_there_before: bool) -> None:
        """Decide on a result, unless that was done before this process started."""
        stamp = sighting.stamp
        known = (stamp.frame_sequence, stamp.capture_monotonic_ns) == (
            self.record.frame_sequence,
            self.record.frame_time_ns,
        )
        if known or (was_there_before and stamp.frame_sequence <= self._resume_frame):
            self._decided = max(self._decided, stamp.frame_sequence)
        else:
            self._last_capture_ns = None if stamp.lossless else stamp.capture_monotonic_ns
            self._decide_on(self._judge.judge(sighting), stamp.capture_monotonic_ns)
            self._decided = stamp.frame_sequence
        self._write_board()

    def _decide_on(self, frame: FrameFacts, capture_ns: int) -> None:
        if self._watch.frozen:
            return
        self._be_silent()  # this process itself may have stood still: what it missed was not seen
        self._last_result_at = time.monotonic()
        seen = Result(bool(frame.boxes), capture_ns)
        after, event = decide(
            self.record,
            seen,
            self._keys,
            at_unix_ns=frame.capture_unix_ns,
            new_visit_id=lambda: str(uuid.uuid4()),
        )
        if after is not self.record:
            named = replace(after, frame_sequence=frame.sequence, frame_time_ns=capture_ns)
            self._take(named, event, frame)

    def _be_silent(self) -> None:
        """Tell the machine how long nothing was seen; more than one step may follow from it."""
        silent_s = time.monotonic() - self._last_result_at
        if self._watch.capture_alive:
            silent_s = max(0.0, silent_s - self._patience_s)
        silence = Silence(silent_s, self._watch.is_down(silent_s))
        while True:
            after, event = decide(
                self.record, silence, self._keys, at_unix_ns=time.time_ns(), new_visit_id=str
            )
            if after is self.record:
                return
            self._take(after, event, None)

    def _take(self, after: Record, event: VisitEvent | None, frame: FrameFacts | None) -> None:
        """Save, then show: nothing is told that could be forgotten."""
        before, self.record = self.record, after
        now_ns = time.time_ns()
        rows = [
            *event_rows(event, self._device, self.camera, frame, now_ns),
            *sight_notes(before, after, self._watch.describe(), now_ns),
        ]
        self._save(rows)
        state = after.memory.state
        if state is before.memory.state and not rows:
            return
        if state is not before.memory.state:
            metrics.SENTRY_STATE.labels(self.camera).set(_STATES[state])
            metrics.STATE_CHANGES.labels(self.camera, state.value).inc()
        visit = after.visit_id or before.visit_id
        for row in rows:
            logger.info("%s", row.kind, extra={"camera": self.camera, "visit": visit})
        self._on_change(self)

    def _save(self, rows: list[NewRow]) -> None:
        self._saved_at = time.monotonic()
        self._store.commit(self.camera, self.record.to_json(), rows)

    def _write_board(self) -> None:
        record = self.record
        snapshot = SentrySnapshot(
            mode=SentryMode.ALARMED if record.memory.alarmed else SentryMode.STANDBY,
            state=_STATES[record.memory.state],
            state_since_unix_ns=record.state_since_unix_ns,
            visit_id=record.visit_id,
            expires_monotonic_ns=time.monotonic_ns() + round(BOARD_LEASE_S * 1e9),
            decided_frame_sequence=self._decided,
            last_event_rowid=self._store.last_seq,
        )
        try:
            self._board.write(snapshot)
            self._board_at = time.monotonic()
        except ShmError as error:  # all slots leased; the next tick tries again
            self._board_at = -math.inf
            logger.debug("%s", error, extra={"camera": self.camera})
