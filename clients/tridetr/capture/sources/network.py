"""RTSP and HTTP camera source; the capture time is when the packet arrived, before decoding."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from tridetr.capture.sources.base import (
    CorruptFrameError,
    Grab,
    NoPictureYetError,
    Source,
    SourceInfo,
    SourceLostError,
)
from tridetr.capture.sources.connect import connect
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.capture.sources.lateness import Lateness
from tridetr.capture.sources.playlist import PlayedSegments
from tridetr.capture.sources.pump import Arrival, Feed, PacketPump
from tridetr.capture.sources.video import CpuVideo, Decoded, Undecoded, VideoDecoder
from tridetr.config import CameraSection
from tridetr.errors import TridetrError

if TYPE_CHECKING:
    from tridetr.capture.packets import PacketSink

_log = logging.getLogger("tridetr.capture")

_KEY_FRAME_PATIENCE_NS = 3_000_000_000
_MISNUMBERED = 10  # jumps in the numbers of one connection, which then prove no loss
_UNSHOWN_SHARE = 0.4  # of timeout_s; without a picture for this long: report why


class NetworkSource(Source):
    """Reads a live network stream; frames are numbered in order of arrival, including lost ones."""

    def __init__(
        self, section: CameraSection, stop: threading.Event, packets: PacketSink | None = None
    ) -> None:
        self._packets = packets
        self._section = section
        self._unshown_s = _UNSHOWN_SHARE * section.timeout_s
        self._stop = stop
        self._pump: PacketPump | None = None
        self._closed: list[PacketPump] = []  # those that have not ended yet
        self._video: VideoDecoder | None = None
        self._jpeg: JpegDecoder | None = None
        self._ready: deque[Grab] = deque()
        self._played = PlayedSegments()
        self._lateness = Lateness()
        self._delivered = self._damaged = False  # a picture of this connection
        self._finds_gaps = True  # in the numbers of RTP packets
        self._feed: Feed | None = None
        self._next_number = 0
        self._next_index = 0
        self._last_ns = 0
        self._only_keys = False
        # Packets since the one decoded last, or since the key frame that was decoded alone
        self._left_out: list[Arrival] = []
        self._decoded_ns = 0  # arrival of the packet decoded last
        self._picture_s = 0.0  # when the newest picture was returned
        self._fresh_index = 0  # earlier packets are decoded without being shown

    @property
    def fault(self) -> str:
        """Why the pictures are late, or may be (see `Source`)."""
        return self._lateness.fault or self._lateness.doubt

    def open(self) -> SourceInfo:
        """Connect (see `Source`).

        Raises:
            TridetrError: An earlier connection does not end, as that of MPEG-TS over RTSP with a new PID; some day, the
                camera would refuse further ones. It ends with the process, which is started again.
        """
        source = self._section.source
        self._closed = [pump for pump in self._closed if pump.is_alive()]
        if any(pump.is_stuck() for pump in self._closed):
            raise TridetrError(f"{source}: an earlier connection has not ended; starting again")
        self._pump = PacketPump(
            lambda hang_up: connect(
                self._section,
                hang_up,
                self._played,
                finds_gaps=self._finds_gaps,
                lateness=self._lateness,
            ),
            source.shown,
            self._section.timeout_s,
            self._packets,
        )
        feed = self._feed = self._pump.start(self._stop)
        facts = feed.facts
        self._ready.clear()
        self._next_index = self._fresh_index = 0
        self._left_out.clear()
        self._decoded_ns = 0
        self._only_keys = False
        self._jpeg = self._video = None
        if facts.codec == "mjpeg":
            self._jpeg = JpegDecoder()
        else:
            assert feed.stream is not None
            self._video = (
                Undecoded()
                if self._section.decode == "gpu"
                else CpuVideo(feed.stream, self._section.max_pixels)
            )
        self._picture_s = time.monotonic()
        return SourceInfo(
            kind=source.kind,
            description=f"{facts.codec} {facts.width}x{facts.height} from {source}",
            capture_clock="arrival",
            width=facts.width,
            height=facts.height,
            fps=facts.fps,
        )

    def next(self, timeout_s: float) -> Grab | None:
        """Return the next frame that has arrived (see `Source`)."""
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            if self._pump is None:
                raise SourceLostError("the stream is not open")
            arrival = self._pump.get(max(0.0, deadline - time.monotonic()))
            if arrival is not None:
                self._take(arrival)
            elif time.monotonic() >= deadline:
                self._report_missing_picture()
                return None
        self._picture_s = time.monotonic()
        self._delivered = True
        return self._ready.popleft()

    def drop_stale(self) -> int:
        """Skip all waiting packets but the newest (see `Source`); they still have to be decoded."""
        if self._pump is None or self._jpeg is not None:
            return 0  # only the newest JPEG is kept anyway
        waiting = self._pump.waiting()
        self._fresh_index = waiting[-1] if waiting else 0
        return max(0, len(waiting) - 1)

    def decode_only_keys(self, only: bool) -> None:
        """Decode only key frames if the CPU decodes (see `Source`); decode skipped packets when this ends."""
        self._only_keys = only and isinstance(self._video, CpuVideo)
        if not only:
            self._catch_up()

    def close(self) -> None:
        """Close the connection."""
        self._ready.clear()
        self._left_out.clear()
        self._video = None
        if self._pump is not None:
            self._pump.close()
            self._closed.append(self._pump)
            self._pump = None
        self._played.close(self._delivered)
        self._finds_gaps = not (self._finds_gaps and self._is_misnumbered())
        self._feed = None
        self._delivered = self._damaged = False

    def _is_misnumbered(self) -> bool:
        """Return whether gaps in the numbers of this connection's packets prove no loss, so that no picture is good.

        Packets of other kinds on the same channel have numbers of their own, which then jump at nearly every packet.
        """
        misnumbered = self._feed.misnumbered if self._feed is not None else 0
        if misnumbered < _MISNUMBERED or self._delivered or not self._damaged:
            return False
        _log.warning(
            "%s: the sequence numbers of its packets jump all the time, so lost packets are not noticed in the next "
            "connection; turn off metadata and other extra streams of this URL in the camera",
            self._section.source,
        )
        return True

    def _waits_for_picture(self) -> bool:
        """Return whether packets arrive or did so lately, but no picture has come out for a while."""
        return (
            self._video is not None
            and self._pump is not None
            and not self._only_keys
            and time.monotonic() - self._picture_s > self._unshown_s
            and self._pump.delivers()
        )

    def _report_missing_picture(self) -> None:
        if self._waits_for_picture():
            assert self._pump is not None
            if self._pump.silent_s() > self._unshown_s:
                raise NoPictureYetError(
                    f"{self._section.source}: connected, but no video has arrived for {self._unshown_s:g} s; "
                    "are the camera and the network up?"
                )
            raise NoPictureYetError(
                f"{self._section.source}: connected, waiting for a key frame; set a shorter interval "
                "between key frames (GOP, I-frame interval) in the camera"
            )

    def _take(self, arrival: Arrival) -> None:
        self._next_number += arrival.index - self._next_index  # packets that the pump dropped
        self._next_index = arrival.index + 1
        if self._jpeg is not None:
            decoder, packet = self._jpeg, arrival.packet
            self._ready.append(
                Grab(
                    self._number(),
                    arrival.monotonic_ns,
                    arrival.unix_ns,
                    lambda: decoder.decode(packet),
                    memoryview(packet),
                )
            )
            return
        assert self._video is not None
        if self._only_keys and self._leave_out(arrival):
            return
        started = time.perf_counter_ns()
        try:
            if self._only_keys:
                assert isinstance(self._video, CpuVideo)
                decoded = self._video.decode_alone(arrival)
            else:
                decoded = self._video.decode(arrival)
        except CorruptFrameError:
            self._number()
            self._damaged = True
            if self._waits_for_picture():
                return
            raise
        spent = time.perf_counter_ns() - started
        damaged = None
        for item in decoded:
            number = self._number()
            if item.picture is None:
                damaged = number
            elif item.arrival.index >= self._fresh_index:
                self._ready.append(self._grab(item, number, spent))
        if damaged is not None:
            self._damaged = True
            raise CorruptFrameError(f"frame {damaged} is damaged")

    def _leave_out(self, arrival: Arrival) -> bool:
        """Return whether a packet can be left undecoded for now; it is kept until the next key frame."""
        assert isinstance(self._video, CpuVideo)
        is_key = arrival.packet.is_keyframe and self._video.has_key_frames
        self._left_out = [arrival] if is_key else [*self._left_out, arrival]
        if is_key:
            self._decoded_ns = arrival.monotonic_ns
        # With key frames this far apart, the camera would appear to hang
        elif arrival.monotonic_ns - self._decoded_ns > _KEY_FRAME_PATIENCE_NS:
            self._decoded_ns = arrival.monotonic_ns
            self._catch_up()
        return not is_key

    def _catch_up(self) -> None:
        """Decode the packets that were left out, and queue the newest picture."""
        newest = None
        for arrival in self._left_out:
            assert self._video is not None
            with contextlib.suppress(CorruptFrameError):
                for item in self._video.decode(arrival):
                    newest = item if item.picture is not None else newest
        self._left_out.clear()
        if newest is not None:
            self._ready.append(self._grab(newest, self._number(), 0))

    def _grab(self, item: Decoded, number: int, spent_ns: int) -> Grab:
        assert item.picture is not None
        arrival = item.arrival
        # With B-frames, a later picture arrives first; its capture time must still not go back
        late_ns = max(0, self._last_ns + 1 - arrival.monotonic_ns)
        self._last_ns = arrival.monotonic_ns + late_ns
        return Grab(
            number,
            self._last_ns,
            arrival.unix_ns + late_ns,
            item.picture,
            decode_ns=spent_ns,
            is_doubtful=item.is_doubtful,
        )

    def _number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number
