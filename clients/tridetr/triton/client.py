"""The detector's way to Triton: regions registered once, frames named by offset, results inline.

All methods belong to one asyncio loop. Nothing here has a deadline: a deadline on the client's side does not stop
the server, which may go on reading the frame. Whoever waits too long keeps the lease and waits on; the watchdog of
the embedded server ends a hung one, and then every waiting call ends with `ModelUnavailable`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.triton import describe
from tridetr.triton.contract import INPUT, OUTPUTS, ModelInfo, check_contract
from tridetr.triton.endpoint import Endpoint, endpoint_of
from tridetr.triton.errors import InferenceFailed, ModelUnavailable, RegionNotRegistered

log = logging.getLogger("tridetr.triton")

_SERVICE = "/inference.GRPCInferenceService/"
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
)
_DTYPES = {"boxes": np.float32, "scores": np.float32, "classes": np.int32}
_UNREGISTER_TRIES = 50
_UNREGISTER_PAUSE_S = 0.1


class Region(Protocol):
    """A whole shared-memory file (`/dev/shm/<shm_name>`)."""

    @property
    def shm_name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


class Frame(Protocol):
    """An I420 frame that lies in a region; a `FrameLease` is one."""

    @property
    def region(self) -> Region: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def pixels_offset(self) -> int: ...
    @property
    def pixels_nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """One frame's detections, best first; rows with score 0 are padding. Read-only arrays."""

    boxes: npt.NDArray[np.float32]  # [K, 4] x1 y1 x2 y2 in source pixels
    scores: npt.NDArray[np.float32]  # [K]
    classes: npt.NDArray[np.int32]  # [K] the model's class ids


