"""Write the watchers' pictures, clips and rows in separate threads, because the disk may be slow."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import av

from tridetr.errors import TridetrError
from tridetr.recorder.archive import Archive
from tridetr.recorder.camera_recorder import CameraWatcher, Visit
from tridetr.recorder.clips import PacketClip, StillsClip, clip_is_whole
from tridetr.recorder.disk_faults import remedy
from tridetr.recorder.evidence_database import COMPLETE, ENDED, OPEN
from tridetr.shm.closing import Closing
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.recorder")

_TURN_S, _IDLE_S = 0.2, 0.5
_BETTER_S = 2.0  # interval between two pictures of the same visit
_RETRY_S = 5.0
_CHECKPOINT_S = 10.0  # interval at which the end of an open visit is saved, in case of a kill
_GIVE_UP_S = 60.0  # time after the end of a visit at which failing writes are given up
_HUNG_S = 30.0  # time that one step of a visit takes at most, unless the disk hangs
_LATE_S = 15.0  # time for which a clip waits for packets of a camera that is gone
_UPKEEP_S = 30.0
_BLIND_S = 60.0
_NICENESS = 10  # niceness of the encoding thread


@dataclass(slots=True)
class _Blind:
    row: int = 0
    kept_s: float = 0.0


class Filing(Closing):
    """Writes to the archive in two threads: one for pictures, rows and packets, one that encodes at low priority."""

    def __init__(self, archive: Archive, watchers: Iterable[CameraWatcher], after_s: float) -> None:
        self._archive = archive
        self._watchers = list(watchers)
        self._after_s = after_s
        self._stop = threading.Event()
        self._tried: dict[tuple[str, str], float] = {}
        # By busy thread: when its current step began, and for which visit
        self._steps: dict[str, tuple[float, Visit | None]] = {}
        self._is_hung = False
        self._blind = {watcher.camera: _Blind() for watcher in self._watchers}
        self._upkeep_s = 0.0
        self._fault = self._upkeep_fault = ""
        self._failure: Exception | None = None
        for watcher in self._watchers:
            for reason in ("disk", "video", "missed"):
                metrics.EVIDENCE_ERRORS.labels(watcher.camera, reason)
            for kind in ("picture", "clip"):
                metrics.EVIDENCE_SAVED.labels(watcher.camera, kind)
        self._threads = [
            threading.Thread(target=self._run, args=(turn, niceness), name=name)
            for name, turn, niceness in (
                ("write", self._write, 0),
                ("encode", self._encode, _NICENESS),
            )
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the threads, write the remaining pictures, and complete the clips."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        for watcher in self._watchers:
            for visit in watcher.visits:
                self._step_picture(visit, last=True)
                self._step_clip(visit, last=True)
                self._try(visit, "row", partial(self._note, visit, COMPLETE))

    def check(self) -> None:
        """Raise the exception that ended a thread; while the disk hangs, give up visits. For the watching thread."""
        if self._failure is not None:
            raise self._failure
        now_s = time.monotonic()
        steps = list(self._steps.values())
        is_hung = any(now_s - began_s > _HUNG_S for began_s, _ in steps)
        if is_hung and not self._is_hung:
            logger.error(
                "pictures and clips of visits cannot be saved: the disk of %s does not answer. Those of visits that "
                "end are lost until it does; detection and events continue",
                self._archive.files.parent,
            )
        elif self._is_hung and not is_hung:
            logger.info("the disk of %s answers again", self._archive.files.parent)
        self._is_hung = is_hung
        if is_hung:
            for visit in [one for watcher in self._watchers for one in watcher.visits]:
                if visit.ended_s is not None:
                    _give_up(visit, is_busy=any(visit is one for _, one in steps))

    def _step_begins(self, visit: Visit | None = None) -> None:
        self._steps[threading.current_thread().name] = time.monotonic(), visit

    def _run(self, turn: Callable[[], None], niceness: int) -> None:
        if niceness:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        try:
            while not self._stop.wait(_TURN_S if self._has_visits() else _IDLE_S):
                self._step_begins()
                turn()
                del self._steps[threading.current_thread().name]
        except TridetrError as error:  # reported when the process ends; it is restarted
            self._failure = error
        except Exception as error:  # a bug: the process ends and is restarted
            logger.exception("the recorder failed and is restarted")
            self._failure = error

    def _has_visits(self) -> bool:
        return any(watcher.visits for watcher in self._watchers)

    def _write(self) -> None:
        self._archive.check_present()
        for watcher in self._watchers:
            for visit in list(watcher.visits):
                self._step_begins(visit)
                self._step_picture(visit)
                if not isinstance(visit.clip, StillsClip):
                    self._step_clip(visit)
                what = "row" if visit.ended_s is None else "over"
                if what == "over" and visit.picture_done and visit.clip_done:
                    if self._finish(watcher, visit):
                        watcher.visits.remove(visit)
                elif self._may_try(visit, what, _CHECKPOINT_S):
                    self._try(visit, what, partial(self._note, visit, ENDED))
            self._step_begins()
            self._end_kept(watcher)
            self._keep_blind(watcher)
        now_s = time.monotonic()
        if now_s >= self._upkeep_s:
            self._upkeep_s = now_s + _UPKEEP_S
            self._maintain()

    def _encode(self) -> None:
        for watcher in self._watchers:
            for visit in list(watcher.visits):
                if isinstance(visit.clip, StillsClip):
                    self._step_begins(visit)
                    self._step_clip(visit)

    def _step_picture(self, visit: Visit, *, last: bool = False) -> None:
        """Write a visit's picture if there is a better one."""
        if visit.picture_done:
            return
        best = visit.run.best
        is_better = best is not None and best.value > visit.picture_value
        over = visit.ended_s is not None or last
        if is_better and self._may_try(visit, "picture", 0.0 if over else _BETTER_S):
            assert best is not None
            saved = self._try(
                visit,
                "picture",
                lambda: self._archive.save_picture(
                    visit.facts, best.jpegs(), best.score, best.describe()
                ),
            )
            if saved:
                self._clear_fault()
                visit.picture_value = best.value
                metrics.EVIDENCE_SAVED.labels(visit.camera, "picture").inc()
                is_better = False
        if visit.ended_s is not None:
            visit.picture_done = not is_better or time.monotonic() - visit.ended_s > _GIVE_UP_S

    def _step_clip(self, visit: Visit, *, last: bool = False) -> None:
        """Write the next part of a visit's clip, or complete it."""
        clip = visit.clip
        if visit.clip_done or clip is None:
            return
        try:
            is_over = clip.step()
            if visit.clip is None:
                raise OSError(errno.ETIMEDOUT, "the disk did not answer", str(clip.path))
            ended_s = visit.ended_s
            if ended_s is not None and time.monotonic() - ended_s > self._after_s + _LATE_S:
                is_over = True
            if not (is_over or last):
                return
            self._complete_clip(visit, clip)
        except (OSError, sqlite3.Error) as error:
            self._report_fault(visit, error)
        except (TridetrError, av.FFmpegError, ValueError) as error:
            metrics.EVIDENCE_ERRORS.labels(visit.camera, "video").inc()
            logger.warning("the clip of a visit was not saved: %s", error, extra=_extra(visit))
        clip.close()
        if clip.path is not None:
            # If the disk became read-only, or fails, the next start removes it
            with suppress(OSError):
                clip.path.unlink(missing_ok=True)
        visit.clip_done = True

    def _complete_clip(self, visit: Visit, clip: PacketClip | StillsClip) -> None:
        pictures = clip.finish()  # copies the whole file, as the check reads all of it: a step each
        self._step_begins(visit)
        if pictures == 0 or clip.path is None:
            metrics.EVIDENCE_ERRORS.labels(visit.camera, "missed").inc()
            return
        if not clip_is_whole(clip.path, pictures):
            raise OSError(errno.EIO, "the clip was not written completely", str(clip.path))
        self._step_begins(visit)
        facts = {
            "started_unix_ns": clip.times[0],
            "ended_unix_ns": clip.times[1],
            "pictures": pictures,
            "encoded": clip.encoded,
        }
        self._archive.save_clip(visit.facts, clip.path, facts)
        self._clear_fault()
        metrics.EVIDENCE_SAVED.labels(visit.camera, "clip").inc()

    def _finish(self, watcher: CameraWatcher, visit: Visit) -> bool:
        """Complete a visit's row; return whether the visit needs no more work."""
        if visit.ended_s is None:
            return False
        done = self._may_try(visit, "end", _RETRY_S) and self._try(
            visit, "end", partial(self._note, visit, COMPLETE)
        )
        if not done:
            if time.monotonic() - visit.ended_s < _GIVE_UP_S:
                return False
            watcher.over.append(visit.facts)  # open rows are never removed
        for what in ("picture", "row", "over", "end"):
            self._tried.pop((visit.visit_id, what), None)
        return True

    def _note(self, visit: Visit, over: int) -> None:
        """Update the end and state of a visit's row; ``over`` is the state if the visit has ended."""
        self._archive.follow(visit.facts, OPEN if visit.ended_s is None else over)

    def _end_kept(self, watcher: CameraWatcher) -> None:
        """Complete the rows of visits that are over; the watching thread may add more."""
        while watcher.over:
            try:
                self._archive.follow(watcher.over[0])
            except (OSError, sqlite3.Error):
                return  # retried at the next turn
            del watcher.over[0]

    def _keep_blind(self, watcher: CameraWatcher) -> None:
        """Create or update the row of a period in which a camera is not watched."""
        blind = self._blind[watcher.camera]
        since = watcher.blind_since_unix_ns
        now_s = time.monotonic()
        if since is None and not blind.row:
            return
        if since is not None and now_s - blind.kept_s < _BLIND_S:
            return
        blind.kept_s = now_s
        # On a full disk, the timeline shows the camera as watched
        with suppress(OSError, sqlite3.Error):
            if not blind.row:
                assert since is not None
                blind.row = self._archive.begin_blind(watcher.camera, since)
            self._archive.keep_blind(blind.row, time.time_ns())
            if since is None:
                blind.row, blind.kept_s = 0, 0.0

    def _maintain(self) -> None:
        fault = ""
        # Each although the other fails: on a full disk, the removal makes room
        for what, work in (
            ("old visits cannot be removed", partial(self._archive.retain, self._step_begins)),
            ("the timeline cannot be saved", self._archive.keep_watch),
        ):
            try:
                work()
            except (OSError, sqlite3.Error) as error:
                if not fault and not self._upkeep_fault:
                    advice = remedy(error, self._archive.files.parent)
                    logger.warning("%s: %s. Remedy: %s", what, error, advice)
                fault = str(error)
        self._upkeep_fault = fault

    def _may_try(self, visit: Visit, what: str, pause_s: float) -> bool:
        tried = self._tried.get((visit.visit_id, what))
        return tried is None or time.monotonic() - tried >= (_RETRY_S if self._fault else pause_s)

    def _try(self, visit: Visit, what: str, work: Callable[[], None]) -> bool:
        self._tried[visit.visit_id, what] = time.monotonic()
        try:
            work()
        except (OSError, sqlite3.Error) as error:
            self._report_fault(visit, error)
            return False
        return True

    def _report_fault(self, visit: Visit, error: Exception) -> None:
        metrics.EVIDENCE_ERRORS.labels(visit.camera, "disk").inc()
        if not self._fault:
            logger.error(
                "pictures and clips of visits cannot be saved: %s. Remedy: %s; detection and events continue",
                error,
                remedy(error, self._archive.files.parent),
                extra=_extra(visit),
            )
        self._fault = str(error)

    def _clear_fault(self) -> None:
        if self._fault:
            self._fault = ""
            logger.info("pictures and clips of visits are saved again")


def _give_up(visit: Visit, *, is_busy: bool) -> None:
    """Free the memory of a visit's picture and of its clip, unless it has a file; the row can still be completed.

    Args:
        visit: A visit that has ended.
        is_busy: Whether a thread is in a step of this visit, and closes the clip itself.
    """
    best = visit.run.best
    if best is not None:
        if best.value > visit.picture_value:
            metrics.EVIDENCE_ERRORS.labels(visit.camera, "disk").inc()
        visit.run.best = None
    clip = visit.clip
    if not visit.clip_done and clip is not None and clip.path is None:
        metrics.EVIDENCE_ERRORS.labels(visit.camera, "disk").inc()
        visit.clip, visit.clip_done = None, True
        if not is_busy:
            clip.close()


def _extra(visit: Visit) -> dict[str, str]:
    return {"camera": visit.camera, "visit": visit.visit_id}
