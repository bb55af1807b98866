"""Triton as the cameras of one detector see it: is it there, what does it serve, which regions does it know."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal, Protocol

from tridetr.backoff import wait_s
from tridetr.detector.registrations import Place, Registrations, runs_on_gpu
from tridetr.errors import ModelError, ModelUnavailable, TritonError
from tridetr.model_card import ModelInfo
from tridetr.shm.device_region import AnyRegion
from tridetr.shm.frames import DeviceFrameLease, FrameLease
from tridetr.triton.client import Frame, Prediction

log = logging.getLogger("tridetr.detector")

# One is computed while the next one waits at the server, so that it never idles. More would only age the frames;
# a GPU computes several together.
_AT_ONCE_CPU = 2
_AT_ONCE_GPU = 8

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
# Between two questions whether it is there: they cost little, and a server that has just started is used soon.
_LONGEST_ASK_S = 0.1


def pause_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row [s].

    >>> [pause_s(n) for n in (1, 2, 3, 99)]
    [0.05, 0.1, 0.2, 1.0]
    """
    return wait_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)


def requests_at_once(info: ModelInfo) -> int:
    """Return how many requests keep this model busy."""
    return _AT_ONCE_GPU if runs_on_gpu(info) else _AT_ONCE_CPU


class Client(Protocol):
    """What the detector needs of ``TritonClient``."""

    async def model(self) -> ModelInfo: ...
    async def register(self, region: AnyRegion) -> None: ...
    async def unregister(self, region: AnyRegion) -> None: ...
    async def infer(
        self, frame: Frame, *, request_id: str = "", traceparent: str | None = None
    ) -> Prediction: ...


class Server:
    """One server and model for all cameras; finds out again what serves whenever it was away.

    Attributes:
        turns: At most that many requests at once, first come first served: with each camera asking for one frame
            at a time, the cameras take turns, and a frame is taken when its turn has come, not before it queues.
    """

    def __init__(
        self,
        client: Client,
        on_model: Callable[[ModelInfo], None],
        give_up_s: float = 70.0,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        """Make it; nothing is asked yet.

        Args:
            client: The way to the server.
            on_model: Called with what serves each time it was looked up; may raise to refuse it.
            give_up_s: A request that was not answered for so long is given up, so that a server which lost it
                does not blind a camera for ever.
            device: `device` of the configuration.
        """
        self._give_up_s = give_up_s
        self.turns = asyncio.Semaphore(_AT_ONCE_CPU)
        self._client = client
        self._on_model = on_model
        self._up = False
        self._failures = 0
        self._said: str | None = None
        self._lock = asyncio.Lock()
        self._regions = Registrations(client, device)

    @property
    def is_up(self) -> bool:
        """Whether the model served when it was last asked."""
        return self._up

    async def available(self) -> None:
        """Wait until the model serves; returns at once while it does.

        Raises:
            ModelError: It does not keep the contract.
        """
        if self._up:
            return
        async with self._lock:
            while not self._up:
                if self._failures:
                    await asyncio.sleep(min(pause_s(self._failures), _LONGEST_ASK_S))
                try:
                    info = await self._client.model()
                except ModelError:
                    raise
                except TritonError as error:
                    self._failures += 1
                    self._say(error)
                    continue
                self._on_model(info)
                self.turns = asyncio.Semaphore(requests_at_once(info))
                self._regions.use_model(info)
                self._up = True

    async def place(self, lease: FrameLease) -> Place:
        """Return where the server shall read a leased frame; see ``Registrations.place``."""
        return await self._regions.place(lease)

    @property
    def may_open_device(self) -> bool:
        """Whether the server may be able to read GPU memory, as far as is known."""
        return self._regions.may_open_device

    async def place_device(self, lease: DeviceFrameLease) -> Place | None:
        """Return where the server reads a leased frame in GPU memory; see ``Registrations.place_device``."""
        return await self._regions.place_device(lease)

    async def infer(self, frame: Place, traceparent: str | None) -> tuple[int, Prediction, int]:
        """Run the model on a frame in its place.

        Returns:
            CLOCK_MONOTONIC [ns] of the request, the answer, and CLOCK_MONOTONIC [ns] of the answer.

        Raises:
            TritonError: As ``TritonClient.infer``; ModelUnavailable also where no answer came within ``give_up_s``.
                The server may then still read the frame while it is written over; that is harmless, because nobody
                takes its answer any more.
        """
        trace_id = traceparent[3:35] if traceparent else ""
        start_ns = time.monotonic_ns()
        asked = self._client.infer(frame, request_id=trace_id, traceparent=traceparent)
        try:
            answer = await asyncio.wait_for(asked, self._give_up_s)
        except asyncio.TimeoutError:
            raise ModelUnavailable(
                f"no answer for {self._give_up_s:g} s, the request is given up"
            ) from None
        end_ns = time.monotonic_ns()
        if self._said is not None:
            log.info("inference works")
        self._said, self._failures = None, 0
        return start_ns, answer, end_ns

    def restarted(self) -> None:
        """Note that the server has forgotten our regions: it is another one, perhaps with another model."""
        self._up = False
        self._regions.forget()

    def failed(self, error: TritonError) -> None:
        """Note that the server does not serve now; said once for each cause."""
        self._failures += self._up  # requests that were in flight together fail together
        self._up = False
        self._say(error)

    def retire(self, region: AnyRegion) -> None:
        """Let the server forget a region that no lease uses any more, beside the work."""
        self._regions.retire(region)

    async def close(self) -> None:
        """Let the server forget all regions, as far as it answers."""
        await self._regions.close()

    def _say(self, error: TritonError) -> None:
        if str(error) != self._said:
            self._said = str(error)
            log.warning("no inference: %s", error)
