"""The requests that make a region of memory known to the server, or unknown again."""

from __future__ import annotations

from typing import Any, Protocol

from tritonclient.grpc import service_pb2

from tridetr.shm.device import DeviceRegion


class Region(Protocol):
    """Memory as a whole: a file (`/dev/shm/<shm_name>`), or, if it is a `DeviceRegion`, an allocation on a GPU."""

    @property
    def shm_name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


def registration(region: Region) -> tuple[str, Any]:
    """Return the method and the request that register a region, whole and at offset 0."""
    if isinstance(region, DeviceRegion):
        return "CudaSharedMemoryRegister", service_pb2.CudaSharedMemoryRegisterRequest(
            name=region.shm_name,
            raw_handle=region.handle,
            device_id=region.device_id,
            byte_size=region.size_bytes,
        )
    return "SystemSharedMemoryRegister", service_pb2.SystemSharedMemoryRegisterRequest(
        name=region.shm_name, key=f"/{region.shm_name}", offset=0, byte_size=region.size_bytes
    )


def unregistration(region: Region) -> tuple[str, Any]:
    """Return the method and the request that unregister a region."""
    name = region.shm_name
    if isinstance(region, DeviceRegion):
        return "CudaSharedMemoryUnregister", service_pb2.CudaSharedMemoryUnregisterRequest(
            name=name
        )
    return "SystemSharedMemoryUnregister", service_pb2.SystemSharedMemoryUnregisterRequest(
        name=name
    )
