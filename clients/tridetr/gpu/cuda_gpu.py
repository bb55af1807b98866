"""Device memory, copies and the chroma kernel, through `cuda-bindings`."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from tridetr.cuda.driver import DriverCuda
from tridetr.errors import CudaError
from tridetr.gpu.decoder_api import Codec, JpegEngine, VideoEngine
from tridetr.gpu.surface_layout import Copy2d

INSTALL = "pip install 'tridetr[gpu]'"
_KERNEL = b"split_chroma"
_BLOCK = (32, 8)  # threads: a warp takes 32 neighbouring pairs of one row
_PTX = Path(__file__).with_name("split_chroma.ptx")


class CudaGpu(DriverCuda):
    """Implements `decoder_api.Gpu` with the primary context of one GPU; for the thread that created it."""

    def __init__(self) -> None:
        """Open the first GPU and load the kernel.

        Raises:
            CudaError: The driver, the GPU or `cuda-bindings` is missing.
        """
        super().__init__()
        self._scratch: dict[str, tuple[int, int]] = {}
        self.context = int(self._call("cuCtxGetCurrent"))
        # The driver compiles the PTX for the GPU in use (and caches the result in ~/.nv)
        self._module = self._call("cuModuleLoadData", _PTX.read_bytes() + b"\0")
        self._kernel = self._call("cuModuleGetFunction", self._module, _KERNEL)

    def scratch(self, use: str, nbytes: int) -> int:
        """Return device memory that is reserved for `use` (see `Gpu`)."""
        address, size = self._scratch.get(use, (0, 0))
        if nbytes > size:
            if address:
                del self._scratch[use]
                self.free(address)  # waits for work that still uses it
            address = self.allocate(nbytes)
            self._scratch[use] = (address, nbytes)
        return address

    def copy(self, copy: Copy2d, stream: int) -> None:
        """Queue a copy within device memory (see `Gpu`)."""
        what = self._cu.CUDA_MEMCPY2D()
        what.srcMemoryType = what.dstMemoryType = self._cu.CUmemorytype.CU_MEMORYTYPE_DEVICE
        what.srcDevice, what.srcPitch = copy.source, copy.source_pitch
        what.dstDevice, what.dstPitch = copy.target, copy.target_pitch
        what.WidthInBytes, what.Height = copy.width, copy.rows
        self._call("cuMemcpy2DAsync", what, stream)

    def split_chroma(
        self, pairs: int, pitch: int, u: int, v: int, columns: int, rows: int, stream: int
    ) -> None:
        """Queue the split of NV12's chroma plane (see `Gpu`)."""
        grid = (-(-columns // _BLOCK[0]), -(-rows // _BLOCK[1]), 1)
        word, number = ctypes.c_uint64, ctypes.c_uint32
        arguments = (
            (pairs, pitch, u, v, columns, rows),
            (word, word, word, word, number, number),
        )
        self._call("cuLaunchKernel", self._kernel, *grid, *_BLOCK, 1, 0, stream, arguments, 0)

    def close(self) -> None:
        """Free everything; what a broken GPU keeps is freed with the process."""
        with suppress(CudaError):
            for address, _ in self._scratch.values():
                self.free(address)
            self._call("cuModuleUnload", self._module)
            super().close()


class CudaDecoders:
    """An NVIDIA GPU with its decoders (see `decoder_api.GpuDecoders`), whose libraries are loaded on first use."""

    def __init__(self) -> None:
        """Open the GPU.

        Raises:
            CudaError: There is none, or it cannot be used.
        """
        self.gpu = CudaGpu()
        self._jpeg: JpegEngine | None = None

    def jpeg(self) -> JpegEngine:
        """Return the JPEG decoder (see `GpuDecoders`)."""
        if self._jpeg is None:
            from tridetr.gpu.nvjpeg import NvJpeg

            self._jpeg = NvJpeg()
        return self._jpeg

    def video(self, codec: Codec, *, reorders: bool) -> VideoEngine:
        """Return a video decoder (see `GpuDecoders`)."""
        from tridetr.gpu.nvdec import NvDec

        return NvDec(codec, self.gpu, reorders=reorders)

    def close(self) -> None:
        """Free everything; the JPEG decoder's own memory is freed with the process."""
        self.gpu.close()
