"""A fused model with all shapes fixed, as a GPU likes it: buffers that stay, CUDA graphs, whole batches in one run.

With open sizes ONNX Runtime leaves shape arithmetic on the CPU and launches hundreds of kernels for each frame; with
fixed ones a CUDA graph replays them by one launch. So there is one small session for each frame size, which turns a
frame into the network's input, and one session with the weights for each batch size. A frame goes from where it is into
its place in the batch.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tridetr.contract import INPUT, OUTPUTS
from tridetr.errors import ModelError
from tridetr.triton.engine.choice import CUDA, Choice
from tridetr.triton.engine.dlpack import Frames
from tridetr.triton.engine.session import BATCH, check_shape, provider_options
from tridetr.triton.engine.split import Parts, split

BATCHES = (1, 2, 4, 8)
MOST_SIZES = 8  # sessions of frame sizes that are kept
Size = tuple[int, int]  # rows, width
Results = list[npt.NDArray[Any]]


def batches_up_to(most: int) -> tuple[int, ...]:
    """Return the batch sizes to prepare for so many cameras.

    >>> [batches_up_to(n) for n in (1, 3, 8, 20)]
    [(1,), (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8)]
    """
    return tuple(size for size in BATCHES if size < 2 * most)


class StaticEngine:
    """A loaded model. For one thread.

    Attributes:
        choice: provider and precision.
        batches: the batch sizes that are prepared.
        graphs: whether the network runs as CUDA graphs.
    """

    def __init__(
        self,
        model: Path,
        choice: Choice,
        *,
        sizes: Sequence[Size] = (),
        most: int = 1,
        threads: int = 0,
        graphs: bool = True,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Load the network, and prepare the sizes that are known.

        Args:
            model: an ONNX file of the contract, made by `tridetr models fuse`.
            choice: provider and precision.
            sizes: rows (3/2 of the height) and width of frames that will come.
            most: how many frames may come at once.
            threads: threads of one inference; 0 = all cores.
            graphs: whether to use CUDA graphs where the provider is CUDA.
            warn: logs a line.

        Raises:
            ModelError: the file was not made by `tridetr models fuse`, or the provider does not run.
        """
        self.choice = choice
        self._device = "cuda" if choice.provider == CUDA else "cpu"
        self._threads = threads
        self._warn = warn
        self._parts = split(model)
        self.batches = (1,) if self._parts.batch == 1 else batches_up_to(most)
        self.graphs = graphs and choice.provider == CUDA
        self._networks = {batch: self._network(batch) for batch in self.batches}
        self._sizes: OrderedDict[Size, _Pixels] = OrderedDict()
        self._open = _Pixels(self._session(self._parts.pixels, {BATCH: 1}), self._parts)
        self._lock = threading.Lock()
        self._maker = ThreadPoolExecutor(1, "sizes")
        self._making: set[Size] = set()
        for size in dict.fromkeys(sizes):
            self._make(size)

    @property
    def sizes(self) -> list[Size]:
        """The frame sizes that are prepared, the one used last at the end."""
        with self._lock:
            return list(self._sizes)

    def run(self, frames: Sequence[Frames]) -> list[Results]:
        """Return boxes [1, K, 4], scores [1, K] and classes [1, K] of each frame.

        Args:
            frames: I420 frames [1, 3H/2, W], each where it is; sizes may differ.

        Raises:
            ModelError: these are no such frames.
        """
        for frame in frames:
            check_shape(frame.shape)
        largest = self.batches[-1]
        found: list[Results] = []
        for start in range(0, len(frames), largest):
            found += self._run_batch(frames[start : start + largest])
        return found

    def close(self) -> None:
        """End the preparation of sizes."""
        self._maker.shutdown(cancel_futures=True)

    def _run_batch(self, frames: Sequence[Frames]) -> list[Results]:
        batch = next(size for size in self.batches if size >= len(frames))
        network = self._networks[batch]
        for index, frame in enumerate(frames):
            self._pixels_for((frame.shape[1], frame.shape[2])).lay(frame, network, index)
        boxes, scores, classes = network.run()
        results = []
        for index, frame in enumerate(frames):
            width, height = frame.shape[2], frame.shape[1] * 2 // 3
            whwh = np.array([width, height, width, height], np.float32)
            one = slice(index, index + 1)
            results.append([boxes[one] * whwh, scores[one].copy(), classes[one].copy()])
        return results

    def _pixels_for(self, size: Size) -> _Pixels:
        """Return the session of a size; while it is being made, the one for any size."""
        with self._lock:
            known = self._sizes.get(size)
            if known is not None:
                self._sizes.move_to_end(size)
                return known
            if size not in self._making:
                self._making.add(size)
                self._maker.submit(self._make, size)
        return self._open

    def _make(self, size: Size) -> None:
        rows, width = size
        try:
            session = self._session(self._parts.pixels, {BATCH: 1, "rows": rows, "width": width})
            made = _Pixels(session, self._parts)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            self._warn(f"frames of {width}x{rows * 2 // 3} run with open sizes: {error}")
            return  # and stays in the set: it is not tried again
        with self._lock:
            self._sizes[size] = made
            self._making.discard(size)
            while len(self._sizes) > MOST_SIZES:
                self._sizes.popitem(last=False)

    def _network(self, batch: int) -> _Network:
        shapes = {BATCH: batch}
        if self.graphs:
            try:
                session = self._session(self._parts.network, shapes, enable_cuda_graph="1")
                network = _Network(session, self._parts, batch, self._device)
                network.run()  # the first run captures
                return network
            except Exception as error:  # as above
                self.graphs = False
                self._warn(f"the network runs without CUDA graphs: {error}")
        return _Network(
            self._session(self._parts.network, shapes), self._parts, batch, self._device
        )

    def _session(self, model: bytes, shapes: dict[str, int], **settings: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads:
            options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for name, value in shapes.items():
            options.add_free_dimension_override_by_name(name, value)
        provider = self.choice.provider
        chosen = provider_options(self.choice, self._threads, None) | settings
        session = onnxruntime.InferenceSession(model, options, providers=[(provider, chosen)])
        session.disable_fallback()
        if session.get_providers()[0] != provider:
            raise ModelError(f"ONNX Runtime did not take {provider} but {session.get_providers()}")
        return session


class _Network:
    """The session of one batch size, with buffers that live as long."""

    def __init__(self, session: Any, parts: Parts, batch: int, device: str) -> None:
        import onnxruntime

        self._session = session
        self._binding = session.io_binding()
        (image,) = session.get_inputs()
        shape = [batch, *image.shape[1:]]
        self.type = np.float16 if image.type == "tensor(float16)" else np.float32
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
            kind = np.int32 if output.name == OUTPUTS[2] else np.float32
            value = make([batch, *output.shape[1:]], kind, device, 0)
            self._binding.bind_ortvalue_output(output.name, value)
            self._outputs.append(value)

    def place(self, index: int) -> int:
        """Return the address of an image in the batch."""
        return int(self._image.data_ptr()) + index * self._stride

    def run(self) -> Results:
        """Run the whole batch and return the outputs on the host."""
        self._session.run_with_iobinding(self._binding)
        return [value.numpy() for value in self._outputs]


class _Pixels:
    """The session that makes the network's input of a frame, of one size or of any."""

    def __init__(self, session: Any, parts: Parts) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._image = parts.image

    def lay(self, frame: Frames, network: _Network, index: int) -> None:
        """Turn a frame, where it is, into an image of the network's batch."""
        binding = self._binding
        device, number = ("cpu", 0) if frame.gpu is None else ("cuda", frame.gpu)
        binding.bind_input(INPUT, device, number, np.uint8, frame.shape, frame.pointer)
        binding.bind_output(
            self._image, network.device, 0, network.type, network.shape, network.place(index)
        )
        self._session.run_with_iobinding(binding)
