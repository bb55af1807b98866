"""Run a fused model on a GPU with fixed shapes: preallocated buffers, CUDA graphs, and batches of several cameras.

With dynamic shapes, ONNX Runtime leaves shape arithmetic on the CPU and launches hundreds of kernels per frame; with
fixed shapes, a CUDA graph replays them with one launch. So there is one small session per frame size, which converts
a frame to the network's input, and one session per batch size; the latter share the weights. A frame is converted
directly into its place in the batch.

ONNX Runtime can also keep several graphs in one session (`gpu_graph_id`), but the batch dimension would then be
dynamic: it would copy between shape arithmetic on the CPU and the GPU, and refuse to capture (see
`benchmarks/gpu/engine.py`).
"""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tridetr.errors import ModelError
from tridetr.triton.engine.choice import CUDA, Choice
from tridetr.triton.engine.dlpack import Frames
from tridetr.triton.engine.gpu_memory import MIB, GpuMemory
from tridetr.triton.engine.session import check_shape
from tridetr.triton.engine.static_sessions import (
    Network,
    Pixels,
    Results,
    Sessions,
    Size,
    name_of,
)

BATCHES = (1, 2, 4, 8)
MOST_SIZES = 8  # maximum number of frame sizes with a session
_REMEDY = "free GPU memory (`nvidia-smi` shows which process uses it), or use a smaller model"
Say = Callable[[str], None]


def batches_up_to(most: int) -> tuple[int, ...]:
    """Return the batch sizes to prepare for a number of cameras.

    >>> [batches_up_to(n) for n in (1, 3, 8, 20)]
    [(1,), (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8)]
    """
    return tuple(size for size in BATCHES if size < 2 * most)


class StaticEngine:
    """A loaded model with fixed shapes. Use it only from the thread that created it: CUDA graphs are per thread.

    Attributes:
        choice: provider and precision.
        batches: the prepared batch sizes.
        graphs: whether the network runs as CUDA graphs.
        memory: GPU memory used by the sessions; None on a CPU.
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
        memory: GpuMemory | None = None,
        warn: Say = lambda text: None,
        note: Say = lambda text: None,
    ) -> None:
        """Load the network and prepare the known frame sizes.

        Args:
            model: an ONNX file of the contract, made by `tridetr models fuse`.
            choice: provider and precision.
            sizes: rows (3/2 of the height) and width of the expected frames.
            most: largest number of frames that arrive together.
            threads: number of threads per inference; 0 = all cores.
            graphs: whether to use CUDA graphs where the provider is CUDA.
            memory: GPU memory accounting; None = of the first GPU if the provider is CUDA.
            warn: logs a warning.
            note: logs an info message.

        Raises:
            ModelError: the file was not made by `tridetr models fuse`, the provider cannot run it, or the GPU has
                too little memory.
        """
        self.choice = choice
        self._warn, self._note = warn, note
        self._sessions = Sessions(model, choice, threads=threads, memory=memory)
        self.memory = self._sessions.memory
        self.graphs = graphs and choice.provider == CUDA
        self._networks: dict[int, Network] = {}
        self._sizes: OrderedDict[Size, Pixels] = OrderedDict()
        self._making: set[Size] = set()
        self._lock = threading.Lock()
        self._maker = ThreadPoolExecutor(1, "sizes")
        # Sessions that every frame needs come first. All graphs are captured before the other thread starts to work: a
        # capture fails if another thread allocates GPU memory meanwhile.
        try:
            self._networks[1] = self._network(1)
            self._open = self._sessions.pixels(None)
        except Exception as error:  # ONNX Runtime's own exception types
            raise ModelError(
                f"the model does not run on {choice.provider}: {self._why(error)}. Remedy: if memory is short, "
                f"{_REMEDY}; if a library is missing, pip install 'onnxruntime-gpu[cuda,cudnn]'; or set device: cpu"
            ) from None
        for size in dict.fromkeys(sizes):
            self._make(size)
        for batch in () if self._sessions.parts.batch == 1 else batches_up_to(most)[1:]:
            if not self._prepare_batch(batch):
                break
        self.batches = tuple(self._networks)

    @property
    def sizes(self) -> list[Size]:
        """The prepared frame sizes, the most recently used last."""
        with self._lock:
            return list(self._sizes)

    def run(self, frames: Sequence[Frames]) -> list[Results]:
        """Return boxes [1, K, 4], scores [1, K] and classes [1, K] of each frame.

        Args:
            frames: I420 frames [1, 3H/2, W] in host or GPU memory; their sizes may differ.

        Raises:
            ModelError: a frame has an invalid shape.
        """
        for frame in frames:
            check_shape(frame.shape)
        largest = self.batches[-1]
        found: list[Results] = []
        for start in range(0, len(frames), largest):
            found += self._run_batch(frames[start : start + largest])
        return found

    def close(self) -> None:
        """Stop the thread that prepares frame sizes."""
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

    def _pixels_for(self, size: Size) -> Pixels:
        """Return the session of a frame size, or the session for any size until that is prepared."""
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
        """Prepare a frame size; close the sessions of older sizes if memory is short."""
        while True:
            try:
                made = self._sessions.pixels(size)
                break
            except Exception as error:  # ONNX Runtime's own exception types
                why = str(error)
            if "memory" not in why or not self._forget_oldest():
                self._warn(f"frames of {name_of(size)} run with dynamic shapes, more slowly: {why}")
                return  # the size stays in `_making`, so it is not tried again
        with self._lock:
            self._sizes[size] = made
            self._making.discard(size)
        while len(self.sizes) > MOST_SIZES:
            self._forget_oldest()
        if self.memory is not None:
            taken = self.memory.taken.get(name_of(size), 0)
            self._note(f"frames of {name_of(size)}: {taken / MIB:.0f} MiB of GPU memory")

    def _forget_oldest(self) -> bool:
        """Close the session of the least recently used size; return False if there is none."""
        with self._lock:
            if not self._sizes:
                return False
            size, _ = self._sizes.popitem(last=False)
        if self.memory is not None:
            self.memory.forget(name_of(size))
        return True

    def _prepare_batch(self, batch: int) -> bool:
        """Load the network for a batch size; return False if that fails."""
        try:
            self._networks[batch] = self._network(batch)
        except Exception as error:  # ONNX Runtime's own exception types
            self._warn(
                f"at most {batch // 2} frames are batched, not {batch}: {self._why(error)}. Remedy: if memory is "
                f"short, {_REMEDY}"
            )
            return False
        return True

    def _why(self, error: Exception) -> str:
        why = str(error).strip()
        return why if self.memory is None else f"{why} (GPU memory: {self.memory})"

    def _network(self, batch: int) -> Network:
        """Load the network for a batch size, as a CUDA graph if possible."""
        why = ""
        if self.graphs:
            try:
                return self._sessions.network(batch, graph=True)
            except Exception as error:  # ONNX Runtime's own exception types
                why = str(error)
            gc.collect()  # frees the GPU memory of the failed session
        network = self._sessions.network(batch, graph=False)
        if why:
            self.graphs = False
            self._warn(f"the network runs without CUDA graphs, more slowly: {why}")
        return network
