"""Get the address and device of a tensor that Triton passes as DLPack, in host or GPU memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tridetr.errors import ModelError

_CPU: Final = 1
_CUDA: Final = (2, 13)  # kDLCUDA, kDLCUDAManaged
_UINT: Final = 1
_NAME: Final = b"dltensor"


class _Tensor(ctypes.Structure):
    """`DLTensor` of dlpack.h, the first member of `DLManagedTensor`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


@dataclass(frozen=True, slots=True)
class Frames:
    """The location of a batch of frames in memory; the owner of the memory must outlive its use.

    Attributes:
        pointer: address in host or GPU memory.
        shape: [B, 3H/2, W], uint8, contiguous.
        gpu: number of the GPU; None = host memory.
    """

    pointer: int
    shape: tuple[int, ...]
    gpu: int | None

    def singles(self) -> list[Frames]:
        """Return the frames of the batch one by one."""
        count, *shape = self.shape
        nbytes = shape[0] * shape[1]
        return [
            Frames(self.pointer + index * nbytes, (1, *shape), self.gpu) for index in range(count)
        ]


def frames_of(tensor: Any) -> Frames:
    """Return the location of a tensor's bytes, without copying them.

    Args:
        tensor: an object with `__dlpack__`, such as a Triton tensor or a numpy array; the caller must keep it alive.

    Raises:
        ModelError: the tensor is not contiguous UINT8, or is neither in host memory nor on an NVIDIA GPU.
    """
    capsule = tensor.__dlpack__()
    found = _Tensor.from_address(_get_pointer(capsule, _NAME))
    shape = tuple(found.shape[: found.ndim])
    if (found.code, found.bits, found.lanes) != (_UINT, 8, 1):
        raise ModelError(f"expected frame UINT8 [B, 3H/2, W], found another type {list(shape)}")
    if found.strides and _has_gaps(shape, found.strides[: found.ndim]):
        raise ModelError(f"expected a contiguous frame, found {list(shape)} with strides")
    if found.device_type != _CPU and found.device_type not in _CUDA:
        raise ModelError(
            f"the frame is on an unsupported device (DLPack's type {found.device_type})"
        )
    gpu = None if found.device_type == _CPU else int(found.device_id)
    return Frames(int(found.data or 0) + int(found.byte_offset), shape, gpu)


def _has_gaps(shape: tuple[int, ...], strides: Sequence[int]) -> bool:
    step = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != step:
            return True
        step *= length
    return False
