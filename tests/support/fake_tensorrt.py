"""A simulated TensorRT with the real API's names: its engine queues work on the stream of a simulated GPU.

Each frame gives one box, whose x1 is the first byte of the frame at the time the work is done.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

DETECTIONS = 3
VERSION = "11.4.0.106"


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shape: tuple[int, ...] = ()
        self.profile = 0
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "frame"
        low, _, high = self.engine.profiles[self.profile]
        self.shape = shape
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], DETECTIONS, *((4,) if name == "boxes" else ()))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.engine.queue(stream, self._run)
        return not self.engine.fails

    def _run(self) -> None:
        size = int(np.prod(self.shape))
        memory = (ctypes.c_uint8 * size).from_address(self.addresses["frame"])
        frames = np.frombuffer(memoryview(memory), np.uint8)
        first = frames.reshape(self.shape[0], -1)[:, 0]
        for name, kind in (("boxes", "f4"), ("scores", "f4"), ("classes", "i4")):
            result = np.zeros(self.get_tensor_shape(name), kind)
            result.reshape(len(first), -1)[:, 0] = first
            ctypes.memmove(self.addresses[name], result.ctypes.data, result.nbytes)


class Engine:
    types: ClassVar[dict[str, Any]] = {
        "frame": np.uint8, "boxes": np.float32, "scores": np.float32, "classes": np.int32,
    }  # fmt: skip

    def __init__(self, queue: Callable[[int, Callable[[], None]], None]) -> None:
        self.queue = queue
        self.fails = False
        self.profiles = [
            ((1, 72, 64), (1, 720, 640), (4, 720, 640)),
            ((1, 1620, 1920), (1, 1620, 1920), (2, 1620, 1920)),
        ]
        self.contexts: list[Context] = []

    @property
    def num_io_tensors(self) -> int:
        return len(self.types)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.types)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.types[name]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "frame" else TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert name == "frame"
        return list(self.profiles[profile])

    def create_execution_context(self) -> Context:
        self.contexts.append(Context(self))
        return self.contexts[-1]


def fake_tensorrt(engine: Engine | None) -> Any:
    """Return the module; with None, it rejects every engine."""
    logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: engine)
    return SimpleNamespace(
        __version__=VERSION, Logger=logger, Runtime=lambda log: runtime,
        TensorIOMode=TensorIOMode, nptype=lambda kind: kind,
    )  # fmt: skip
