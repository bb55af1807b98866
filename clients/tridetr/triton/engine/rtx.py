"""TensorRT for RTX, a plug-in provider of ONNX Runtime for consumer RTX cards. It has not run yet (docs/gpu.md)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from tridetr.errors import ModelError
from tridetr.triton.engine.choice import RTX

PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"


def devices() -> list[Any]:
    """Register the provider's library, and return the GPUs that it takes.

    Raises:
        ModelError: the package is missing, or there is no such GPU.
    """
    import onnxruntime

    try:
        plugin: Any = import_module("onnxruntime_ep_nv_tensorrt_rtx")
    except ImportError:
        raise ModelError(
            f"{PACKAGE} is not installed. Remedy: pip install {PACKAGE} (needs onnxruntime 1.24 or newer, not "
            "onnxruntime-gpu), or provider: cuda"
        ) from None
    # The name under which it is registered is the provider's; `get_ep_name()` differs between releases.
    if not any(device.ep_name == RTX for device in onnxruntime.get_ep_devices()):
        try:
            onnxruntime.register_execution_provider_library(RTX, plugin.get_library_path())
        except Exception as error:  # ONNX Runtime's own kinds
            raise ModelError(f"{PACKAGE} does not load: {error}. Remedy: provider: cuda") from None
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == RTX]
    if not found:
        raise ModelError(
            "TensorRT for RTX takes no GPU of this machine (compute capability 7.5, 8.6, 8.9 and 12.x). Remedy: "
            "provider: cuda"
        )
    return found


def settings(cache_dir: Path | None) -> dict[str, str]:
    """Return the provider's options: compiled engines are kept for the next start."""
    return {"nv_runtime_cache_path": str(cache_dir)} if cache_dir is not None else {}
