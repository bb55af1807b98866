"""Load a network's weights into device memory once, shared by the sessions of all batch sizes."""

from __future__ import annotations

from typing import Any, Final

_SMALLEST: Final = 4096  # bytes; smaller weights are not worth sharing


class SharedWeights:
    """A network whose large weights are loaded only once.

    Attributes:
        network: the network as a serialised ONNX model. Weights that the file stores as FP16 for FP32 arithmetic are
            converted here: ONNX Runtime would convert them for each session.
    """

    def __init__(self, network: bytes, device: str) -> None:
        """Copy the weights of a serialised ONNX model to a device, "cuda" or "cpu"."""
        import onnx
        import onnxruntime

        from tridetr.models.graph_builder import resolve_shared_weights

        model = onnx.load_from_string(network)
        resolve_shared_weights(model)
        self.network = model.SerializeToString()
        self._owners: list[Any] = []  # of the memory
        self._values: dict[str, Any] = {}
        for weight in model.graph.initializer:
            array = onnx.numpy_helper.to_array(weight)
            if array.nbytes >= _SMALLEST:
                owner = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
                self._owners.append(owner)
                self._values[weight.name] = _lent(owner)

    def share(self, options: Any) -> None:
        """Make sessions with these options use the shared weights, which must outlive them."""
        for name, value in self._values.items():
            options.add_initializer(name, value)


def _lent(owner: Any) -> Any:
    """Return a non-owning value over another value's memory: ONNX Runtime shares only such values."""
    from onnxruntime import OrtValue
    from onnxruntime.capi import _pybind_state as native

    return OrtValue(native.OrtValue.from_dlpack(owner._ortvalue.to_dlpack(), False))
