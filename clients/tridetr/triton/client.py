"""Asynchronous Triton client of the detector: frames stay in registered shared memory, results come inline.

Use all methods from one asyncio event loop. `infer` has no deadline, because a client-side deadline does not stop the
server, which may still be reading the frame: keep the lease until the call returns. The watcher of the embedded server
restarts a hung server, and all pending calls then raise `ModelUnavailable`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tridetr.config import Config
from tridetr.contract import INPUT, check_contract
from tridetr.errors import (
    InferenceFailed,
    ModelUnavailable,
    RegionNotRegistered,
    ServerNotStarted,
)
from tridetr.model_card import ModelInfo
from tridetr.shm.device_region import AnyRegion, DeviceRegion
from tridetr.triton import describe
from tridetr.triton.answers import (
    AlreadyRegisteredError,
    Prediction,
    parse_prediction,
    translate,
)
from tridetr.triton.endpoint import Endpoint, endpoint_of

__all__ = ["Frame", "Prediction", "TritonClient"]

_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
)
_TIMEOUT_S = 5.0
_UNREGISTER_TRIES = 50
_UNREGISTER_PAUSE_S = 0.1


class Frame(Protocol):
    """An I420 frame in a shared-memory region, such as a `FrameLease` or a `DevicePlace`."""

    @property
    def region(self) -> AnyRegion: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def pixels_offset(self) -> int: ...
    @property
    def pixels_nbytes(self) -> int: ...


class TritonClient:
    """A client for one model of one server; it reconnects after the server was restarted under the same address.

    Example:
        >>> async with TritonClient(config) as client:  # doctest: +SKIP
        ...     info = await client.model()
        ...     await client.register(lease.region)
        ...     prediction = await client.infer(lease)
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._model_name = config.model.name
        self._endpoint: Endpoint | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def __aenter__(self) -> TritonClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight raise ModelUnavailable."""
        channel, self._channel, self._stub, self._endpoint = self._channel, None, None, None
        if channel is not None:
            await channel.close()

    async def model(self) -> ModelInfo:
        """Return the description of the served model, after checking that it conforms to the contract.

        Raises:
            ModelUnavailable: the server or the model is not ready.
            ModelError: the model's inputs or outputs differ from the contract.
        """
        name = self._model_name
        metadata = await self._ask("ModelMetadata", service_pb2.ModelMetadataRequest(name=name))
        check_contract(name, metadata.inputs, metadata.outputs)
        reply = await self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=name))
        report = self._endpoint.engine_report if self._endpoint else None
        version = metadata.versions[-1] if metadata.versions else "1"
        return describe.model_info(reply.config, version, report)

    async def register(self, region: AnyRegion) -> None:
        """Register a whole region with the server, at offset 0.

        An existing registration is replaced: it may map the pages of an earlier file of the same name.

        Raises:
            ModelUnavailable: the server does not answer.
            DeviceRegionRefused: the server cannot open this GPU memory.
            TritonError: the server cannot open the region, or rejects the secret.
        """
        method, request = registration(region)
        try:
            await self._ask(method, request)
        except AlreadyRegisteredError:
            await self.unregister(region)
            await self._ask(method, request)

    async def unregister(self, region: AnyRegion) -> None:
        """Unregister a region; succeeds also if it is not registered.

        Raises:
            ModelUnavailable: the server does not answer.
            TritonError: the region is still in use after five seconds.
        """
        method, request = unregistration(region)
        for attempt in range(_UNREGISTER_TRIES):
            try:
                await self._ask(method, request)
                return
            except RegionNotRegistered:
                return
            except InferenceFailed:  # refused while an inference uses the region
                if attempt == _UNREGISTER_TRIES - 1:
                    raise
                await asyncio.sleep(_UNREGISTER_PAUSE_S)

    async def infer(
        self, frame: Frame, *, request_id: str = "", traceparent: str | None = None
    ) -> Prediction:
        """Run the model on a frame in shared memory; returns when the server no longer reads the frame.

        Args:
            frame: the frame, in a registered region.
            request_id: shown in the server's logs and traces (the trace ID).
            traceparent: W3C trace context, sent to the server as a header.

        Returns:
            The detections, at most K rows; see `Prediction`.

        Raises:
            RegionNotRegistered: the region is not, or no longer, registered with the server.
            ModelUnavailable: the connection failed, or the model is unhealthy or not loaded.
            InferenceFailed: the server answered this request with an error.
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
        timeout_s: float | None = _TIMEOUT_S,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Any:
        call = self._call(method)
        if metadata is None and "SharedMemory" in method and self._endpoint:
            metadata = self._endpoint.metadata()
        try:
            return await call(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise translate(method, error) from None
        except asyncio.CancelledError:
            # Closing the channel cancels its calls. If the channel is still open, the task itself was cancelled.
            if self._channel is None:
                raise ModelUnavailable("the connection to Triton was closed") from None
            raise

    def _call(self, method: str) -> Any:
        if self._stub is None:
            self._endpoint = endpoint_of(self._config)
            if self._endpoint is None:
                raise ServerNotStarted("Triton is not running yet (`tridetr triton` starts it)")
            self._channel = grpc.aio.insecure_channel(
                self._endpoint.address, options=_CHANNEL_OPTIONS
            )
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return getattr(self._stub, method)


def registration(region: AnyRegion) -> tuple[str, Any]:
    """Return the gRPC method and request that register a whole region at offset 0."""
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


def unregistration(region: AnyRegion) -> tuple[str, Any]:
    """Return the gRPC method and request that unregister a region."""
    name = region.shm_name
    if isinstance(region, DeviceRegion):
        return "CudaSharedMemoryUnregister", service_pb2.CudaSharedMemoryUnregisterRequest(
            name=name
        )
    return "SystemSharedMemoryUnregister", service_pb2.SystemSharedMemoryUnregisterRequest(
        name=name
    )
