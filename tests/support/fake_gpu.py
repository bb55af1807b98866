"""Decoders of a simulated GPU (`support.fake_cuda`): FFmpeg decodes, and the results are stored where CUDA's would be.

Work on a stream is done when the stream is waited for, and surfaces are overwritten with the next packet, so code that
reads too early or too late sees other bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from support.fake_cuda import FakeCuda
from tridetr.gpu.decoder_api import (
    Codec,
    GpuDecodeError,
    GpuUnavailableError,
    JpegShape,
    Surface,
)
from tridetr.gpu.surface_layout import Copy2d, Subsampling

Plane = NDArray[np.uint8]
PADDING = 64  # bytes at the end of each row of a surface
GARBAGE = 0xAA


def rows_at(address: int, pitch: int, width: int, rows: int) -> Plane:
    """Return device memory as an array [rows, width]."""
    size = pitch * (rows - 1) + width
    flat = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return np.lib.stride_tricks.as_strided(flat, (rows, width), (pitch, 1))


class FakeGpu(FakeCuda):
    """Implements `tridetr.gpu.decoder_api.Gpu`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._scratch: dict[str, Plane] = {}

    def scratch(self, use: str, nbytes: int) -> int:
        if use not in self._scratch or self._scratch[use].size < nbytes:
            self._scratch[use] = np.full(nbytes, GARBAGE, np.uint8)
        return int(self._scratch[use].ctypes.data)

    def copy(self, copy: Copy2d, stream: int) -> None:
        def work() -> None:
            source = rows_at(copy.source, copy.source_pitch, copy.width, copy.rows)
            rows_at(copy.target, copy.target_pitch, copy.width, copy.rows)[:] = source

        self.queue(stream, work)

    def split_chroma(
        self, pairs: int, pitch: int, u: int, v: int, columns: int, rows: int, stream: int
    ) -> None:
        def work() -> None:
            source = rows_at(pairs, pitch, 2 * columns, rows)
            rows_at(u, columns, columns, rows)[:] = source[:, 0::2]
            rows_at(v, columns, columns, rows)[:] = source[:, 1::2]

        self.queue(stream, work)


class FakeJpeg:
    """Implements `JpegEngine`."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self.decoded = 0

    def shape(self, data: Plane) -> JpegShape:
        frame = self._frame(data)
        known = {"yuvj420p": Subsampling.S420, "yuvj422p": Subsampling.S422}
        return JpegShape(known.get(frame.format.name, Subsampling.OTHER), frame.width, frame.height)

    def decode(self, data: Plane, channels: tuple[tuple[int, int], ...], stream: int) -> None:
        frame = self._frame(data)
        self.decoded += 1
        for plane, (address, pitch) in zip(frame.planes, channels, strict=True):
            source = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)
            target = rows_at(address, pitch, plane.width, plane.height)
            self._gpu.queue(stream, partial(np.copyto, target, source[:, : plane.width].copy()))

    def _frame(self, data: Plane) -> av.VideoFrame:
        codec = av.CodecContext.create("mjpeg", "r")
        codec.options = {"err_detect": "explode"}
        try:
            frames = codec.decode(av.Packet(data.tobytes()))
        except av.FFmpegError as error:
            raise GpuDecodeError(str(error)) from None
        if not frames:
            raise GpuDecodeError("no picture")
        return frames[-1]


class FakeVideo:
    """Implements `VideoEngine`; like NVDEC, only accepts Annex B with parameter sets in the stream."""

    def __init__(self, gpu: FakeGpu, codec: Codec) -> None:
        self._gpu = gpu
        self._codec = av.CodecContext.create(codec, "r")
        self._codec.thread_type = "SLICE"
        self._surfaces: list[Plane] = []
        self._writes: list[Callable[[], None]] = []
        self.gaps = 0

    def decode(self, data: bytes, index: int, *, discontinuity: bool) -> list[Surface]:
        for surface in self._surfaces:
            surface[:] = GARBAGE
        self._surfaces, self._writes = [], []
        if discontinuity:
            self.gaps += 1
            self._codec.flush_buffers()
        packet = av.Packet(data)
        packet.pts = packet.dts = index
        try:
            frames = self._codec.decode(packet)
        except av.FFmpegError as error:
            raise GpuDecodeError(str(error)) from None
        return [self._surface(frame) for frame in frames]

    def before(self, stream: int) -> None:
        for write in self._writes:
            self._gpu.queue(stream, write)

    def _surface(self, frame: av.VideoFrame) -> Surface:
        pitch = frame.width + PADDING
        nv12 = frame.reformat(format="nv12").to_ndarray()
        surface = np.full((frame.height * 3 // 2, pitch), GARBAGE, np.uint8)
        self._surfaces.append(surface)
        self._writes.append(partial(np.copyto, surface[:, : frame.width], nv12))
        luma = int(surface.ctypes.data)
        assert frame.pts is not None
        return Surface(frame.pts, luma, luma + pitch * frame.height, frame.width, frame.height)


class FakeDecoders:
    """Implements `GpuDecoders`.

    Attributes:
        missing: The decoders that are not available: "jpeg", "video".
        videos: All video decoders that were created.
        reorders: For each of them, whether it was asked to reorder pictures.
    """

    def __init__(self, folder: Path, *missing: str) -> None:
        self.gpu = FakeGpu(folder)
        self.engine = FakeJpeg(self.gpu)
        self.missing = missing
        self.videos: list[FakeVideo] = []
        self.reorders: list[bool] = []

    def jpeg(self) -> FakeJpeg:
        if "jpeg" in self.missing:
            raise GpuUnavailableError("nvJPEG is not installed")
        return self.engine

    def video(self, codec: Codec, *, reorders: bool) -> FakeVideo:
        if "video" in self.missing:
            raise GpuUnavailableError("PyNvVideoCodec is not installed")
        self.videos.append(FakeVideo(self.gpu, codec))
        self.reorders.append(reorders)
        return self.videos[-1]

    def close(self) -> None:
        pass
