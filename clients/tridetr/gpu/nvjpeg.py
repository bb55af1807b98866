"""Decodes JPEGs with nvJPEG's C interface.

nvImageCodec, NVIDIA's Python package for it, decodes only into its own images and has no 4:2:0 output. The C interface
writes the planes, subsampled as in the file, to any address: for 4:2:0, directly into the slot.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from tridetr.capture.sources.base import Plane
from tridetr.gpu.decoder_api import GpuDecodeError, GpuUnavailableError, JpegShape
from tridetr.gpu.surface_layout import Subsampling

# Numbers of nvjpeg.h
_COMPONENTS = 4
_BACKEND_DEFAULT = 0
_FLAG_STRICT = 1 << 2  # damaged files are errors, not grey pictures
_OUTPUT_YUV = 1
_SUBSAMPLINGS = {1: Subsampling.S422, 2: Subsampling.S420}
_STATUS = {
    1: "not initialised",
    2: "invalid parameter",
    3: "bad JPEG",
    4: "unsupported kind of JPEG",
    5: "out of memory",
    6: "execution failed",
    7: "GPU too old",
    8: "internal error",
    9: "not implemented",
    10: "incomplete data",
}
_VERSIONS = ("13", "12")
_INSTALL = "pip install 'tridetr[gpu]'"


class Image(ctypes.Structure):
    """`nvjpegImage_t`: where to write the planes."""

    _fields_ = (
        ("channel", ctypes.c_void_p * _COMPONENTS),
        ("pitch", ctypes.c_size_t * _COMPONENTS),
    )


def library_files() -> Iterator[str]:
    """Yield possible files of the library: the system's, then those of NVIDIA's wheels."""
    for version in _VERSIONS:
        yield f"libnvjpeg.so.{version}"
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for pattern in ("nvjpeg/lib/libnvjpeg.so.*", "cu*/lib/libnvjpeg.so.*"):
            yield from map(str, sorted(Path(folder).glob(pattern), reverse=True))


def load_library() -> ctypes.CDLL:
    """Load nvJPEG.

    Raises:
        GpuUnavailableError: It is not installed.
    """
    for file in library_files():
        try:
            return ctypes.CDLL(file)
        except OSError:
            continue
    raise GpuUnavailableError(f"nvJPEG is not installed ({_INSTALL})")


class NvJpeg:
    """A JPEG decoder in the current CUDA context (see `decoder_api.JpegEngine`)."""

    def __init__(self) -> None:
        """Load the library and create a decoder.

        Raises:
            GpuUnavailableError: The library is missing, or does not work with this GPU.
        """
        self._library = load_library()
        self._handle, self._state = ctypes.c_void_p(), ctypes.c_void_p()
        status = self._library.nvjpegCreateEx(
            _BACKEND_DEFAULT, None, None, ctypes.c_uint(_FLAG_STRICT), ctypes.byref(self._handle)
        )
        if status == 0:
            status = self._library.nvjpegJpegStateCreate(self._handle, ctypes.byref(self._state))
        if status:
            raise GpuUnavailableError(f"nvJPEG cannot be used: {_STATUS.get(status, status)}")

    def shape(self, data: Plane) -> JpegShape:
        """Read the headers (see `JpegEngine`)."""
        components, subsampling = ctypes.c_int(), ctypes.c_int()
        widths, heights = (ctypes.c_int * _COMPONENTS)(), (ctypes.c_int * _COMPONENTS)()
        self._check(
            self._library.nvjpegGetImageInfo(
                self._handle,
                ctypes.c_void_p(data.ctypes.data),
                ctypes.c_size_t(data.size),
                ctypes.byref(components),
                ctypes.byref(subsampling),
                widths,
                heights,
            )
        )
        known = _SUBSAMPLINGS.get(subsampling.value, Subsampling.OTHER)
        if components.value != 3:
            known = Subsampling.OTHER
        return JpegShape(known, widths[0], heights[0])

    def decode(self, data: Plane, channels: tuple[tuple[int, int], ...], stream: int) -> None:
        """Queue the decoding (see `JpegEngine`)."""
        image = Image()
        for number, (address, pitch) in enumerate(channels):
            image.channel[number], image.pitch[number] = address, pitch
        self._check(
            self._library.nvjpegDecode(
                self._handle,
                self._state,
                ctypes.c_void_p(data.ctypes.data),
                ctypes.c_size_t(data.size),
                _OUTPUT_YUV,
                ctypes.byref(image),
                ctypes.c_void_p(stream),
            )
        )

    def _check(self, status: int) -> None:
        if status:
            raise GpuDecodeError(f"nvJPEG: {_STATUS.get(status, status)}")
