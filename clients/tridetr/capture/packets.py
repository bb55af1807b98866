"""Publishes a camera's packets as they leave the demuxer, before they are decoded."""

from __future__ import annotations

import io
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import av
from av.bitstream import BitStreamFilterContext

from tridetr.backoff import Backoff
from tridetr.capture.sources.av import frame_rate
from tridetr.capture.sources.picture import color_of
from tridetr.codec_string import HEAD_BYTES, codec_string, units
from tridetr.config import PacketsSection
from tridetr.errors import ShmError
from tridetr.shm import names
from tridetr.shm.closing import Closing
from tridetr.shm.packets import PacketStamp, PacketWriter, StreamInfo, VideoCodec
from tridetr.shm.values import ColorMatrix, ColorRange
from tridetr.telemetry import metrics

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from tridetr.capture.sources.pump import Feed

_log = logging.getLogger("tridetr.capture")

_CODECS = {"h264": VideoCodec.H264, "hevc": VideoCodec.HEVC, "mjpeg": VideoCodec.MJPEG}
_NO_KEY_FLAG = {"mjpeg", "rawvideo"}  # each packet is a complete picture
# Also what opening and mapping its file may raise: no descriptor or memory is left
_RING_ERRORS = (ShmError, OSError)


class PacketSink(Closing):
    """Writes one camera's packets to its packet ring, which the first stream creates; a context manager.

    If it cannot write, it logs why and retries with growing delays: frames and detections do not depend on it.
    Not safe for concurrent calls.
    """

    def __init__(
        self, instance: str, camera: str, section: PacketsSection, kind: str = names.PACKETS
    ) -> None:
        self._instance = instance
        self._camera = camera
        self._section = section
        self._kind = kind
        self._writer: PacketWriter | None = None
        self._info: StreamInfo | None = None
        self._written_info: StreamInfo | None = None  # as last written to the ring
        self._backoff = Backoff(first_s=1.0, longest_s=60.0, steady_s=60.0)
        self._opened_s = 0.0
        self._retry_s = 0.0
        self._errors = metrics.PACKET_RING_ERRORS.labels(camera)
        self._in_band: BitStreamFilterContext | None = None
        self._discontinuity = True

    def open(self, stream: VideoStream, *, rotation: int = 0) -> None:
        """Start to publish a stream that FFmpeg demuxes.

        Args:
            stream: FFmpeg's stream, whose packets go to `put`.
            rotation: Degrees clockwise by which its pictures must be turned to be upright.
        """
        info = replace(describe(stream), rotation=rotation)
        self._in_band = None
        if info.codec in (VideoCodec.H264, VideoCodec.HEVC) and info.is_annexb:
            self._in_band = BitStreamFilterContext("extract_extradata", stream)
        self._begin(info)

    def open_jpegs(self, width: int, height: int, fps: float) -> None:
        """Start to publish a stream of JPEGs that FFmpeg does not demux."""
        self._in_band = None
        self._begin(
            StreamInfo(
                codec=VideoCodec.MJPEG,
                codec_name="mjpeg",
                codec_string="",
                extradata=b"",
                width=width,
                height=height,
                rotation=0,
                color_range=ColorRange.FULL,
                color_matrix=ColorMatrix.BT601,
                time_base=(1, 1_000_000_000),
                fps=fps,
            )
        )

    def begin(self, feed: Feed) -> None:
        """Start to publish the stream of a connection."""
        if feed.stream is not None:
            self.open(feed.stream)
        else:
            self.open_jpegs(feed.facts.width, feed.facts.height, feed.facts.fps)

    def put(self, packet: av.Packet[VideoStream], monotonic_ns: int, unix_ns: int) -> None:
        """Publish a packet with its capture time."""
        info = self._info
        if info is None:
            return
        is_key = packet.is_keyframe or info.codec_name in _NO_KEY_FLAG
        if not self._is_open(is_key=is_key):
            return
        if is_key and self._in_band is not None:
            self._follow_parameters(packet, info)
            if self._writer is None:
                return
        self._put(
            memoryview(packet),
            PacketStamp(
                monotonic_ns,
                unix_ns,
                packet.pts,
                packet.dts,
                packet.duration,
                is_key,
                self._discontinuity,
                packet.is_corrupt,
            ),
        )

    def put_jpeg(self, jpeg: memoryview, monotonic_ns: int, unix_ns: int) -> None:
        """Publish a JPEG with its capture time."""
        if self._is_open(is_key=True):
            self._put(
                jpeg,
                PacketStamp(
                    monotonic_ns,
                    unix_ns,
                    monotonic_ns,
                    monotonic_ns,
                    None,
                    True,
                    self._discontinuity,
                ),
            )

    def is_wanted(self) -> bool:
        """Return whether a reader wants the stream (see `PacketWriter.is_wanted`); create the ring if necessary."""
        if not self._is_open(is_key=True):
            return False
        assert self._writer is not None
        try:
            return self._writer.is_wanted()
        except _RING_ERRORS as error:
            self._give_up(error)
            return False

    def clear(self) -> None:
        """Discard all packets and free their memory."""
        if self._writer is not None:
            self._writer.clear()

    def close(self) -> None:
        """Close the ring; its file stays for readers."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _begin(self, info: StreamInfo) -> None:
        self._info = info
        self._discontinuity = True
        if time.monotonic() >= self._retry_s:
            self._open()

    def _is_open(self, *, is_key: bool) -> bool:
        """Return whether packets can be written; after an error, retry at a key frame once the delay has passed."""
        if self._writer is None and is_key and time.monotonic() >= self._retry_s:
            self._discontinuity = True
            self._open()
        return self._writer is not None

    def _open(self) -> None:
        try:
            if self._writer is None:
                self._writer = PacketWriter(
                    self._instance,
                    self._camera,
                    seconds=self._section.seconds,
                    max_mib=self._section.max_mib,
                    kind=self._kind,
                )
                self._opened_s = time.monotonic()
                self._written_info = None
            if self._info is not None:
                self._start(self._info)
        except _RING_ERRORS as error:
            self._give_up(error)

    def _start(self, info: StreamInfo) -> None:
        """Write the stream information of the following packets if it has changed."""
        assert self._writer is not None
        if info != self._written_info:
            self._writer.start_stream(info)
            self._written_info = info

    def _put(self, data: memoryview, stamp: PacketStamp) -> None:
        assert self._writer is not None
        try:
            self._writer.put(data, stamp)
            self._discontinuity = False
        except _RING_ERRORS as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        now_s = time.monotonic()
        delay_s = self._backoff.failed(now_s - self._opened_s if self._writer is not None else 0.0)
        self._retry_s = now_s + delay_s
        self._errors.inc()
        _log.warning(
            "cannot publish the camera's packets: %s; trying again in %.1f s", error, delay_s
        )
        self.close()

    def _follow_parameters(self, packet: av.Packet[VideoStream], info: StreamInfo) -> None:
        """Update the stream information if a key frame carries new parameter sets."""
        assert self._in_band is not None
        head = bytes(memoryview(packet)[:HEAD_BYTES])
        sets = b""
        try:
            for filtered in self._in_band.filter(av.Packet(head)):
                if filtered.has_sidedata("new_extradata"):
                    sets = bytes(filtered.get_sidedata("new_extradata"))
        except av.FFmpegError:
            self._in_band.flush()
            return
        if not sets or set(units(sets)) == set(units(info.extradata)):
            return
        self._info = replace(
            _probed(info.codec_name, bytes(memoryview(packet)), sets) or info,
            extradata=sets,
            codec_string=codec_string(info.codec_name, sets),
            rotation=info.rotation,
            time_base=info.time_base,
            fps=info.fps,
        )
        try:
            self._start(self._info)
        except _RING_ERRORS as error:
            self._give_up(error)


def describe(stream: VideoStream) -> StreamInfo:
    """Return what a decoder needs to know about a stream; the rotation is left at 0."""
    context = stream.codec_context
    extradata = context.extradata or b""
    color_range, matrix = color_of(
        context.pix_fmt or "", context.color_range, context.colorspace, stream.height
    )
    base = stream.time_base
    return StreamInfo(
        codec=_CODECS.get(context.name, VideoCodec.OTHER),
        codec_name=context.name,
        codec_string=codec_string(context.name, extradata),
        extradata=extradata,
        width=stream.width,
        height=stream.height,
        rotation=0,
        color_range=color_range,
        color_matrix=matrix,
        time_base=(base.numerator, base.denominator) if base else (1, 90_000),
        fps=frame_rate(stream),
        reorder=context.reorder_depth,
    )


def _probed(codec: str, key_frame: bytes, sets: bytes) -> StreamInfo | None:
    """Return the stream information that FFmpeg reads from a key frame; None if there is none."""
    try:
        with av.open(io.BytesIO(sets + key_frame), format=codec) as container:
            return describe(container.streams.video[0])
    except (av.FFmpegError, IndexError):
        return None
