"""The inference server as shared by the cameras of one detector: availability, served model, registered regions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal, Protocol

from tridetr.backoff import wait_s
from tridetr.detector.registrations import Place, Registrar, Registrations, runs_on_gpu
from tridetr.errors import ModelError, ModelUnavailable, ServerNotStarted, TritonError
from tridetr.model_card import ModelInfo
from tridetr.triton.client import Frame, Prediction

log = logging.getLogger("tridetr.detector")

# On a CPU, one request is computed while the next one waits at the server, which therefore never idles; more would only
# let frames grow old. A GPU computes several in a batch.
_CONCURRENT_CPU = 2
_CONCURRENT_GPU = 8

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
# Between availability checks: these are cheap, and a server that has just started is used without delay.
_LONGEST_CHECK_PAUSE_S = 0.1


def pause_s(failures: int) -> float:
    """Return the pause in seconds after a number of consecutive failures.

    >>> [pause_s(n) for n in (1, 2, 3, 99)]
    [0.05, 0.1, 0.2, 1.0]
    """
    return wait_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)


def requests_at_once(info: ModelInfo) -> int:
    """Return how many concurrent requests keep this model busy."""
    return _CONCURRENT_GPU if runs_on_gpu(info) else _CONCURRENT_CPU


class Client(Registrar, Protocol):
    """The methods of ``TritonClient`` that the detector uses."""

    async def model(self) -> ModelInfo: ...
    async def infer(
        self, frame: Frame, *, request_id: str = "", traceparent: str | None = None
    ) -> Prediction: ...


class Server:
    """One server and model for all cameras; queries the served model again after each outage.

    Attributes:
        turns: Semaphore that limits the concurrent requests, first come first served. Each camera has at most one
            request, so the cameras take turns. A frame is leased after its camera has got its turn, so it does not
            grow old in a queue.
        is_up: Whether the model served when it was last asked.
        regions: The memory that is registered with the server.
    """

    def __init__(
        self,
        client: Client,
        on_model: Callable[[ModelInfo], None],
        give_up_s: float = 70.0,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        """Start unconnected; nothing is requested yet.

        Args:
            client: The connection to the server.
            on_model: Called with the served model each time it was queried; may raise to reject it, or TritonError
                to be called again later.
            give_up_s: Seconds after which an unanswered request is given up, so that a server that lost a request
                does not block its camera indefinitely.
            device: `device` of the configuration.
        """
        self._give_up_s = give_up_s
        self.turns = asyncio.Semaphore(_CONCURRENT_CPU)
        self._client = client
        self._on_model = on_model
        self.is_up = False
        self._served: ModelInfo | None = None
        self._failures = 0
        self._logged: str | None = None
        self._lock = asyncio.Lock()
        self.regions = Registrations(client, device)

    async def available(self) -> None:
        """Wait until the model is ready; returns immediately if it is.

        Raises:
            ModelError: The model does not conform to the contract.
        """
        if self.is_up:
            return
        async with self._lock:
            while not self.is_up:
                if self._failures:
                    await asyncio.sleep(min(pause_s(self._failures), _LONGEST_CHECK_PAUSE_S))
                try:
                    info = await self._client.model()
                    self._on_model(info)
                except ModelError:
                    raise
                except TritonError as error:
                    self._failures += 1
                    self._log_once(error)
                    continue
                self._served = info
                self.turns = asyncio.Semaphore(requests_at_once(info))
                self.regions.use_model(info)
                self.is_up = True

    async def look_again(self) -> None:
        """Check that the model is still the same: a server can load another one without failing a request."""
        if not self.is_up:
            return
        try:
            is_same = await self._client.model() == self._served
        except ModelError:  # reported by the next `available`
            is_same = False
        except TritonError:  # inference fails too
            return
        if not is_same:
            self.is_up = False

    async def infer(self, frame: Place, traceparent: str | None) -> tuple[int, Prediction, int]:
        """Run the model on a frame in shared memory.

        Returns:
            The time of the request, the prediction, and the time of the answer; times are CLOCK_MONOTONIC in ns.

        Raises:
            TritonError: As ``TritonClient.infer``; ModelUnavailable also if no answer arrived within ``give_up_s``.
                The server may then read the frame while it is overwritten, which is harmless: its answer is
                discarded.
        """
        trace_id = traceparent[3:35] if traceparent else ""
        start_ns = time.monotonic_ns()
        asked = self._client.infer(frame, request_id=trace_id, traceparent=traceparent)
        try:
            answer = await asyncio.wait_for(asked, self._give_up_s)
        except asyncio.TimeoutError:
            raise ModelUnavailable(
                f"no answer for {self._give_up_s:g} s; the request was given up"
            ) from None
        end_ns = time.monotonic_ns()
        if self._logged is not None:
            log.info("inference is available")
        self._logged, self._failures = None, 0
        return start_ns, answer, end_ns

    def restarted(self) -> None:
        """Record that the server has lost our regions: it was restarted, perhaps with another model."""
        self.is_up = False
        self.regions.forget()

    def failed(self, error: TritonError) -> None:
        """Record that the server is unavailable; each cause is logged once."""
        self._failures += self.is_up  # requests that were in flight together fail together
        self.is_up = False
        self._log_once(error)

    def _log_once(self, error: TritonError) -> None:
        if str(error) != self._logged:
            self._logged = str(error)
            level = logging.INFO if isinstance(error, ServerNotStarted) else logging.WARNING
            log.log(level, "inference is unavailable: %s", error)
