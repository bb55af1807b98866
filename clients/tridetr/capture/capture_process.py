"""Capture process of one camera: reads the source, paces and publishes its frames, and reconnects after failures."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from tridetr.capture.blind import BlindDetector
from tridetr.capture.delivery import Delivery
from tridetr.capture.frame_watch import FrameWatch
from tridetr.capture.frozen import FrozenDetector
from tridetr.capture.mask import remove_unmasked
from tridetr.capture.memory_limit import return_memory
from tridetr.capture.pacing import Pace, Pacer
from tridetr.capture.publisher import Publisher
from tridetr.capture.reconnect import ReconnectDelays
from tridetr.capture.sentry import Sentry
from tridetr.capture.sources.base import (
    CorruptFrameError,
    Grab,
    NoPictureYetError,
    Plane,
    Source,
    SourceEndedError,
    SourceInfo,
    SourceLostError,
)
from tridetr.capture.sources.select import make_source
from tridetr.capture.status import StatusReporter
from tridetr.config import Config
from tridetr.errors import NoSpaceError, SourceError, TridetrError
from tridetr.jpeg import read_info
from tridetr.shm.boards import BlindReason, CameraState
from tridetr.shm.frames.frame_table import MAX_SIDE
from tridetr.telemetry import heartbeat, metrics
from tridetr.telemetry.logs import Limiter

_log = logging.getLogger("tridetr.capture")

_BLIND_MESSAGES = {
    BlindReason.COVERED: "the camera is covered, or in complete darkness",
    BlindReason.DAZZLED: "the camera is dazzled: the picture is white",
    BlindReason.BLURRED: "the picture is blurred: is the lens out of focus, wet or dirty?",
    BlindReason.TURNED: "the camera shows a different view than usual: was it turned?",
}
_KEEP_MEMORY_S = 300.0  # then a camera that delivers nothing frees its ring memory
_OFFLINE_LINES_S = 30.0  # between log lines for short waits; each longer wait is logged
_TURN_S = 0.2  # longest wait for a frame before stop and timeout are checked
_FPS_WINDOW_NS = 1_000_000_000


def run(config: Config, camera: str, stop: threading.Event) -> None:
    """Capture one camera until `stop` is set or a file that does not loop has ended.

    Raises:
        ConfigError: The camera's source or credentials are invalid.
        ShmError: A ring, board or queue cannot be created.
    """
    section = config.cameras[camera]
    with ExitStack() as stack:
        status = stack.enter_context(StatusReporter(config.instance, camera))
        sentry = stack.enter_context(Sentry(config.instance, camera))
        if section.mask:
            remove_unmasked(config.instance, camera)
        sink: Publisher | FrameWatch
        if section.decode == "gpu":
            sink = FrameWatch(config.instance, camera, config.sentry_for(camera).standby_fps)
        else:
            sink = Publisher(config.instance, camera, section)
        stack.enter_context(sink)
        packets = None
        if not section.mask and section.source.kind != "synthetic":
            from tridetr.capture.packets import PacketSink  # loads FFmpeg

            packets = stack.enter_context(PacketSink(config.instance, camera, config.packets))
        if section.view is not None:
            from tridetr.capture.view_stream import ViewStream

            stack.enter_context(
                ViewStream(config.instance, camera, section, config.packets, status.view)
            )
        source = make_source(camera, section, stop, packets)
        stack.callback(source.close)
        try:
            Capture(config, camera, stop, source, status, sentry, sink).run()
        except TridetrError as error:
            status.state(CameraState.OFFLINE, str(error))  # viewers see why the process ended
            raise


class Capture:
    """Capture loop of one camera; its source, sink and reporters are passed in."""

    def __init__(
        self,
        config: Config,
        camera: str,
        stop: threading.Event,
        source: Source,
        status: StatusReporter,
        sentry: Sentry,
        sink: Publisher | FrameWatch,
    ) -> None:
        section = config.cameras[camera]
        self._stop = stop
        self._source = source
        self._status = status
        self._sentry = sentry
        self._sink = sink
        self._timeout_s = section.timeout_s
        self._lossless = not section.realtime
        self._pacer = Pacer(config.sentry_for(camera).standby_fps, section.fps)
        self._frozen = FrozenDetector(section.frozen_s, may_repeat=section.source.kind == "file")
        self._blind = BlindDetector() if section.blind_check else None
        keys = config.sentry_for(camera)
        self._saves_decoding = section.source.is_network and keys.standby_decode == "keyframes"
        self._delivery = Delivery(
            keys.unknown_s, math.inf if self._saves_decoding else keys.longest_interval_s
        )
        self._pace = Pace.NO_CONTROLLER
        self._next_number = 0
        self._live_since_s: float | None = None
        self._last_good_s = 0.0
        self._damaged = False  # a picture since the last good frame
        self._published_s = time.monotonic()
        self._max_pixels = section.max_pixels
        self._fps_from_ns = 0
        self._fps_frames = 0
        self._corrupt_lines = Limiter(10.0)
        self._offline_lines = Limiter(_OFFLINE_LINES_S)
        self._skipped = {
            reason: metrics.FRAMES_SKIPPED.labels(camera, reason)
            for reason in ("pacing", "ring_full", "corrupt", "stale", "lost")
        }

    def run(self) -> None:
        """Publish the source's frames and reopen it after failures, until stop is set or a file ends.

        Raises:
            SourceError: The memory of a closed source is still in use.
        """
        delays = ReconnectDelays(first_s=0.25)
        while not self._stop.is_set():
            self._live_since_s = None
            try:
                info = self._source.open()
                if info.width and info.height:
                    self._bound(info.width, info.height)
                _log.info("opened %s; capture clock: %s", info.description, info.capture_clock)
                self._status.opened(info)
                self._stream(info)
            except SourceEndedError as ended:
                self._status.state(CameraState.ENDED, str(ended))
                return
            except SourceError as error:
                if self._stop.is_set():
                    return
                live_s = 0.0
                if self._live_since_s is not None:
                    live_s = time.monotonic() - self._live_since_s
                self._source.close()
                return_memory()
                self._wait_offline(str(error), delays.failed(error, live_s))

    def _wait_offline(self, message: str, delay_s: float) -> None:
        kept_back = self._offline_lines.allow(time.monotonic())
        if kept_back is not None or delay_s > _OFFLINE_LINES_S:
            _log.warning("%s; trying again in %.1f s", message, delay_s)
        self._status.state(CameraState.OFFLINE, message)
        until = time.monotonic() + delay_s
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            heartbeat.beat()
            if time.monotonic() - self._published_s > _KEEP_MEMORY_S:
                self._sink.give_memory_back()
            self._stop.wait(min(1.0, left))
        self._status.reconnecting()

    def _stream(self, info: SourceInfo) -> None:
        """Publish frames until the source is lost or ends."""
        self._pace = Pace.NO_CONTROLLER  # a newly opened source decodes everything
        self._frozen.reopened()
        self._delivery.reopened()
        if self._blind is not None:
            self._blind.reset()
        if info.width and info.height:  # 0 while unknown: the first picture decides
            self._bound(info.width, info.height)
        self._last_good_s = time.monotonic()
        self._damaged = False
        self._fps_from_ns = 0
        if isinstance(self._sink, FrameWatch):
            self._sink.expect()
        while not self._stop.is_set():
            heartbeat.beat()
            self._follow_alarm()
            try:
                grab = self._source.next(_TURN_S)
                if grab is not None:
                    self._take(grab)
                    if info.live and grab.is_doubtful:
                        self._delivery.doubtful(grab.monotonic_ns)
                    elif info.live:
                        self._delivery.good(grab.monotonic_ns)
                    self._last_good_s = time.monotonic()
                    self._damaged = False
                    self._measure(info)
                    continue
            except CorruptFrameError as error:
                self._corrupt(error)
            except NoPictureYetError as why:
                self._last_good_s = time.monotonic()
                self._status.state(CameraState.OFFLINE, str(why))
            # No timeout for files: a slow one, such as a time lapse, is not lost
            if info.kind != "file" and time.monotonic() - self._last_good_s > self._timeout_s:
                damage = ": all pictures are damaged" if self._damaged else ""
                raise SourceLostError(f"no good frame for {self._timeout_s:g} s{damage}")

    def _follow_alarm(self) -> None:
        """Pass on a change of pace; discard stale frames when the camera has just become alarmed."""
        before, self._pace = self._pace, self._sentry.pace()
        if self._saves_decoding and (self._pace is Pace.STANDBY) != (before is Pace.STANDBY):
            self._source.decode_only_keys(self._pace is Pace.STANDBY)
        if self._pace is Pace.ALARMED and before is Pace.STANDBY:
            self._count("stale", self._source.drop_stale())

    def _take(self, grab: Grab) -> None:
        lost = grab.number - self._next_number
        if lost > 0 and self._live_since_s is not None:
            self._count("lost", lost)
        self._next_number = grab.number + 1
        if self._live_since_s is None:
            self._live_since_s = time.monotonic()
        if isinstance(self._sink, FrameWatch):
            self._watch(grab, self._sink)
            return
        # Read again: the pace may have changed while waiting for the frame
        if self._pacer.wants(grab.monotonic_ns, self._sentry.pace()):
            self._publish(grab, self._sink)
            self._published_s = time.monotonic()
        else:
            self._count("pacing", 1)

    def _watch(self, grab: Grab, frames: FrameWatch) -> None:
        """Judge the newest frame that the gpu process decoded from this camera's packets."""
        self._published_s = time.monotonic()
        lease = frames.newest()
        if lease is None:
            if fault := frames.fault(grab.monotonic_ns):
                self._status.state(CameraState.OFFLINE, fault)
            return
        with lease:
            luma = lease.planes[: lease.height]
            self._judge_view(
                lambda step: luma[::step], lease.height, lease.stamp.capture_monotonic_ns
            )

    def _publish(self, grab: Grab, publisher: Publisher) -> None:
        started = time.perf_counter_ns()
        if grab.jpeg is not None and (header := read_info(grab.jpeg)) is not None:
            self._bound(header.width, header.height)
        picture = grab.decode()
        self._bound(picture.width, picture.height)
        decode_ns = grab.decode_ns + time.perf_counter_ns() - started
        if not self._lossless and (grab.is_doubtful or self._is_suspect()):
            self._status.doubt(grab.monotonic_ns)  # before anyone can decide on it
        try:
            sequence = publisher.publish(grab, picture, decode_ns)
        except NoSpaceError as error:
            publisher.give_memory_back()
            raise SourceLostError(str(error)) from None
        while sequence is None and self._lossless and not self._stop.wait(0.01):
            heartbeat.beat()
            sequence = publisher.publish(grab, picture, decode_ns)
        if sequence is None:
            self._count("ring_full", 1)
            return
        if self._lossless:
            self._status.state(CameraState.LIVE)
            self._wait_decided(sequence)
        elif picture.draw is not None:
            self._status.state(CameraState.LIVE)
        else:
            self._judge_view(picture.luma_rows, picture.height, grab.monotonic_ns)

    def _bound(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise SourceLostError(
                f"pictures of {width}x{height} exceed max_pixels ({self._max_pixels:,}). Set a smaller "
                "resolution in the camera, or raise max_pixels for this camera"
            )
        if not all(2 <= side <= MAX_SIDE for side in (width, height)):
            raise SourceLostError(
                f"pictures of {width}x{height} cannot be used: each side must be 2 to {MAX_SIDE} pixels. Set another "
                "resolution in the camera"
            )

    def _judge_view(self, rows: Callable[[int], Plane], height: int, capture_ns: int) -> None:
        now = time.monotonic_ns()
        blind = self._blind.judge(rows, height, now) if self._blind is not None else None
        is_frozen = self._frozen.judge(rows, now)
        if is_frozen or blind is not None or self._is_suspect():
            self._status.doubt(capture_ns)
        if is_frozen:
            self._status.state(CameraState.FROZEN, "the camera keeps sending identical pictures")
        elif blind is not None:
            self._status.state(CameraState.BLIND, _BLIND_MESSAGES[blind], blind)
        else:
            self._status.state(CameraState.LIVE, self._delivery.fault or self._source.fault)

    def _is_suspect(self) -> bool:
        return self._blind is not None and self._blind.is_suspect

    def _wait_decided(self, sequence: int) -> None:
        warned = False
        while not self._stop.is_set():
            if self._sentry.decided(sequence, _TURN_S):
                return
            heartbeat.beat()
            if not warned and time.monotonic() - self._last_good_s > self._timeout_s:
                warned = True
                _log.warning(
                    "waiting for the detector and the controller, because of realtime: false"
                )

    def _corrupt(self, error: CorruptFrameError) -> None:
        self._damaged = True
        self._delivery.damaged(time.monotonic_ns())
        self._pacer.again()
        self._count("corrupt", 1)
        self._next_number += 1
        kept_back = self._corrupt_lines.allow(time.monotonic())
        if kept_back is not None:
            _log.warning("skipped: %s (%d more since the last line)", error, kept_back)

    def _count(self, reason: str, frames: int) -> None:
        if frames > 0:
            self._skipped[reason].inc(frames)
            if reason == "stale":
                self._next_number += frames

    def _measure(self, info: SourceInfo) -> None:
        """Measure the frame rate, and report it with the frame size."""
        now = time.monotonic_ns()
        if self._fps_from_ns == 0:
            self._fps_from_ns, self._fps_frames = now, 0
            return
        self._fps_frames += 1
        elapsed = now - self._fps_from_ns
        if elapsed >= _FPS_WINDOW_NS:
            fps = self._fps_frames * 1e9 / elapsed if info.live else None
            self._status.measured(*self._sink.size, fps)
            self._fps_from_ns, self._fps_frames = now, 0
