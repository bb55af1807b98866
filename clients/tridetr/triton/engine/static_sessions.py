"""ONNX Runtime sessions with fixed shapes, for each frame size and each batch size, under a common memory limit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tridetr.contract import INPUT
from tridetr.triton.engine.choice import CUDA, Choice
from tridetr.triton.engine.dlpack import Frames
from tridetr.triton.engine.gpu_memory import GpuMemory
from tridetr.triton.engine.session import (
    BATCH,
    provider_options,
    require_provider,
    session_options,
)
from tridetr.triton.engine.split import Parts, split
from tridetr.triton.engine.weights import SharedWeights

Size = tuple[int, int]  # rows (3/2 of the height), width
Results = list[npt.NDArray[Any]]
ANY_SIZE: Final = "any size"
_LARGE: Final = (1620, 1920)  # size of the frame that warms up the session for any size
_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
}


def name_of(size: Size) -> str:
    """Return a size as WIDTHxHEIGHT.

    >>> name_of((1620, 1920))
    '1920x1080'
    """
    rows, width = size
    return f"{width}x{rows * 2 // 3}"


class Sessions:
    """Opens the sessions of one model and runs each once, which allocates all its memory.

    Attributes:
        parts: the two halves of the model.
        memory: GPU memory used by the sessions; None on a CPU.
    """

    def __init__(
        self, model: Path, choice: Choice, *, threads: int, memory: GpuMemory | None
    ) -> None:
        """Split the model and load its weights; the arguments are those of `StaticEngine`.

        Raises:
            ModelError: the file was not made by `tridetr models fuse`, or the GPU does not respond.
        """
        self._provider = choice.provider
        self._device = "cuda" if choice.provider == CUDA else "cpu"
        self._threads = threads
        self._settings = provider_options(choice, threads, None)
        self.parts = split(model)
        self.memory = GpuMemory() if memory is None and choice.provider == CUDA else memory
        with self._measure("weights"):
            self._weights = SharedWeights(self.parts.network, self._device)

    def network(self, batch: int, *, graph: bool) -> Network:
        """Open the network for a batch size.

        Args:
            batch: number of images.
            graph: whether to capture it as a CUDA graph; no other thread may allocate GPU memory meanwhile.
        """
        settings = {"enable_cuda_graph": "1"} if graph else {}
        with self._measure(f"batch {batch}"):
            session = self._open(self._weights.network, {BATCH: batch}, settings, self._weights)
            network = Network(session, self.parts, batch, self._device)
            network.run()
        return network

    def pixels(self, size: Size | None) -> Pixels:
        """Open the pre-processing session of a frame size; None = any size, limited to a quarter of the memory left."""
        shapes, settings = {BATCH: 1}, {}
        if size is not None:
            shapes |= {"rows": size[0], "width": size[1]}
        elif self.memory is not None:
            settings = {"gpu_mem_limit": str(self.memory.left // 4)}
        with self._measure(name_of(size) if size else ANY_SIZE):
            pixels = Pixels(self._open(self.parts.pixels, shapes, settings), self.parts)
            pixels.try_out(size or _LARGE)
        return pixels

    def _measure(self, session: str) -> AbstractContextManager[None]:
        return nullcontext() if self.memory is None else self.memory.measure(session)

    def _open(
        self,
        model: bytes,
        shapes: Mapping[str, int],
        settings: Mapping[str, str],
        weights: SharedWeights | None = None,
    ) -> Any:
        import onnxruntime

        options = session_options(self._threads, shapes)
        if weights is not None:
            weights.share(options)
        limits = {}
        if self.memory is not None and self._provider == CUDA:
            # All shapes are fixed, so memory that an arena allocates in advance would never be used.
            limits = {
                "arena_extend_strategy": "kSameAsRequested",
                "gpu_mem_limit": str(self.memory.left),
            }
        chosen = {**self._settings, **limits, **settings}
        session = onnxruntime.InferenceSession(model, options, providers=[(self._provider, chosen)])
        require_provider(session, self._provider)
        return session


class Network:
    """The network's session of one batch size, with its input and output buffers."""

    def __init__(self, session: Any, parts: Parts, batch: int, device: str) -> None:
        import onnxruntime

        self._session = session
        self._binding = session.io_binding()
        (image,) = session.get_inputs()
        shape = [batch, *image.shape[1:]]
        self.type = _TYPES[image.type]
        self.device = device
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._image = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.zeros(shape, self.type), device, 0
        )
        self.shape = (1, *shape[1:])
        self._stride = int(np.prod(self.shape)) * np.dtype(self.type).itemsize
        self._binding.bind_ortvalue_input(parts.image, self._image)
        self._outputs = []
        for output in session.get_outputs():
            value = make([batch, *output.shape[1:]], _TYPES[output.type], device, 0)
            self._binding.bind_ortvalue_output(output.name, value)
            self._outputs.append(value)

    def place(self, index: int) -> int:
        """Return the address of an image in the input buffer."""
        return int(self._image.data_ptr()) + index * self._stride

    def run(self, options: Any = None) -> Results:
        """Run the whole batch and return the outputs as host arrays.

        Args:
            options: ONNX Runtime's `RunOptions`; None = default.
        """
        self._session.run_with_iobinding(self._binding, options)
        return [value.numpy() for value in self._outputs]


class Pixels:
    """The session that converts a frame, of one size or any size, to the network's input."""

    def __init__(self, session: Any, parts: Parts) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._image = parts.image

    def try_out(self, size: Size) -> None:
        """Run once with a frame of this size, which allocates the memory that a run needs."""
        self._session.run(None, {INPUT: np.zeros((1, *size), np.uint8)})

    def lay(self, frame: Frames, network: Network, index: int) -> None:
        """Convert a frame, in host or GPU memory, to the image at ``index`` of the network's input buffer."""
        binding = self._binding
        device, number = ("cpu", 0) if frame.gpu is None else ("cuda", frame.gpu)
        binding.bind_input(INPUT, device, number, np.uint8, frame.shape, frame.pointer)
        binding.bind_output(
            self._image, network.device, 0, network.type, network.shape, network.place(index)
        )
        self._session.run_with_iobinding(binding)
