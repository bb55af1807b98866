"""Interfaces for decoding on a GPU, so that everything but CUDA itself can be tested without a GPU.

Addresses and streams are plain integers. All calls come from the camera's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from tridetr.capture.sources.base import Plane
from tridetr.cuda.cuda_api import Cuda
from tridetr.errors import TridetrError
from tridetr.gpu.surface_layout import Copy2d, Subsampling

Codec = Literal["h264", "hevc"]


class GpuUnavailableError(TridetrError):
    """The GPU cannot decode: a library is missing, or the stream is not supported; the message gives the reason."""


class GpuDecodeError(TridetrError):
    """The GPU's decoder rejected this data; later data may be fine."""


class Gpu(Cuda, Protocol):
    """A GPU that converts pictures to I420. Copies and kernels are queued on a stream and complete in order."""

    def scratch(self, use: str, nbytes: int) -> int:
        """Return the address of device memory reserved for `use`; it grows as needed, and then loses its content."""
        ...

    def copy(self, copy: Copy2d, stream: int) -> None:
        """Queue a copy within device memory."""
        ...

    def split_chroma(
        self, pairs: int, pitch: int, u: int, v: int, columns: int, rows: int, stream: int
    ) -> None:
        """Queue the split of NV12's chroma plane: rows of `columns` u-v pairs into two dense planes."""
        ...


@dataclass(frozen=True, slots=True)
class JpegShape:
    """Properties in the headers of a JPEG; sizes in pixels."""

    subsampling: Subsampling
    width: int
    height: int


class JpegEngine(Protocol):
    """Decodes JPEGs into device memory. `data` is uint8 [bytes], a complete JPEG."""

    def shape(self, data: Plane) -> JpegShape:
        """Read the headers.

        Raises:
            GpuDecodeError: They are damaged.
        """
        ...

    def decode(self, data: Plane, channels: tuple[tuple[int, int], ...], stream: int) -> None:
        """Queue the decoding to planar Y, U and V, subsampled as in the file.

        Args:
            data: The JPEG; need not outlive the call.
            channels: Address and pitch [bytes] for each plane.
            stream: Where to queue it.

        Raises:
            GpuDecodeError: It is damaged.
        """
        ...


@dataclass(frozen=True, slots=True)
class Surface:
    """A decoded NV12 picture in the decoder's own memory, valid until its next `decode`.

    Attributes:
        index: Index of the packet that it belongs to.
        luma: Address of the luma plane.
        chroma: Address of the chroma plane.
        width: Pixels.
        height: Pixels.
    """

    index: int
    luma: int
    chroma: int
    width: int
    height: int


class VideoEngine(Protocol):
    """Decodes one H.264 or H.265 stream."""

    def decode(self, data: bytes, index: int, *, discontinuity: bool) -> list[Surface]:
        """Decode one access unit in Annex B format.

        Args:
            data: The bytes.
            index: Number that is returned with the surface of this packet.
            discontinuity: Whether packets are missing before this one.

        Returns:
            The pictures that are complete now, in display order.

        Raises:
            GpuDecodeError: The decoder rejected it.
        """
        ...

    def before(self, stream: int) -> None:
        """Make work queued on `stream` from now on wait until the surfaces are written."""
        ...


class GpuDecoders(Protocol):
    """A GPU and its decoders."""

    @property
    def gpu(self) -> Gpu: ...

    def jpeg(self) -> JpegEngine:
        """Return the JPEG decoder.

        Raises:
            GpuUnavailableError: Its library is missing.
        """
        ...

    def video(self, codec: Codec, *, reorders: bool) -> VideoEngine:
        """Return a decoder for one stream.

        Args:
            codec: Codec of the stream.
            reorders: Whether the display order differs from the decoding order (B-frames). Only then does the
                decoder hold pictures back, until their order is known.

        Raises:
            GpuUnavailableError: Its library is missing, or this GPU does not support the codec.
        """
        ...

    def close(self) -> None:
        """Free everything."""
        ...
