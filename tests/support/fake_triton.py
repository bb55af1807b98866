"""A stand-in for Triton that answers immediately or on command, and fails on command."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from support.fake_cuda import read_device
from tridetr.errors import DeviceRegionRefused, ModelUnavailable, RegionNotRegistered
from tridetr.model_card import ModelInfo
from tridetr.shm.device_region import AnyRegion, DevicePlace, DeviceRegion
from tridetr.shm.names import SHM_DIR
from tridetr.triton.client import Frame, Prediction

INFO = ModelInfo(
    "rfdetr_ort", "1", "onnxruntime", "cpu", "fp32", {"person": 1, "car": 3}, default_score=0.5
)


@dataclass
class FakeTriton:
    """Implements the part of ``TritonClient`` that the detector uses.

    The answer is one box, whose x1 is the value of the frame's first pixel at the time of the answer.

    Attributes:
        error: Raised by every call, if set.
        frame_errors: Raised by inferences, one each.
        hold: Answers wait while it is cleared.
        second_score: Score of the second box, a car.
        second_box: Its corners.
        regions: The registered regions, by name.
        gpu: Folder of the simulated GPU memory that it can open; None if it has no GPU.
        asked: (region name, value of the first pixel) of each inference at its arrival.
    """

    info: ModelInfo = INFO
    error: Exception | None = None
    frame_errors: list[Exception] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    second_score: float = 0.2
    second_box: tuple[float, float, float, float] = (1, 1, 2, 2)
    gpu: Path | None = None
    regions: dict[str, AnyRegion] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)
    unregistered: list[str] = field(default_factory=list)
    traces: list[tuple[str, str | None]] = field(default_factory=list)
    models_asked: int = 0
    in_flight: dict[str, int] = field(default_factory=dict)
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self.hold.set()

    def restart(self) -> None:
        """Forget all regions, as a restarted server does."""
        self.regions.clear()

    async def model(self) -> ModelInfo:
        self.models_asked += 1
        self._fail()
        return self.info

    async def register(self, region: AnyRegion) -> None:
        self._fail()
        if isinstance(region, DeviceRegion) and self.gpu is None:
            raise DeviceRegionRefused("no GPU here")
        self.regions[region.shm_name] = region
        self.registered.append(region.shm_name)

    async def unregister(self, region: AnyRegion) -> None:
        self._fail()
        self.regions.pop(region.shm_name, None)
        self.unregistered.append(region.shm_name)

    async def infer(
        self, frame: Frame, *, request_id: str = "", traceparent: str | None = None
    ) -> Prediction:
        name = frame.region.shm_name
        self._fail()
        if self.frame_errors:
            raise self.frame_errors.pop(0)
        if name not in self.regions:
            raise RegionNotRegistered(name)
        self.traces.append((request_id, traceparent))
        self.asked.append((name, self._pixel(frame)))
        self.in_flight[name] = self.in_flight.get(name, 0) + 1
        self.most_in_flight = max(self.most_in_flight, *self.in_flight.values())
        try:
            await self.hold.wait()
            self._fail()
            value = self._pixel(frame)
        finally:
            self.in_flight[name] -= 1
        return Prediction(
            np.array([[value, 0, 500, 9], self.second_box], np.float32),
            np.array([0.9, self.second_score], np.float32),
            np.array([1, 3], np.int32),
        )

    def _pixel(self, frame: Frame) -> int:
        """Read the frame as the server does: by handle or name, and offset."""
        if isinstance(frame, DevicePlace):
            assert self.gpu is not None
            return int(read_device(self.gpu, frame)[0, 0])
        path = SHM_DIR / frame.region.shm_name
        with path.open("rb") as region:
            region.seek(frame.pixels_offset)
            return region.read(1)[0]

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


def unavailable() -> ModelUnavailable:
    """Return the error of a server that cannot be reached."""
    return ModelUnavailable("connection refused")
