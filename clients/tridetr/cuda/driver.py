"""A GPU through CUDA's driver API (cuda-bindings, extra ``gpu``).

The driver API, unlike the runtime, works with any driver that has the functions called here. The primary context is
used because the decoding libraries use it as well.
"""

from __future__ import annotations

import ctypes
from typing import Any

from tridetr.errors import CudaError, GpuMemoryError
from tridetr.shm.device_region import HANDLE_BYTES

_REMEDIES = {
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU's memory is full: use fewer `slots`, fewer cameras or smaller pictures, and "
    "check with `nvidia-smi` which other processes use it",
    "CUDA_ERROR_NO_DEVICE": "is the GPU passed to this container, and does `nvidia-smi` show it?",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "another process has exclusive use of the GPU: run `nvidia-smi -c DEFAULT`",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "driver and kernel module differ: restart the machine",
    "CUDA_ERROR_SYSTEM_NOT_READY": "start the services that the GPU needs (nvidia-fabricmanager)",
    "CUDA_ERROR_NOT_SUPPORTED": "this GPU or system does not support it (CUDA IPC needs Linux on a PC): set "
    "device: auto",
    "CUDA_ERROR_NOT_PERMITTED": "may this container lock memory (`ulimit -l`)?",
}
_BROKEN = "the GPU failed: `dmesg | grep -i xid` shows why, and the process must be restarted"


def explain(call: str, code: str, text: str) -> str:
    """Return the message for a failed call, with the remedy.

    >>> explain("cuMemAlloc", "CUDA_ERROR_UNKNOWN", "unknown error").split(". ")[0]
    'cuMemAlloc: unknown error (CUDA_ERROR_UNKNOWN)'
    """
    return f"{call}: {text} ({code}). Remedy: {_REMEDIES.get(code, _BROKEN)}"


class DriverCuda:
    """Implements ``tridetr.cuda.cuda_api.Cuda``.

    Attributes:
        device_id: Ordinal of the GPU in this process.
        uuid: UUID of the GPU, 16 bytes.
        name: Product name of the GPU.
    """

    def __init__(self, device_id: int = 0) -> None:
        """Open a GPU for the calling thread.

        Raises:
            CudaError: cuda-bindings, the driver or the GPU is missing, or the GPU does not support CUDA IPC.
        """
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise CudaError(
                f"cuda-bindings cannot be used: {error}. Remedy: pip install 'tridetr[gpu]'"
            ) from error
        self._cu: Any = driver
        self._not_ready = int(driver.CUresult.CUDA_ERROR_NOT_READY)
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", device_id)
        self.device_id = device_id
        self.uuid: bytes = bytes(self._call("cuDeviceGetUuid", self._device).bytes)
        name: bytes = self._call("cuDeviceGetName", 128, self._device)
        self.name = name.split(b"\0")[0].decode(errors="replace")
        attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED
        if not self._call("cuDeviceGetAttribute", attribute, self._device):
            raise CudaError(
                f"{self.name} cannot share memory between processes (CUDA IPC). Remedy: set device: auto"
            )
        context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._call("cuCtxSetCurrent", context)

    def close(self) -> None:
        """Release the GPU."""
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def allocate(self, size: int) -> int:
        return int(self._call("cuMemAlloc", size))

    def free(self, pointer: int) -> None:
        self._call("cuMemFree", pointer)

    def ipc_handle(self, pointer: int) -> bytes:
        handle = self._call("cuIpcGetMemHandle", pointer)
        # Not `handle.reserved`: not all releases of cuda-bindings have it.
        return ctypes.string_at(int(handle.getPtr()), HANDLE_BYTES)

    def pin(self, address: int, size: int) -> None:
        self._call("cuMemHostRegister", address, size, 0)

    def unpin(self, address: int) -> None:
        self._call("cuMemHostUnregister", address)

    def make_stream(self) -> int:
        flag = self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING
        return int(self._call("cuStreamCreate", int(flag)))

    def free_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def upload(self, pointer: int, address: int, size: int, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", pointer, address, size, stream)

    def download(self, address: int, pointer: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", address, pointer, size, stream)

    def make_event(self) -> int:
        flag = self._cu.CUevent_flags.CU_EVENT_DISABLE_TIMING
        return int(self._call("cuEventCreate", int(flag)))

    def free_event(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def is_complete(self, event: int) -> bool:
        (status,) = self._cu.cuEventQuery(event)
        if int(status) == self._not_ready:
            return False
        self._check("cuEventQuery", status)
        return True

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver, check its status, and return its result if it has one."""
        try:
            status, *results = getattr(self._cu, name)(*arguments)
        except RuntimeError as error:  # no library, or one that is too old for this function
            raise CudaError(
                f"NVIDIA's driver cannot be used: {error}. Remedy: install it, or a newer one"
            ) from error
        self._check(name, status)
        return results[0] if results else None

    def _check(self, name: str, status: Any) -> None:
        if int(status):
            _, text = self._cu.cuGetErrorString(status)
            kind = GpuMemoryError if status.name == "CUDA_ERROR_OUT_OF_MEMORY" else CudaError
            raise kind(explain(name, status.name, (text or b"?").decode()))
