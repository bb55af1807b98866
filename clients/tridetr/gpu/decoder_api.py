"""What decoding on a GPU needs, behind small interfaces: all but CUDA itself is tested without a GPU.

Addresses and streams are plain numbers. Everything is called from the one thread of a camera.
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
    """There is no GPU, or a library is missing; the message says which."""


class GpuDecodeError(TridetrError):
    """The GPU's decoder refused this data; the next may be fine."""


class Gpu(Cuda, Protocol):
    """A GPU that lays pictures out. Copies and kernels are queued on a stream and complete in order."""

    def scratch(self, use: str, nbytes: int) -> int:
        """Return the address of device memory that stays with `use`; it grows as needed, losing its content."""
        ...

    def copy(self, copy: Copy2d, stream: int) -> None:
        """Queue a copy within device memory."""
        ...

    def split_chroma(
        self, pairs: int, pitch: int, u: int, v: int, columns: int, rows: int, stream: int
    ) -> None:
        """Queue the taking apart of NV12's chroma: rows of `columns` u-v pairs into two dense planes."""
        ...


@dataclass(frozen=True, slots=True)
class JpegShape:
    """What the headers of a JPEG say; sizes in pixels."""

    subsampling: Subsampling
    width: int
    height: int


class JpegEngine(Protocol):
    """Decodes JPEGs into device memory. `data` is uint8 [bytes], a complete JPEG."""

    def shape(self, data: Plane) -> JpegShape:
        """Read the headers.

        Raises:
            GpuDecodeError: they are damaged.
        """
        ...

    def decode(self, data: Plane, channels: tuple[tuple[int, int], ...], stream: int) -> None:
        """Queue the decoding to planar Y, U, V as they are in the file.

        Args:
            data: the JPEG; need not outlive the call.
            channels: address and pitch for each plane.
            stream: where to queue it.

        Raises:
            GpuDecodeError: it is damaged.
        """
        ...


@dataclass(frozen=True, slots=True)
class Surface:
    """A decoded NV12 picture in the decoder's own memory, valid until its next `decode`.

    Attributes:
        index: that of the packet it belongs to.
        luma: address.
        chroma: address.
        width: pixels.
        height: pixels.
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
            data: the bytes.
            index: comes back with the surface of this packet.
            discontinuity: packets are missing before this one.

        Returns:
            The pictures that are complete now, in the order of display.

        Raises:
            GpuDecodeError: it is refused.
        """
        ...

    def before(self, stream: int) -> None:
        """Let work queued on `stream` from now on wait until the surfaces are written."""
        ...


class GpuDecoders(Protocol):
    """A GPU and its decoders."""

    @property
    def gpu(self) -> Gpu: ...

    def jpeg(self) -> JpegEngine:
        """Return the JPEG decoder.

        Raises:
            GpuUnavailableError: its library is not there.
        """
        ...

    def video(self, codec: Codec, *, reorders: bool) -> VideoEngine:
        """Return a decoder for one stream.

        Args:
            codec: which.
            reorders: whether pictures are shown in another order than they are sent in (B-frames). Only then does
                the decoder hold pictures back, until the order is known.

        Raises:
            GpuUnavailableError: its library is not there, or this GPU does not know the codec.
        """
        ...

    def close(self) -> None:
        """Free everything."""
        ...
