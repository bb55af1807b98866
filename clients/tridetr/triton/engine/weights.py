"""The weights of a network in the device's memory, which the sessions of all batch sizes use together."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_SMALLEST: Final = 4096  # bytes; smaller ones are not worth sharing


class SharedWeights:
    """A network whose large weights are loaded once.

    Attributes:
        network: the network as a serialised ONNX model. Weights that it stores as FP16 are FP32: ONNX Runtime would
            convert them for each session.
        names: names of the weights that are shared.
    """

    def __init__(self, network: bytes, device: str) -> None:
        """Bring the weights to the device.

        Args:
            network: a serialised ONNX model.
            device: "cuda" or "cpu".
        """
        import onnx
        import onnxruntime

        model = onnx.load_from_string(network)
        weights = _widened(model)
        self.network = model.SerializeToString()
        self._owners: list[Any] = []  # of the memory
        self._values: dict[str, Any] = {}
        for name, array in weights.items():
            if array.nbytes >= _SMALLEST:
                owner = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
                self._owners.append(owner)
                self._values[name] = _lent(owner)
        self.names = frozenset(self._values)

    def share(self, options: Any) -> None:
        """Let a session with these options use the weights; they must outlive it."""
        for name, value in self._values.items():
            options.add_initializer(name, value)


def _widened(model: Any) -> dict[str, npt.NDArray[Any]]:
    """Replace each weight that is only cast by the result of the cast, and return all weights by name."""
    from onnx import numpy_helper
    from onnx.helper import tensor_dtype_to_np_dtype

    graph = model.graph
    weights = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in weights]
    for node in casts:
        kind = next(entry.i for entry in node.attribute if entry.name == "to")
        weights[node.output[0]] = weights[node.input[0]].astype(tensor_dtype_to_np_dtype(kind))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    weights = {name: np.ascontiguousarray(array) for name, array in weights.items() if name in used}
    del graph.initializer[:]
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    return weights


def _lent(owner: Any) -> Any:
    """Return a value over another one's memory: ONNX Runtime shares no memory that a value owns."""
    from onnxruntime import OrtValue
    from onnxruntime.capi import _pybind_state as native

    return OrtValue(native.OrtValue.from_dlpack(owner._ortvalue.to_dlpack(), False))
