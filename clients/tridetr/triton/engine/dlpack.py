"""Where the bytes of a tensor lie that Triton hands over by DLPack: on the host, or on a GPU."""

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
    """`DLTensor` of dlpack.h, which begins a `DLManagedTensor`."""

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
    """A batch of frames, where it lies. The owner of the bytes must outlive their use.

    Attributes:
        pointer: address on the host or on the GPU.
        shape: [B, 3H/2, W], one byte each, without gaps.
        gpu: the GPU, None for the host.
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
    """Return where the bytes of a tensor lie; nothing is copied or moved.

    Args:
        tensor: offers `__dlpack__`, such as Triton's and numpy's; the caller keeps it.

    Raises:
        ModelError: it is no contiguous UINT8 tensor, or lies neither on the host nor on an NVIDIA GPU.
    """
    capsule = tensor.__dlpack__()
    found = _Tensor.from_address(_get_pointer(capsule, _NAME))
    shape = tuple(found.shape[: found.ndim])
    if (found.code, found.bits, found.lanes) != (_UINT, 8, 1):
        raise ModelError(f"wanted frame UINT8 [B, 3H/2, W], found another type {list(shape)}")
    if found.strides and _has_gaps(shape, found.strides[: found.ndim]):
        raise ModelError(f"wanted a frame without gaps, found {list(shape)} with strides")
    if found.device_type != _CPU and found.device_type not in _CUDA:
        raise ModelError(f"the frame lies on a device of DLPack's type {found.device_type}")
    gpu = None if found.device_type == _CPU else int(found.device_id)
    return Frames(int(found.data or 0) + int(found.byte_offset), shape, gpu)


def _has_gaps(shape: tuple[int, ...], strides: Sequence[int]) -> bool:
    step = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != step:
            return True
        step *= length
    return False
