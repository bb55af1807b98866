"""TensorRT for RTX: errors and their reasons. The provider itself cannot run here."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from tridetr.errors import ModelError
from tridetr.triton.engine import rtx
from tridetr.triton.engine.choice import RTX, choose


def test_it_is_used_only_if_configured() -> None:
    known: dict[str, Any] = {
        "available": ["CPUExecutionProvider"],
        "flags": (),
        "gpu": True,
        "ours": True,
    }
    assert choose("tensorrt-rtx", "auto", **known).provider == RTX
    assert choose("auto", "auto", **known).provider != RTX


def test_a_missing_package_is_reported() -> None:
    with pytest.raises(ModelError, match="onnxruntime-ep-nv-tensorrt-rtx-cu13 is not installed"):
        rtx.devices()


def test_a_broken_library_and_an_unsupported_gpu_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.get_ep_name = lambda: "nv_tensorrt_rtx"  # type: ignore[attr-defined]  # up to 0.3
    plugin.get_library_path = lambda: "/nowhere/libplugin.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    with pytest.raises(ModelError, match="cannot load"):
        rtx.devices()
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library", lambda name, path: None, raising=False
    )
    with pytest.raises(ModelError, match="supports no GPU of this machine"):
        rtx.devices()
    device = SimpleNamespace(ep_name=RTX)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [device], raising=False)
    assert rtx.devices() == [device]
