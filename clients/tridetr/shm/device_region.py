"""A frame in GPU memory, as a slot describes it to other processes (``DeviceMemory`` of ``schemas/frame.fbs``)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tridetr.shm.layout import MAX_FILE_SIZE
from tridetr.shm.lease import Region
from tridetr.wire.view import WireError

DEVICE_MEMORY = struct.Struct("<64s16sQQQI4x")
HANDLE_BYTES = 64  # of a CUipcMemHandle
ALIGNMENT = 512  # of each slot's frame in the allocation


@dataclass(frozen=True)
class DeviceRegion:
    """One allocation of GPU memory, as it is registered with Triton.

    If a ring's region changes, register the new one and unregister the old one.

    Attributes:
        shm_name: Name to register it under: the ring file's name, and the epoch of the writer that allocated it.
        handle: CUDA IPC handle, 64 bytes.
        uuid: UUID of the GPU, 16 bytes.
        device_id: Ordinal of the GPU in the writer's process.
        size_bytes: Bytes of the allocation.
        ring: Ring file that it belongs to.
        epoch: Epoch of the writer that allocated it.
    """

    shm_name: str
    handle: bytes
    uuid: bytes
    device_id: int
    size_bytes: int
    ring: Region
    epoch: int


AnyRegion = Region | DeviceRegion


@dataclass(frozen=True, slots=True)
class DevicePlace:
    """Location of a frame in GPU memory.

    Attributes:
        region: The allocation.
        pixels_offset: Bytes from its start.
        pixels_nbytes: Bytes of the frame.
        width: Pixels.
        height: Pixels.
    """

    region: DeviceRegion
    pixels_offset: int
    pixels_nbytes: int
    width: int
    height: int


def read_place(data: bytes, ring: Region, epoch: int, width: int, height: int) -> DevicePlace:
    """Read and validate a slot's description of its device memory.

    Args:
        data: One ``DeviceMemory``.
        ring: The ring file that contains it.
        epoch: The file's epoch.
        width: Pixels of the frame.
        height: Pixels of the frame.

    Raises:
        WireError: The frame would not be inside the allocation, or the allocation belongs to an earlier writer and
            is gone.
    """
    handle, uuid, size, offset, written_in, device_id = DEVICE_MEMORY.unpack(data)
    nbytes = width * height * 3 // 2
    if written_in != epoch:
        raise WireError(f"device memory of epoch {written_in} in a ring of epoch {epoch}")
    if size > MAX_FILE_SIZE or offset % ALIGNMENT or offset + nbytes > size:
        raise WireError(f"device memory of {size} bytes has no frame of {nbytes} at {offset}")
    name = f"{ring.shm_name}-cuda-{epoch}"
    region = DeviceRegion(name, handle, uuid, device_id, size, ring, epoch)
    return DevicePlace(region, offset, nbytes, width, height)
