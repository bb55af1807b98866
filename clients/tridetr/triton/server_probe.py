"""The watcher's own requests to the server: blocking, one at a time, each with a deadline."""

from __future__ import annotations

from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tridetr.contract import INPUT, check_contract
from tridetr.model_card import ModelInfo
from tridetr.models.engine_files import PROBE_SIZE
from tridetr.triton.describe import model_info
from tridetr.triton.endpoint import Endpoint

_QUICK_S = 2.0


class Probe:
    """A blocking gRPC connection to one server and model."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint = endpoint
        self._model = model
        self._channel = grpc.insecure_channel(
            endpoint.address,
            options=[("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_http_proxy", 0)],
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def ready(self) -> bool:
        """Return whether the server reports the model as loaded, which does not mean that it works."""
        try:
            request = service_pb2.ModelReadyRequest(name=self._model)
            return bool(self._stub.ModelReady(request, timeout=_QUICK_S).ready)
        except grpc.RpcError:
            return False

    def model(self) -> ModelInfo:
        """Return the description of the served model, after checking that it conforms to the contract.

        Raises:
            ModelError: the model does not conform.
            grpc.RpcError: the server did not answer.
        """
        named = service_pb2.ModelMetadataRequest(name=self._model)
        metadata = self._stub.ModelMetadata(named, timeout=_QUICK_S)
        check_contract(self._model, metadata.inputs, metadata.outputs)
        request = service_pb2.ModelConfigRequest(name=self._model)
        reply = self._stub.ModelConfig(request, timeout=_QUICK_S)
        return model_info(reply.config, metadata.versions[-1], self._endpoint.engine_report)

    def counters(self) -> tuple[int, int]:
        """Return the numbers of successful and failed inferences since the server's start.

        Raises:
            grpc.RpcError: the server did not answer.
        """
        request = service_pb2.ModelStatisticsRequest(name=self._model)
        reply = self._stub.ModelStatistics(request, timeout=_QUICK_S)
        stats = [model.inference_stats for model in reply.model_stats]
        return sum(s.success.count for s in stats), sum(s.fail.count for s in stats)

    def start_inference(self, timeout_s: float) -> Any:
        """Start an inference of one small frame and return gRPC's future."""
        width, rows = PROBE_SIZE[0], PROBE_SIZE[1] * 3 // 2
        request = service_pb2.ModelInferRequest(model_name=self._model, id="tridetr-probe")
        request.inputs.add(name=INPUT, datatype="UINT8", shape=(1, rows, width))
        request.raw_input_contents.append(bytes([128]) * (rows * width))
        return self._stub.ModelInfer.future(request, timeout=timeout_s)
