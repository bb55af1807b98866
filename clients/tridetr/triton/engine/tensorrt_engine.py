"""Run a TensorRT engine in the Python-based backend; only the results are copied to the host.

Only for servers without the native `tensorrt` backend. Written for TensorRT 10 and 11 (`tensorrt-stubs`), and tested
with fakes of TensorRT and CUDA; it has not run on a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tridetr.contract import INPUT, OUTPUTS
from tridetr.cuda.cuda_api import Cuda
from tridetr.errors import ModelError
from tridetr.triton.engine.dlpack import Frames

if TYPE_CHECKING:
    import tensorrt as trt

_TYPES: Mapping[str, Any] = {
    "frame": np.uint8,
    "boxes": np.float32,
    "scores": np.float32,
    "classes": np.int32,
}
_POLL_S = 50e-6
_PATIENCE_S = 60.0  # the watcher restarts the server long before
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Range:
    """The shapes that one optimisation profile supports."""

    least: Shape
    largest: Shape

    def takes(self, shape: Shape) -> bool:
        within = zip(self.least, shape, self.largest, strict=True)
        return len(shape) == 3 and all(low <= n <= high for low, n, high in within)


class TensorRtEngine:
    """A loaded engine with its buffers. Use it only from the thread that created it."""

    def __init__(self, plan: Path, tensorrt: Any, cuda: Cuda) -> None:
        """Load an engine.

        Args:
            plan: the engine's file.
            tensorrt: the `tensorrt` module.
            cuda: the GPU.

        Raises:
            ModelError: the engine was built for another GPU or TensorRT version, or does not conform to the contract.
            CudaError: a stream or event cannot be created on the GPU.
        """
        self._cuda = cuda
        self._runtime: trt.Runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
        engine: trt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise ModelError(
                f"TensorRT {tensorrt.__version__} on {cuda.name} cannot load {plan}: an engine works only with the GPU "
                "model and TensorRT version that built it. Remedy: build it here, with `tridetr models build-engine`"
            )
        self._engine = engine
        _check_tensors(engine, tensorrt)
        self._context = engine.create_execution_context()
        self._profile = 0
        self._ranges = [
            _Range(tuple(least), tuple(largest))
            for least, _, largest in (
                engine.get_tensor_profile_shape(INPUT, index)
                for index in range(engine.num_optimization_profiles)
            )
        ]
        self._stream = cuda.make_stream()
        self._done = cuda.make_event()
        self._buffers: dict[str, tuple[int, int]] = {}  # address and size on the GPU

    def run(self, frames: Frames) -> list[npt.NDArray[Any]]:
        """Return boxes [B, K, 4], scores [B, K] and classes [B, K].

        Args:
            frames: read in place if they are on this engine's GPU; copied to it from host memory. The caller must
                keep them until this returns.

        Raises:
            ModelError: the engine does not support frames of this size, or fails.
            CudaError: a copy failed, or the GPU's memory is full.
        """
        self._choose_profile(frames.shape)
        context, stream = self._context, self._stream
        if not context.set_input_shape(INPUT, frames.shape):
            raise ModelError(f"TensorRT rejects frames of shape {list(frames.shape)}")
        if frames.gpu == self._cuda.device_id:
            address = frames.pointer
        elif frames.gpu is None:
            size = int(np.prod(frames.shape))
            address = self._buffer(INPUT, size)
            self._cuda.upload(address, frames.pointer, size, stream)
        else:
            raise ModelError(
                f"the frame is on GPU {frames.gpu}, the engine on GPU {self._cuda.device_id}"
            )
        context.set_tensor_address(INPUT, address)
        results = [
            np.empty(tuple(context.get_tensor_shape(name)), _TYPES[name]) for name in OUTPUTS
        ]
        for name, result in zip(OUTPUTS, results, strict=True):
            context.set_tensor_address(name, self._buffer(name, result.nbytes))
        if not context.execute_async_v3(stream):
            raise ModelError(
                "TensorRT did not run the engine; see its messages in the server's log"
            )
        for name, result in zip(OUTPUTS, results, strict=True):
            self._cuda.download(result.ctypes.data, self._buffers[name][0], result.nbytes, stream)
        self._wait()
        return results

    def close(self) -> None:
        """Free the GPU memory, stream and event."""
        for address, _ in self._buffers.values():
            self._cuda.free(address)
        self._buffers.clear()
        self._cuda.free_event(self._done)
        self._cuda.free_stream(self._stream)

    def _choose_profile(self, shape: Shape) -> None:
        if self._ranges[self._profile].takes(shape):
            return
        for index, profile in enumerate(self._ranges):
            if profile.takes(shape):
                if not self._context.set_optimization_profile_async(index, self._stream):
                    raise ModelError(f"TensorRT cannot switch to optimisation profile {index}")
                self._profile = index
                return
        raise ModelError(
            f"the engine supports frames [B, 3H/2, W] from {' or '.join(map(_show, self._ranges))}, not {list(shape)}. "
            "Remedy: build it with --size and --max-batch of your cameras (`tridetr models build-engine`)"
        )

    def _buffer(self, name: str, size: int) -> int:
        address, there = self._buffers.get(name, (0, 0))
        if there < size:
            if there:
                self._cuda.free(address)
                del self._buffers[name]
            address = self._cuda.allocate(size)
            self._buffers[name] = (address, size)
        return address

    def _wait(self) -> None:
        self._cuda.record(self._done, self._stream)
        deadline = time.monotonic() + _PATIENCE_S
        while not self._cuda.is_complete(self._done):
            if time.monotonic() > deadline:
                raise ModelError(f"the GPU did not finish within {_PATIENCE_S:.0f} s")
            time.sleep(_POLL_S)


def _check_tensors(engine: trt.ICudaEngine, tensorrt: Any) -> None:
    names: Sequence[str] = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    if set(names) != set(_TYPES):
        raise ModelError(
            f"the engine's tensors are {', '.join(names)} instead of {', '.join(_TYPES)}"
        )
    for name, wanted in _TYPES.items():
        found = np.dtype(tensorrt.nptype(engine.get_tensor_dtype(name)))
        if found != np.dtype(wanted):
            raise ModelError(f"the engine's {name} is {found} instead of {np.dtype(wanted)}")
        is_input = engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
        if is_input != (name == INPUT):
            raise ModelError(f"the engine's {name} is an {'input' if is_input else 'output'}")


def _show(profile: _Range) -> str:
    return f"{list(profile.least)} to {list(profile.largest)}"
