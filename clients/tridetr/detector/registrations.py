"""Which memory the server knows: GPU memory where it can open it, system shared memory otherwise."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, suppress
from typing import Literal, Protocol

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
    "Remedy: CUDA IPC needs the gpu process and the server on one GPU, in one IPC and one PID namespace (Kubernetes: "
    "shareProcessNamespace, Docker: --ipc and --pid)"
)


class Client(Protocol):
    """What is needed of ``TritonClient``."""

    async def register(self, region: AnyRegion) -> None: ...
    async def unregister(self, region: AnyRegion) -> None: ...


def runs_on_gpu(info: ModelInfo) -> bool:
    """Return whether a model runs on a GPU, as far as is known.

    >>> runs_on_gpu(ModelInfo("m", "1", "tensorrt", "unknown", "fp16"))
    True
    """
    return any(word in f"{info.engine} {info.provider}".lower() for word in _GPU)


def runs_on_cpu(info: ModelInfo) -> bool:
    """Return whether a model runs on the CPU, as far as is known.

    >>> runs_on_cpu(ModelInfo("m", "1", "onnxruntime", "openvino", "bf16"))
    True
    """
    return not runs_on_gpu(info) and any(word in info.provider.lower() for word in _CPU)


class Registrations:
    """Registers the memory of frames before they are inferred, and lets the server forget what is no longer used."""

    def __init__(self, client: Client, device: Literal["auto", "cpu", "cuda"] = "auto") -> None:
        """Make it; nothing is registered yet.

        Args:
            client: The way to the server.
            device: `device` of the configuration.
        """
        self._client = client
        self._device = device
        self._known: dict[str, AnyRegion] = {}
        self._holds: dict[str, DeviceHold] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_cpu = False
        self._refused = False
        self._said: str | None = None

    def use_model(self, info: ModelInfo) -> None:
        """Begin anew with a server that was away: it knows no region any more."""
        self.forget()
        self._on_cpu = runs_on_cpu(info)

    def forget(self) -> None:
        """Note that the server has forgotten everything."""
        self._known.clear()
        for hold in self._holds.values():
            hold.close()
        self._holds.clear()
        self._refused = False

    @property
    def may_open_device(self) -> bool:
        """Whether the server may be able to read GPU memory, as far as is known."""
        if self._device == "cpu" or self._refused:
            return False
        if self._on_cpu:
            self._say("the model runs on the CPU")
            return False
        return True

    async def place(self, lease: FrameLease) -> Place:
        """Return where the server reads a leased frame in host memory, which it knows now.

        Raises:
            TritonError: As ``TritonClient.register``.
        """
        region = lease.region
        if self._known.get(region.shm_name) != region:
            await self._client.register(region)
            self._known[region.shm_name] = region
        return lease

    async def place_device(self, lease: DeviceFrameLease) -> Place | None:
        """Return where the server reads a leased frame in GPU memory; None: it cannot.

        Raises:
            TritonError: As ``TritonClient.register``.
            CudaError: The server cannot open GPU memory, and ``device`` is `cuda`.
            ShmError: The ring was removed.
        """
        return lease.device if await self._can_open(lease.device.region) else None

    def retire(self, region: AnyRegion) -> None:
        """Let the server forget a region that no lease uses any more, beside the work."""
        if self._known.get(region.shm_name) == region:
            del self._known[region.shm_name]
            hold = self._holds.pop(region.shm_name, None)
            task = asyncio.create_task(self._unregister(region, hold))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let the server forget all regions, as far as it answers."""
        for region in list(self._known.values()):
            self.retire(region)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.5)
        for task in self._tasks:
            task.cancel()

    async def _can_open(self, region: DeviceRegion) -> bool:
        """Whether the server can read this GPU memory; registers it first where need be."""
        if self._known.get(region.shm_name) == region:
            # A server that reads the memory of a dead process may not survive that.
            return not self._holds[region.shm_name].is_lost()
        if not self.may_open_device:
            return False
        with ExitStack() as stack:
            hold = stack.enter_context(DeviceHold(region))
            # Memory of a writer that is gone cannot be opened, and tells nothing about the server.
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
                f"device: cuda is impossible here: {error}. {_REMEDY}, or device: auto"
            ) from error
        self._say(f"{error}. {_REMEDY}")

    def _say(self, why: str) -> None:
        if why != self._said:
            self._said = why
            log.warning("frames go to the server through system shared memory: %s", why)

    async def _unregister(self, region: AnyRegion, hold: DeviceHold | None) -> None:
        try:
            with suppress(TritonError):  # it was restarted or is gone: so is the registration
                await self._client.unregister(region)
        finally:
            if hold is not None:
                hold.close()
