"""A picture that is born on the GPU, as the publisher sees it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridetr.capture.gpu.api import Gpu, Surface
from tridetr.capture.gpu.layout import Copy2d, i420_planes, nv12_pitch
from tridetr.capture.planes import even_size
from tridetr.capture.sources.base import Plane
from tridetr.cuda.device import DevicePlanes

Lay = Callable[[int, int], None]


class GpuPicture:
    """Lays one picture as I420 where it is wanted; `sources.base.DevicePicture` says what for."""

    def __init__(self, gpu: Gpu, width: int, height: int, lay: Lay) -> None:
        """Keep what is needed to lay it.

        Args:
            gpu: where it is.
            width: pixels, even.
            height: pixels, even.
            lay: queues its laying as dense I420 at an address on a stream: called with both.
        """
        self._gpu = gpu
        self._width, self._height = width, height
        self._lay = lay
        self._at = self._stream = 0

    def to_device(self, target: DevicePlanes) -> None:
        """Queue the laying into a slot's device memory (see `DevicePicture`)."""
        nbytes = self._width * self._height * 3 // 2
        if target.nbytes < nbytes:
            raise ValueError(f"a frame of {nbytes} bytes does not fit into {target.nbytes}")
        self._at, self._stream = target.pointer, target.stream
        self._lay(self._at, self._stream)

    def to_host(self, planes: Plane) -> None:
        """Lay it into host memory, through device memory of our own (see `DevicePicture`)."""
        self._at = self._gpu.scratch("frame", planes.nbytes)
        self._stream = self._gpu.stream
        self._lay(self._at, self._stream)
        self._gpu.to_host(planes, self._at, self._width, self._stream)

    def luma_rows(self, step: int) -> Plane:
        """Return every `step`-th row of the luma that was laid last (see `DevicePicture`)."""
        rows = np.empty((-(-self._height // step), self._width), np.uint8)
        self._gpu.to_host(rows, self._at, step * self._width, self._stream)
        return rows


def lay_nv12(gpu: Gpu, surface: Surface) -> Lay:
    """Return how an NV12 surface becomes I420; odd sizes lose one row or column.

    Raises:
        ValueError: its planes do not lie as NV12 does.
    """
    pitch = nv12_pitch(surface.luma, surface.chroma, surface.width, surface.height)
    width, height = even_size(surface.width, surface.height)

    def lay(pointer: int, stream: int) -> None:
        y, u, v = i420_planes(pointer, width, height)
        gpu.copy(Copy2d(surface.luma, pitch, y, width, width, height), stream)
        gpu.split_chroma(surface.chroma, pitch, u, v, width // 2, height // 2, stream)

    return lay
