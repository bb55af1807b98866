"""The model `rfdetr_trt` on a machine without a GPU is refused with cause and remedy."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from support.data import ORACLE, shared
from support.triton import triton_config
from tridetr.config import Config
from tridetr.errors import ModelError, TritonError
from tridetr.files import checksum_of
from tridetr.machine import find_gpus
from tridetr.models.engine_files import link_engine
from tridetr.plan import Placement
from tridetr.triton import setup, triton_process

pytestmark = pytest.mark.skipif(find_gpus().count > 0, reason="there is a GPU here")


def trt_config(folder: Path) -> Config:
    config = triton_config(folder, shared(*ORACLE))
    model = config.model.model_copy(update={"name": "rfdetr_trt"})
    return config.model_copy(update={"model": model})


def test_triton_process_refuses_before_starting_the_server(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"rfdetr_trt needs an NVIDIA GPU: .*driver.*Remedy: .*rfdetr_ort"
    ):
        triton_process.run(trt_config(tmp_path), threading.Event())


def test_backend_in_the_real_server_reports_its_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine whose GPU Triton cannot use: our backend is loaded under the native name."""
    monkeypatch.setenv("TRIDETR_ENGINES", str(tmp_path / "engines"))
    engine = tmp_path / "engines" / "gpu.plan"
    engine.parent.mkdir()
    engine.write_bytes(b"an engine")
    link_engine(engine, checksum_of(shared(*ORACLE)))
    place = Placement("tensorrt", native=False, gpu=False)
    monkeypatch.setattr(setup, "place_model", lambda *_, **__: place)
    with pytest.raises(TritonError) as raised:
        triton_process.run(trt_config(tmp_path), threading.Event())
    said = str(raised.value)
    assert "rfdetr_trt is a TensorRT engine and needs an NVIDIA GPU" in said
    assert "Triton put it on the CPU. Remedy: " in said
