"""Register frame memory with the server: GPU memory if the server can open it, otherwise system shared memory."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, suppress
from typing import Literal, Protocol

from tridetr.detector.frames import AnyFrame
from tridetr.errors import CudaError, DeviceRegionRefused, TritonError
from tridetr.model_card import ModelInfo
from tridetr.shm.device_region import AnyRegion, DevicePlace, DeviceRegion
from tridetr.shm.frames import DeviceFrameLease, FrameLease
from tridetr.shm.hold import DeviceHold

log = logging.getLogger("tridetr.detector")

Place = FrameLease | DevicePlace

_GPU = ("cuda", "tensorrt")
_CPU = ("cpu", "openvino")
_REMEDY = (
    "Remedy: run the gpu process and the server on the same GPU and in the same IPC and PID namespaces, as CUDA IPC "
    "requires (Kubernetes: shareProcessNamespace, Docker: --ipc and --pid)"
)


class Registrar(Protocol):
    """The methods of ``TritonClient`` that are used here."""

    async def register(self, region: AnyRegion) -> None: ...
    async def unregister(self, region: AnyRegion) -> None: ...


def runs_on_gpu(info: ModelInfo) -> bool:
    """Return whether a model is known to run on a GPU.

    >>> runs_on_gpu(ModelInfo("m", "1", "tensorrt", "unknown", "fp16"))
    True
    """
    return any(word in f"{info.engine} {info.provider}".lower() for word in _GPU)


def runs_on_cpu(info: ModelInfo) -> bool:
    """Return whether a model is known to run on the CPU.

    >>> runs_on_cpu(ModelInfo("m", "1", "onnxruntime", "openvino", "bf16"))
    True
    """
    return not runs_on_gpu(info) and any(word in info.provider.lower() for word in _CPU)


class Registrations:
    """Registers the memory of frames before their inference, and unregisters memory that is no longer used."""

    def __init__(self, client: Registrar, device: Literal["auto", "cpu", "cuda"] = "auto") -> None:
        """Start without registrations; ``device`` is that of the configuration."""
        self._client = client
        self._device = device
        self._known: dict[str, AnyRegion] = {}
        self._holds: dict[str, DeviceHold] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_cpu = False
        self._refused = False
        self._logged: str | None = None

    def use_model(self, info: ModelInfo) -> None:
        """Start over with a server that was unavailable: it has lost all registrations."""
        self.forget()
        self._on_cpu = runs_on_cpu(info)

    def forget(self) -> None:
        """Drop all registrations, because the server has lost them."""
        self._known.clear()
        for hold in self._holds.values():
            hold.close()
        self._holds.clear()
        self._refused = False

    @property
    def may_open_device(self) -> bool:
        """Whether the server may be able to read GPU memory: False only if it is known not to."""
        if self._device == "cpu" or self._refused:
            return False
        if self._on_cpu:
            self._log_once("the model runs on the CPU", logging.INFO)
            return False
        return True

    async def place(self, lease: AnyFrame) -> Place | None:
        """Register the region of a leased frame, and return where the server reads the frame.

        Returns:
            None if the frame is in GPU memory that the server cannot read.

        Raises:
            TritonError: As ``TritonClient.register``.
            CudaError: The server cannot open GPU memory, and ``device`` is `cuda`.
            ShmError: The ring was removed.
        """
        if isinstance(lease, DeviceFrameLease):
            return lease.device if await self._can_open(lease.device.region) else None
        region = lease.region
        if self._known.get(region.shm_name) != region:
            await self._client.register(region)
            self._known[region.shm_name] = region
        return lease

    def retire(self, region: AnyRegion) -> None:
        """Unregister a region that no lease uses any more, in the background."""
        if self._known.get(region.shm_name) == region:
            del self._known[region.shm_name]
            hold = self._holds.pop(region.shm_name, None)
            task = asyncio.create_task(self._unregister(region, hold))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Unregister all regions; waits at most half a second for the server."""
        for region in list(self._known.values()):
            self.retire(region)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.5)
        for task in self._tasks:
            task.cancel()

    async def _can_open(self, region: DeviceRegion) -> bool:
        """Return whether the server can read this GPU memory; registers it if it is not registered yet."""
        if self._known.get(region.shm_name) == region:
            # A server that reads the GPU memory of a dead process may crash.
            return not self._holds[region.shm_name].is_lost()
        if not self.may_open_device:
            return False
        with ExitStack() as stack:
            hold = stack.enter_context(DeviceHold(region))
            # Failing to open the memory of a writer that has exited would prove nothing about the server.
            if not hold.is_current():
                return False
            try:
                await self._client.register(region)
            except DeviceRegionRefused as error:
                if hold.is_current():
                    self._refuse(error)
                return False
            stack.pop_all()
        replaced = self._holds.pop(region.shm_name, None)
        if replaced is not None:
            replaced.close()
        self._known[region.shm_name], self._holds[region.shm_name] = region, hold
        return True

    def _refuse(self, error: DeviceRegionRefused) -> None:
        self._refused = True
        if self._device == "cuda":
            raise CudaError(
                f"device: cuda is impossible here: {error}. {_REMEDY}, or set device: auto"
            ) from error
        self._log_once(f"{error}. {_REMEDY}")

    def _log_once(self, why: str, level: int = logging.WARNING) -> None:
        if why != self._logged:
            self._logged = why
            log.log(level, "frames are passed to the server in system shared memory: %s", why)

    async def _unregister(self, region: AnyRegion, hold: DeviceHold | None) -> None:
        try:
            # The server was restarted or has exited, and the registration with it.
            with suppress(TritonError):
                await self._client.unregister(region)
        finally:
            if hold is not None:
                hold.close()
