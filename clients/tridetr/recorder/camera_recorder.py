"""Record one camera: follow its visits, select the best frame of each, and collect the video for its clip.

The rings are read by polling, and no slot is held longer than a copy takes. The controller's board determines when a
visit begins and ends, and to which frames: a result belongs to the visit that its frame was decided in, however late
recorder or controller are. A result that the board cannot assign belongs to no visit.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import simplejpeg

from tridetr.config import Config
from tridetr.controller.payloads import FrameFacts
from tridetr.controller.sight import Judge, Sighting
from tridetr.errors import ShmError
from tridetr.gateway.encode import Color
from tridetr.i420 import planes
from tridetr.recorder.archive import Archive, Kept, VisitFacts
from tridetr.recorder.clips import STILLS_FPS, PacketClip, Span, Still, StillsClip
from tridetr.recorder.evidence_database import VISIT_ID
from tridetr.recorder.undecided import Undecided, UndecidedResults
from tridetr.recorder.visit_picture import BestFrame, Planes, value_of
from tridetr.remux import can_remux
from tridetr.served_model import ServedModelReader
from tridetr.shm.boards import SentryReader, SentrySnapshot, SentryState
from tridetr.shm.closing import Closing
from tridetr.shm.detections import DetectionReader
from tridetr.shm.frames import ColorRange, FrameLease, FrameReader
from tridetr.shm.packets import PacketReader
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.recorder")

_LOOK_S = 1.0
_GAP_NS = 5_000_000_000  # a longer gap between two detections starts a new run
_MISSED_NS = 1_000_000_000  # a longer gap without detections ends a run without a visit
_STILL_QUALITY = 80  # with noise, quality 90 takes 25 % longer
_STILL_NS = round(0.9e9 / STILLS_FPS)
_STATIC_NS = 900_000_000  # interval between stills of a static scene


@dataclass(slots=True)
class Run:
    """A run of results with an alarm class, which may become a visit; times are capture times."""

    first_ns: int
    first_unix_ns: int
    last_ns: int
    last_unix_ns: int
    best: BestFrame | None = None


@dataclass(slots=True)
class Visit:
    """A visit that is being recorded; written by the watching thread, read by the writing threads.

    Attributes:
        camera: Name of the camera.
        visit_id: ID of the visit.
        class_name: Class that opened the visit.
        run: First and last detection, and the best frame.
        span: Start and end of the clip.
        clip: The clip; None if there is none.
        ended_s: Monotonic time at which the visit ended; None = it is open.
        picture_value: Value of the picture that was saved.
        picture_done: Whether no other picture will be saved.
        clip_done: Whether the clip was saved or given up.
    """

    camera: str
    visit_id: str
    class_name: str
    run: Run
    span: Span
    clip: PacketClip | StillsClip | None = None
    ended_s: float | None = None
    picture_value: float = 0.0
    picture_done: bool = False
    clip_done: bool = False

    @property
    def facts(self) -> VisitFacts:
        return VisitFacts(
            self.visit_id,
            self.camera,
            self.class_name,
            self.run.first_unix_ns,
            self.run.last_unix_ns,
        )


@dataclass(slots=True)
class _Stills:
    """The pre-roll of a camera without packets: recent stills, limited in age and size."""

    found: deque[Still] = field(default_factory=deque)
    size: int = 0
    after: int = 0

    def put(self, still: Still, keep_ns: int, most: int) -> None:
        self.found.append(still)
        self.size += len(still.jpeg)
        while self.found and (
            self.found[0].capture_ns < still.capture_ns - keep_ns or self.size > most
        ):
            self.size -= len(self.found.popleft().jpeg)


class CameraWatcher(Closing):
    """Follows the visits of one camera. For one thread.

    Attributes:
        camera: Name of the camera.
        visits: Visits that are being recorded; the writing thread removes those that are complete.
        kept: Visits that an earlier recorder left open, by ID.
        over: Visits that have ended, but whose rows are still open.
        blind_since_unix_ns: Wall-clock time since which the camera is not watched; None = it is.
    """

    def __init__(
        self, config: Config, camera: str, models: ServedModelReader, archive: Archive
    ) -> None:
        assert config.evidence is not None
        self.camera = camera
        self.visits: list[Visit] = []
        self.blind_since_unix_ns: int | None = None
        self.kept: dict[str, Kept] = {}
        self.over: list[VisitFacts] = []
        self._archive = archive
        self._instance = config.instance
        self._keys = config.evidence
        self._hold_ns = round(config.sentry_for(camera).hold_s * 1e9)
        before_s = config.evidence.before_s + config.sentry_for(camera).confirm_s
        self._stills_ns = round((before_s + 2.0) * 1e9)
        self._most_stills = round(config.packets.max_mib * 2**20)
        self._static_ns = 0  # capture time of the newest result, if it repeats an earlier one
        self._judge = Judge(config, camera, models)
        self._is_masked = bool(config.cameras[camera].mask)
        self._run: Run | None = None
        self._open: Visit | None = None
        self._undecided = UndecidedResults()
        self._ended = 0  # newest frame that does not belong to the open visit, or to the next one
        self._after = 0
        self._look_s = 0.0
        self._has_packets = False
        self._stills = _Stills()
        with ExitStack() as stack:
            self._results = stack.enter_context(DetectionReader(config.instance, camera, None))
            self._frames = stack.enter_context(FrameReader(config.instance, camera, None))
            self._packets = stack.enter_context(PacketReader(config.instance, camera))
            self._board = stack.enter_context(SentryReader(config.instance, camera))
            self._closing = stack.pop_all()

    @property
    def is_busy(self) -> bool:
        """Whether the next frames may contain the best picture, so that polling must be fast."""
        return self._run is not None or self._open is not None or self._undecided.has_boxes

    def poll(self) -> None:
        """Process new results, the board and new frames."""
        now_s = time.monotonic()
        if now_s >= self._look_s:
            self._look_s = now_s + _LOOK_S
            self._check_rings()
        try:
            board = self._board.read()
            if board is not None:
                self._end_outdated(board)
            self._read_results(board.decided_frame_sequence if board is not None else 0)
            self._follow(board)
            if self._keys.clips and not self._has_packets:
                self._take_still()
        except ShmError as error:
            logger.debug("%s", error, extra={"camera": self.camera})

    def close(self) -> None:
        """Close the rings."""
        self._closing.close()

    def _check_rings(self) -> None:
        try:
            for ring in (self._results, self._frames, self._packets):
                ring.forget_if_removed()
            info = None if self._is_masked else self._packets.newest_info()
        except ShmError:
            return
        self._has_packets = info is not None and can_remux(info)
        if self._has_packets:
            self._stills = _Stills(after=self._stills.after)

    def _end_outdated(self, board: SentrySnapshot) -> None:
        """End the visit, or the run, that is over; results that were not read before do not belong to it for sure."""
        if self._open is None:
            is_over = self._ended != board.ended_frame_sequence
        else:
            is_over = self._open.visit_id != board.visit_id
        self._ended = board.ended_frame_sequence
        if is_over:
            self._end()

    def _take_decided(self, decided: int) -> None:
        for result in self._undecided.take(decided):
            self._take(result)

    def _read_results(self, decided: int) -> None:
        """Process the results that the controller has decided on: those that waited for it, and new ones.

        Args:
            decided: Sequence, in the frame ring, of the newest frame that was decided on.
        """
        self._take_decided(decided)
        while (lease := self._results.lease_next(self._after)) is not None:
            with lease:
                self._after = lease.sequence
                try:
                    sighting = Sighting(lease.stamp, lease.detections.copy())
                except ShmError:
                    continue
            stamp = sighting.stamp
            self._static_ns = stamp.capture_monotonic_ns if stamp.repeated else 0
            facts = self._judge.judge(sighting)
            frame = self._better_frame(facts)
            self._undecided.put(Undecided(facts, stamp.capture_monotonic_ns, frame))
            self._take_decided(decided)

    def _take(self, result: Undecided) -> None:
        """Process one result that the controller has decided on."""
        facts, capture_ns, frame = result.facts, result.capture_ns, result.frame
        if facts.sequence <= self._ended:
            return
        if not facts.boxes:
            run = self._run
            if self._open is None and run and not 0 <= capture_ns - run.last_ns < _MISSED_NS:
                self._run = None
            return
        run = self._run
        if self._open is None and run is not None and not 0 <= capture_ns - run.last_ns < _GAP_NS:
            run = None
        if run is None:
            at = capture_ns, facts.capture_unix_ns
            run = self._run = Run(*at, *at)
        run.last_ns, run.last_unix_ns = capture_ns, facts.capture_unix_ns
        if self._open is not None:
            self._open.span.end_ns = capture_ns + round(self._keys.after_s * 1e9)
        if frame is not None and frame.value > self._best_value:
            run.best = frame

    @property
    def _best_value(self) -> float:
        """Value of the best frame so far, or of a picture that an earlier recorder saved."""
        best = self._run.best if self._run is not None else None
        return max(
            best.value if best is not None else 0.0,
            self._open.picture_value if self._open is not None else 0.0,
        )

    def _better_frame(self, facts: FrameFacts) -> BestFrame | None:
        """Return a result's frame if it is better than the best one so far and was not overwritten."""
        if not self._keys.pictures or not facts.boxes or value_of(facts)[0] <= self._best_value:
            return None
        pixels = self._pixels_of(facts)
        return BestFrame.of(facts, pixels) if pixels is not None else None

    def _pixels_of(self, facts: FrameFacts) -> Planes | None:
        """Return a copy of the pixels of a result's frame; None if they were overwritten."""
        lease = self._frames.lease_next(facts.sequence - 1)
        if lease is None:
            return None
        with lease:
            if lease.sequence != facts.sequence:
                return None
            return Planes(lease.width, lease.height, lease.planes.copy(), _color(lease))

    def _follow(self, board: SentrySnapshot | None) -> None:
        now_ns = time.monotonic_ns()
        expired = board is None or board.expires_monotonic_ns < now_ns
        is_blind = expired or board is None or board.state is SentryState.UNKNOWN
        if not is_blind:
            self.blind_since_unix_ns = None
        elif self.blind_since_unix_ns is None:
            self.blind_since_unix_ns = time.time_ns()
        if board is None:
            return
        if expired:  # a restarted controller continues its visit
            if now_ns - board.expires_monotonic_ns > self._hold_ns:
                self._end()
            return
        for visit_id in [name for name in self.kept if name != board.visit_id]:
            self.over.append(self.kept.pop(visit_id).facts)
        if self._open is None and VISIT_ID.fullmatch(board.visit_id):
            self._begin(board)

    def _begin(self, board: SentrySnapshot) -> None:
        run = self._run
        if run is None:  # seen before this process started
            at = time.monotonic_ns(), time.time_ns()
            run = self._run = Run(*at, *at)
        kept = self.kept.pop(board.visit_id, None)
        if kept is not None:
            behind_ns = run.first_unix_ns - kept.facts.started_unix_ns
            run.first_ns -= behind_ns
            run.first_unix_ns = kept.facts.started_unix_ns
        span = Span(
            run.first_ns - round(self._keys.before_s * 1e9),
            run.last_ns + round(self._keys.after_s * 1e9),
        )
        visit = Visit(self.camera, board.visit_id, board.visit_class, run, span)
        if kept is not None:
            visit.picture_value = kept.picture_value
        if self._keys.clips and not (kept and kept.has_clip):
            visit.clip = self._new_clip(visit.visit_id, span)
        visit.clip_done = visit.clip is None
        visit.picture_done = not self._keys.pictures
        self._open = visit
        self.visits.append(visit)

    def _new_clip(self, visit_id: str, span: Span) -> PacketClip | StillsClip:
        name = f"{visit_id}-{time.time_ns():x}.mp4"

        def part() -> Path:
            return self._archive.part(name)

        largest = self._archive.largest_clip
        if self._has_packets:
            return PacketClip(self._instance, self.camera, span, part, largest)
        return StillsClip(self._stills.found, span, part, largest)

    def _end(self) -> None:
        visit, self._open, self._run = self._open, None, None
        if visit is not None:
            visit.span.is_final = True
            visit.ended_s = time.monotonic()

    def _take_still(self) -> None:
        """Save the newest picture for the clips of a camera without packets."""
        lease = self._frames.lease_newest(self._stills.after)
        if lease is None:
            return
        with lease:
            stamp = lease.stamp
            found = self._stills.found
            passed_ns = stamp.capture_monotonic_ns - found[-1].capture_ns if found else -1
            if 0 <= passed_ns < _STATIC_NS and self._is_static(stamp.capture_monotonic_ns):
                return  # checked again: the frame's own result may show a change
            self._stills.after = lease.sequence
            if 0 <= passed_ns < _STILL_NS:
                return
            pixels, color = lease.planes.copy(), _color(lease)
        jpeg = simplejpeg.encode_jpeg_yuv_planes(
            *planes(pixels), quality=_STILL_QUALITY, fastdct=True
        )
        still = Still(stamp.capture_monotonic_ns, stamp.capture_unix_ns, jpeg, color)
        self._stills.put(still, self._stills_ns, self._most_stills)
        for visit in self.visits:
            if (
                isinstance(visit.clip, StillsClip)
                and not visit.clip_done
                and not visit.clip.add(still)
            ):
                metrics.EVIDENCE_ERRORS.labels(self.camera, "missed").inc()

    def _is_static(self, capture_ns: int) -> bool:
        """Whether the motion gate considers the scene static, and no clip is being recorded."""
        if self._is_recording or not self._static_ns:
            return False
        return capture_ns - self._static_ns < _STATIC_NS

    @property
    def _is_recording(self) -> bool:
        return any(not visit.clip_done for visit in self.visits)


def _color(lease: FrameLease) -> Color:
    stamp = lease.stamp
    return Color(stamp.color_range is ColorRange.FULL, stamp.color_matrix.name)