class TritonClient:
    """Asks one model of one server; follows a restarted embedded server to its new endpoint.

    Example:
        >>> async with TritonClient(config) as client:
        ...     info = await client.model()
        ...     await client.register(lease.region)
        ...     prediction = await client.infer(lease)
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._model_name = config.model.name
        self._endpoint: Endpoint | None = None
        self._channel: grpc.aio.Channel | None = None
        self._infer_call: Any = None
        self._calls: dict[str, Any] = {}

    async def __aenter__(self) -> TritonClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight end with ModelUnavailable."""
        channel, self._channel, self._endpoint = self._channel, None, None
        self._calls.clear()
        if channel is not None:
            await channel.close()

    async def model(self, timeout_s: float = 5.0) -> ModelInfo:
        """Return what serves, after checking that it keeps the contract.

        Raises:
            ModelUnavailable: server or model is not ready (yet).
            ModelError: the model's inputs or outputs differ from the contract.
        """
        name = self._model_name
        request = service_pb2.ModelMetadataRequest(name=name)
        metadata = await self._ask("ModelMetadata", request, timeout_s)
        check_contract(name, metadata.inputs, metadata.outputs)
        reply = await self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=name), timeout_s)
        report = self._endpoint.engine_report if self._endpoint else None
        version = metadata.versions[-1] if metadata.versions else "1"
        return describe.model_info(reply.config, version, report)

    async def register(self, region: Region) -> None:
        """Make a region known to the server, whole and at offset 0.

        A registration that is already there may show the pages of an earlier file of the same name, so it is
        replaced.

        Raises:
            ModelUnavailable: the server does not answer.
            TritonError: the server cannot open the region, or refuses us (secret).
        """
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=region.shm_name, key=f"/{region.shm_name}", offset=0, byte_size=region.size_bytes
        )
        try:
            await self._ask("SystemSharedMemoryRegister", request, 5.0)
        except _AlreadyRegisteredError:
            await self.unregister(region)
            await self._ask("SystemSharedMemoryRegister", request, 5.0)

    async def unregister(self, region: Region) -> None:
        """Make the server forget a region; unknown ones are fine.

        Raises:
            ModelUnavailable: the server does not answer.
            TritonError: the region is in use for longer than five seconds.
        """
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=region.shm_name)
        for attempt in range(_UNREGISTER_TRIES):
            try:
                await self._ask("SystemSharedMemoryUnregister", request, 5.0)
                return
            except RegionNotRegistered:
                return
            except InferenceFailed:  # refused while an inference reads it
                if attempt == _UNREGISTER_TRIES - 1:
                    raise
                await asyncio.sleep(_UNREGISTER_PAUSE_S)

    async def infer(
        self, frame: Frame, *, request_id: str = "", traceparent: str | None = None
    ) -> Prediction:
        """Run the model on a frame where it lies; returns when the server has let go of it.

        Args:
            frame: the frame, in a region that was registered.
            request_id: appears in the server's logs and traces (the trace id).
            traceparent: W3C trace context, handed to the server as a header.

        Raises:
            RegionNotRegistered: the server does not know the region (any more).
            ModelUnavailable: the connection broke, or the model is broken or not loaded.
            InferenceFailed: the server refused or failed this request.
        """
        request = service_pb2.ModelInferRequest(model_name=self._model_name, id=request_id)
        tensor = request.inputs.add(
            name=INPUT, datatype="UINT8", shape=(1, frame.height * 3 // 2, frame.width)
        )
        tensor.parameters["shared_memory_region"].string_param = frame.region.shm_name
        tensor.parameters["shared_memory_offset"].int64_param = frame.pixels_offset
        tensor.parameters["shared_memory_byte_size"].int64_param = frame.pixels_nbytes
        metadata = (("traceparent", traceparent),) if traceparent else None
        return parse_prediction(await self._ask("ModelInfer", request, None, metadata))

    async def _ask(
        self,
        method: str,
        request: Any,
        timeout_s: float | None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Any:
        call = self._call(method)
        if metadata is None and method.startswith("SystemSharedMemory") and self._endpoint:
            metadata = self._endpoint.metadata()
        try:
            return await call(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            await self._follow()
            raise _translate(method, error) from None
        except asyncio.CancelledError:
            # Closing the channel cancels its calls; a cancelled task is told apart by its channel.
            if self._channel is None:
                raise ModelUnavailable("the connection to Triton was closed") from None
            raise

    def _call(self, method: str) -> Any:
        call = self._calls.get(method)
        if call is not None:
            return call
        if self._channel is None:
            self._endpoint = endpoint_of(self._config)
            if self._endpoint is None:
                raise ModelUnavailable("Triton is not running yet (`tridetr triton` starts it)")
            self._channel = grpc.aio.insecure_channel(
                self._endpoint.address, options=_CHANNEL_OPTIONS
            )
        call = self._calls[method] = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=type_of_request(method).SerializeToString,
            response_deserializer=type_of_response(method).FromString,
        )
        return call

    async def _follow(self) -> None:
        """Drop the channel when the embedded server answers somewhere else by now."""
        now = endpoint_of(self._config)
        if now is not None and self._endpoint is not None and now.address != self._endpoint.address:
            await self.close()


def type_of_request(method: str) -> Any:
    """Return the protobuf class of a method's request."""
    return getattr(service_pb2, f"{method}Request")


def type_of_response(method: str) -> Any:
    """Return the protobuf class of a method's response."""
    return getattr(service_pb2, f"{method}Response")


def parse_prediction(response: Any) -> Prediction:
    """Turn a response of batch 1 into arrays (views of the message's bytes).

    Raises:
        InferenceFailed: an output is missing or its bytes do not match its shape.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for spec, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        dtype = _DTYPES.get(spec.name)
        shape = tuple(spec.shape)[1:]
        if dtype is None or len(raw) != int(np.prod(shape)) * np.dtype(dtype).itemsize:
            raise InferenceFailed(
                f"output {spec.name} {list(spec.shape)} came with {len(raw)} bytes"
            )
        arrays[spec.name] = np.frombuffer(raw, dtype).reshape(shape)
    missing = [name for name in OUTPUTS if name not in arrays]
    if missing:
        raise InferenceFailed(f"the server's answer lacks {', '.join(missing)}")
    return Prediction(arrays["boxes"], arrays["scores"], arrays["classes"])


class _AlreadyRegisteredError(TritonError):
    pass


def _translate(method: str, error: grpc.aio.AioRpcError) -> TritonError:
    code, details = error.code(), error.details() or ""
    text = f"Triton {method}: {details or code.name}"
    lower = details.lower()
    if code is grpc.StatusCode.ALREADY_EXISTS:
        return _AlreadyRegisteredError(text)
    if "protocol is restricted" in lower:
        return TritonError(
            f"{text}. Remedy: set triton.secret_file to the file with the server's key."
        )
    if "shared memory region" in lower and ("unable to find" in lower or "not found" in lower):
        return RegionNotRegistered(text)
    if code in _GONE or "not healthy" in lower:
        return ModelUnavailable(text)
    return InferenceFailed(text)


# NOT_FOUND and UNAVAILABLE: model not loaded (yet); the others: connection or server broke.
_GONE = frozenset({
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
})  # fmt: skip
