"""Import TensorRT's Python module under either of its names, and check its version."""

from __future__ import annotations

import importlib
from types import ModuleType

from tridetr.errors import ModelError

MIN_TENSORRT = 10
# tensorrt_bindings: for machines whose TensorRT libraries are installed separately (NVIDIA's container, JetPack).
_NAMES = ("tensorrt", "tensorrt_bindings")


def import_tensorrt() -> ModuleType:
    """Import TensorRT 10 or newer and return the module.

    Raises:
        ModelError: the module is missing, cannot load its libraries, or is too old.
    """
    reasons = []
    for name in _NAMES:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(str(error))
            continue
        version = getattr(module, "__version__", None)
        if version is None:
            reasons.append(f"{name} is an empty folder or type stubs")
            continue
        if int(version.split(".")[0]) < MIN_TENSORRT:
            raise ModelError(
                f"TensorRT {version} is too old: strong typing needs {MIN_TENSORRT} or newer (weakly "
                "typed FP16 ruins the accuracy of RF-DETR)"
            )
        return module
    raise ModelError(
        f"TensorRT's Python package is missing or incomplete ({'; '.join(reasons)}). Remedy: run this in the GPU image "
        "(docker/triton-gpu.Dockerfile), or `pip install tensorrt` in the version that your Triton has"
    )
