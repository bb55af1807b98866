"""Device memory, copies and the one kernel, through `cuda-bindings`. It has not run on a GPU yet (docs/gpu.md)."""

from __future__ import annotations

import ctypes
from importlib import import_module
from pathlib import Path
from typing import Any

from tridetr.capture.gpu.api import Codec, GpuUnavailableError, JpegEngine, VideoEngine
from tridetr.capture.gpu.layout import Copy2d
from tridetr.capture.sources.base import Plane
from tridetr.errors import CudaError

INSTALL = "pip install 'tridetr[gpu]'"
_KERNEL = b"split_chroma"
_BLOCK = (32, 8)  # threads: a warp takes 32 neighbouring pairs of one row
_PTX = Path(__file__).with_name("split_chroma.ptx")


class CudaGpu:
    """The primary context of one GPU, as `api.Gpu` wants it; for the thread that made it."""

    def __init__(self, device_id: int = 0) -> None:
        """Take the primary context and load the kernel.

        Raises:
            GpuUnavailableError: there is no driver, no GPU, or no `cuda-bindings`.
        """
        try:
            self._driver: Any = import_module("cuda.bindings.driver")
        except ImportError:
            raise GpuUnavailableError(f"cuda-bindings is not installed ({INSTALL})") from None
        driver = self._driver
        try:
            self._ask(driver.cuInit(0))
            self._device = self._ask(driver.cuDeviceGet(device_id))
            self.context = int(self._ask(driver.cuDevicePrimaryCtxRetain(self._device)))
        # Without a driver, cuda-bindings raises errors of its own that have changed with its versions
        except (CudaError, RuntimeError, OSError) as error:
            raise GpuUnavailableError(f"no NVIDIA GPU can be used ({error})") from None
        self.device_id = device_id
        self._scratch: dict[str, tuple[int, int]] = {}
        self._module: Any = None
        self.stream = 0
        try:
            self._ask(driver.cuCtxSetCurrent(driver.CUcontext(self.context)))
            flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
            self.stream = int(self._ask(driver.cuStreamCreate(flags)))
            self._module = self._ask(driver.cuModuleLoadData(_PTX.read_bytes() + b"\0"))
            self._kernel = self._ask(driver.cuModuleGetFunction(self._module, _KERNEL))
        except CudaError as error:
            self.close()
            raise GpuUnavailableError(f"the GPU cannot be set up ({error})") from None

    def scratch(self, use: str, nbytes: int) -> int:
        """Return device memory that stays with `use` (see `Gpu`)."""
        address, size = self._scratch.get(use, (0, 0))
        if nbytes > size:
            driver = self._driver
            if address:
                self._ask(driver.cuMemFree(driver.CUdeviceptr(address)))
                del self._scratch[use]
            address = int(self._ask(driver.cuMemAlloc(nbytes)))
            self._scratch[use] = (address, nbytes)
        return address

    def copy(self, copy: Copy2d, stream: int) -> None:
        """Queue a copy within device memory (see `Gpu`)."""
        what = self._from_device(copy.source, copy.source_pitch, copy.width, copy.rows)
        what.dstMemoryType = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        what.dstDevice = self._driver.CUdeviceptr(copy.target)
        what.dstPitch = copy.target_pitch
        self._ask(self._driver.cuMemcpy2DAsync(what, self._driver.CUstream(stream)))

    def split_chroma(
        self, pairs: int, pitch: int, u: int, v: int, columns: int, rows: int, stream: int
    ) -> None:
        """Queue the taking apart of NV12's chroma (see `Gpu`)."""
        grid = (-(-columns // _BLOCK[0]), -(-rows // _BLOCK[1]))
        word, number = ctypes.c_uint64, ctypes.c_uint32
        arguments = (
            (pairs, pitch, u, v, columns, rows),
            (word, word, word, word, number, number),
        )
        self._ask(
            self._driver.cuLaunchKernel(
                self._kernel, *grid, 1, *_BLOCK, 1, 0, self._driver.CUstream(stream), arguments, 0
            )
        )

    def to_host(self, target: Plane, pointer: int, pitch: int, stream: int) -> None:
        """Copy rows to the host and wait for it (see `Gpu`)."""
        rows, width = target.shape
        what = self._from_device(pointer, pitch, width, rows)
        what.dstMemoryType = self._driver.CUmemorytype.CU_MEMORYTYPE_HOST
        what.dstHost = target.ctypes.data
        what.dstPitch = width
        handle = self._driver.CUstream(stream)
        self._ask(self._driver.cuMemcpy2DAsync(what, handle))
        self._ask(self._driver.cuStreamSynchronize(handle))

    def close(self) -> None:
        """Give everything back; what fails then is left to the end of the process."""
        driver = self._driver
        for address, _ in self._scratch.values():
            driver.cuMemFree(driver.CUdeviceptr(address))
        self._scratch = {}
        if self._module is not None:
            driver.cuModuleUnload(self._module)
            self._module = None
        if self.stream:
            driver.cuStreamDestroy(driver.CUstream(self.stream))
            self.stream = 0
        if self._device is not None:
            driver.cuDevicePrimaryCtxRelease(self._device)
            self._device = None

    def _from_device(self, address: int, pitch: int, width: int, rows: int) -> Any:
        what = self._driver.CUDA_MEMCPY2D()
        what.srcMemoryType = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        what.srcDevice = self._driver.CUdeviceptr(address)
        what.srcPitch = pitch
        what.WidthInBytes = width
        what.Height = rows
        return what

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        """Return the value of a driver call; raise CudaError for its errors."""
        code, *values = answer
        if int(code) != 0:
            raise CudaError(f"CUDA says {getattr(code, 'name', code)}")
        return values[0] if values else None


class CudaDecoders:
    """An NVIDIA GPU with its decoders (see `api.GpuDecoders`); their libraries are loaded when they are wanted."""

    def __init__(self) -> None:
        """Open the GPU.

        Raises:
            GpuUnavailableError: there is none.
        """
        self.gpu = CudaGpu()
        self._jpeg: JpegEngine | None = None

    def jpeg(self) -> JpegEngine:
        """Return the JPEG decoder (see `GpuDecoders`)."""
        if self._jpeg is None:
            from tridetr.capture.gpu.nvjpeg import NvJpeg

            self._jpeg = NvJpeg()
        return self._jpeg

    def video(self, codec: Codec, *, reorders: bool) -> VideoEngine:
        """Return a video decoder (see `GpuDecoders`)."""
        from tridetr.capture.gpu.nvdec import NvDec

        return NvDec(codec, self.gpu, reorders=reorders)

    def close(self) -> None:
        """Free everything; the JPEG decoder's own memory goes with the process."""
        self.gpu.close()
