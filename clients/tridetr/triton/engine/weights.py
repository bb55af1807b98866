"""Load a network's weights into device memory once, shared by the sessions of all batch sizes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_SMALLEST: Final = 4096  # bytes; smaller weights are not worth sharing


class SharedWeights:
    """A network whose large weights are loaded only once.

    Attributes:
        network: the network as a serialised ONNX model. Weights that the file stores as FP16 for FP32 arithmetic are
            converted here: ONNX Runtime would convert them for each session.
        names: names of the shared weights.
    """

    def __init__(self, network: bytes, device: str) -> None:
        """Copy the weights to the device.

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
        """Make sessions with these options use the shared weights, which must outlive them."""
        for name, value in self._values.items():
            options.add_initializer(name, value)


def _widened(model: Any) -> dict[str, npt.NDArray[Any]]:
    """Fold casts of weights into the weights, and return all weights by name; changes the model in place."""
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
    """Return a non-owning value over another value's memory: ONNX Runtime shares only such values."""
    from onnxruntime import OrtValue
    from onnxruntime.capi import _pybind_state as native

    return OrtValue(native.OrtValue.from_dlpack(owner._ortvalue.to_dlpack(), False))
