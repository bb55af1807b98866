"""A gRPC server with the part of Triton's protocol that the detector uses, which misbehaves on demand.

Like Triton, it reads the frames in place. It finds a person in all of them or in none, as the test sets it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from enum import Enum
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from support.mosquitto import free_port
from tridetr.shm.names import SHM_DIR

SLOTS = 8  # detections in an answer


class Mood(Enum):
    """How inference requests are answered."""

    WELL = "well"
    ERROR = "error"  # INTERNAL
    LATE = "late"  # after `late_s`
    NEVER = "never"
    GARBAGE = "garbage"  # tensors whose bytes and shapes contradict each other
    # Like a server whose backend process is dead: ready, but every inference fails
    UNHEALTHY = "unhealthy"


class GrpcTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped
    """The server; attributes may be set at any time."""

    def __init__(self) -> None:
        self.mood = Mood.WELL
        self.person = False
        self.late_s = 3.0
        self.asked = 0
        self.answered = 0
        # Error of CudaSharedMemoryRegister (code, text); None if it succeeds
        self.gpu_refusal: tuple[grpc.StatusCode, str] | None = None
        self.cuda_requests: list[Any] = []
        self.inferred: list[tuple[str, int, int]] = []  # region, offset, size of each input
        self.port = free_port()
        self._regions: dict[str, str] = {}
        self._moved = threading.Condition()
        self._server: grpc.Server | None = None

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start listening, with no region registered."""
        self._regions.clear()
        self._server = grpc.server(futures.ThreadPoolExecutor(32))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(self.url)
        self._server.start()

    def stop(self) -> None:
        """Stop immediately; calls in progress fail."""
        if self._server is not None:
            self._server.stop(0).wait(5)

    def be(self, mood: Mood) -> None:
        """Change the mood; requests that are waiting without an answer stay unanswered."""
        with self._moved:
            self.mood = mood

    def ServerReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        return service_pb2.ModelMetadataResponse(
            name=request.name,
            versions=["1"],
            inputs=[tensor(name="frame", datatype="UINT8", shape=[-1, -1, -1])],
            outputs=[
                tensor(name="boxes", datatype="FP32", shape=[-1, SLOTS, 4]),
                tensor(name="scores", datatype="FP32", shape=[-1, SLOTS]),
                tensor(name="classes", datatype="INT32", shape=[-1, SLOTS]),
            ],
        )

    def ModelConfig(self, request: Any, context: Any) -> Any:
        config = model_config_pb2.ModelConfig(name=request.name, backend="onnxruntime")
        config.parameters["classes"].string_value = json.dumps({"person": 1})
        return service_pb2.ModelConfigResponse(config=config)

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        if request.name in self._regions:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "already registered")
        if not (SHM_DIR / request.key.lstrip("/")).exists():
            context.abort(grpc.StatusCode.INTERNAL, "Unable to open shared memory region")
        self._regions[request.name] = request.key
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        self._regions.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def CudaSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        self.cuda_requests.append(request)
        if self.gpu_refusal is not None:
            context.abort(*self.gpu_refusal)
        if request.name in self._regions:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "already registered")
        self._regions[request.name] = ""
        return service_pb2.CudaSharedMemoryRegisterResponse()

    def CudaSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        self._regions.pop(request.name, None)
        return service_pb2.CudaSharedMemoryUnregisterResponse()

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.asked += 1
        mood = self.mood
        where = request.inputs[0].parameters
        region = where["shared_memory_region"].string_param
        self.inferred.append((
            region,
            where["shared_memory_offset"].int64_param,
            where["shared_memory_byte_size"].int64_param,
        ))  # fmt: skip
        if region not in self._regions:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Unable to find shared memory region: '{region}'"
            )
        if mood is Mood.ERROR:
            context.abort(grpc.StatusCode.INTERNAL, "CUDA error: out of memory")
        if mood is Mood.UNHEALTHY:
            context.abort(
                grpc.StatusCode.INTERNAL, "Failed to process: Stub process is not healthy."
            )
        if mood is Mood.NEVER:
            while context.is_active():
                time.sleep(0.1)
            context.abort(grpc.StatusCode.CANCELLED, "the client no longer waits")
        if mood is Mood.LATE:
            time.sleep(self.late_s)
        self.answered += 1
        return self._answer(request, cut=4 if mood is Mood.GARBAGE else 0)

    def _answer(self, request: Any, cut: int) -> Any:
        boxes, scores = np.zeros((SLOTS, 4), np.float32), np.zeros(SLOTS, np.float32)
        classes = np.ones(SLOTS, np.int32)
        if self.person:
            boxes[0], scores[0] = (100, 100, 200, 300), 0.95
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        for name, kind, array in (
            ("boxes", "FP32", boxes), ("scores", "FP32", scores), ("classes", "INT32", classes),
        ):  # fmt: skip
            answer.outputs.add(name=name, datatype=kind, shape=[1, *array.shape])
            raw = array.tobytes()
            answer.raw_output_contents.append(raw[: len(raw) - cut])
        return answer


@contextlib.contextmanager
def grpc_triton() -> Iterator[GrpcTriton]:
    """Run the server for the duration of a test."""
    server = GrpcTriton()
    server.start()
    try:
        yield server
    finally:
        server.stop()
