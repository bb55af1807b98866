"""TensorRT for RTX, a plug-in provider of ONNX Runtime for consumer RTX cards. Untested on hardware (docs/gpu.md)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tridetr.errors import ModelError
from tridetr.triton.engine.choice import RTX

PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"


def devices() -> list[Any]:
    """Register the provider's library and return the GPUs that it supports.

    Raises:
        ModelError: the package is missing or cannot be loaded, or no GPU is supported.
    """
    import onnxruntime

    try:
        plugin: Any = import_module("onnxruntime_ep_nv_tensorrt_rtx")
    except ImportError:
        raise ModelError(
            f"{PACKAGE} is not installed. Remedy: pip install {PACKAGE} (needs onnxruntime 1.24 or newer, not "
            "onnxruntime-gpu), or set provider: cuda"
        ) from None
    # Registered under the provider's name; the module's `get_ep_name()` differs between releases.
    if not any(device.ep_name == RTX for device in onnxruntime.get_ep_devices()):
        try:
            onnxruntime.register_execution_provider_library(RTX, plugin.get_library_path())
        except Exception as error:  # ONNX Runtime's own exception types
            raise ModelError(
                f"cannot load {PACKAGE}: {error}. Remedy: set provider: cuda"
            ) from None
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == RTX]
    if not found:
        raise ModelError(
            "TensorRT for RTX supports no GPU of this machine (it supports compute capability 7.5, 8.6, 8.9 and 12.x). "
            "Remedy: set provider: cuda"
        )
    return found
