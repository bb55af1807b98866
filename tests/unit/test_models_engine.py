"""Building TensorRT engines, as far as it can be tested without a GPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from support.tiny_export import tiny_export
from tridetr.contract import COCO_91
from tridetr.errors import ModelError
from tridetr.files import checksum_of
from tridetr.models import engine
from tridetr.models.choices import EnginePrecision
from tridetr.models.engine import network_flags, parse_size
from tridetr.models.engine_files import (
    PROBE_SIZE,
    EngineFacts,
    Profile,
    find_engine,
    link_engine,
    read_facts,
)
from tridetr.models.fuse import fuse
from tridetr.models.gathering import gather_pixels
from tridetr.models.half import halve_products
from tridetr.models.installed_models import configured_model, installed_path
from tridetr.models.onnx_file import set_metadata
from tridetr.models.runtime import open_session
from tridetr.models.tensorrt_module import import_tensorrt

PROFILE = Profile.of([(1920, 1080), (640, 480)], 4)


def test_the_profile_covers_all_sizes_and_is_optimised_for_the_first() -> None:
    assert Profile((1, 72, 64), (1, 1620, 1920), (4, 1620, 1920)) == PROFILE


@pytest.mark.parametrize(
    ("sizes", "batch", "message"),
    [([], 1, "at least one"), ([(641, 480)], 1, "even"), ([(640, 480)], 0, "at least 1")],
)
def test_invalid_profiles_are_refused(
    sizes: list[tuple[int, int]], batch: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        Profile.of(sizes, batch)


@pytest.mark.parametrize("text", ["1920", "1920x", "axb", "1920*1080"])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match="1920x1080"):
        parse_size(text)


def test_the_file_name_contains_everything_that_an_engine_depends_on() -> None:
    facts = EngineFacts("NVIDIA RTX 2060 SUPER", "10.9.0", "fp16", PROFILE)
    names = {
        facts.file_name("ab"),
        facts.file_name("cd"),
        replace(facts, gpu="NVIDIA H100").file_name("ab"),
        replace(facts, tensorrt="11.0.0").file_name("ab"),
        replace(facts, precision="keep").file_name("ab"),
        replace(facts, profile=Profile.of([(640, 480)], 4)).file_name("ab"),
    }
    assert len(names) == 6
    assert facts.file_name("ab").startswith("nvidia-rtx-2060-super_trt10.9.0_fp16_")


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", 4), ("11.0.1", 0)])
def test_networks_are_strongly_typed(version: str, flags: int) -> None:
    trt = SimpleNamespace(
        __version__=version, NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=2)
    )
    assert network_flags(trt) == flags
    bare = SimpleNamespace(__version__="12.0", NetworkDefinitionCreationFlag=SimpleNamespace())
    assert network_flags(bare) == 0


def test_a_missing_gpu_is_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"no NVIDIA GPU here.*rfdetr_ort"):
        engine.build(tmp_path / "model.onnx", profile=PROFILE)


def test_the_error_of_a_failing_driver_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'driver mismatch' >&2\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ModelError, match="driver mismatch"):
        engine.gpu_name()


def test_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    with pytest.raises(ModelError, match="too old"):
        import_tensorrt()


def test_incomplete_tensorrt_packages_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "tensorrt_bindings", None)
    with pytest.raises(ModelError, match=r"tensorrt is an empty folder or type stubs; .*GPU image"):
        import_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt_bindings", SimpleNamespace(__version__="10.9.0"))
    assert import_tensorrt().__version__ == "10.9.0"


class PlayedTensorRt:
    """The parts of TensorRT that a build uses; records the graphs that it gets."""

    __version__ = "11.4.0"
    Logger = MagicMock()
    NetworkDefinitionCreationFlag = SimpleNamespace()
    MemoryPoolType = SimpleNamespace(WORKSPACE=0)

    def __init__(self) -> None:
        self.graphs: list[onnx.ModelProto] = []
        self.shapes = MagicMock()

    def Builder(self, logger: object) -> MagicMock:
        builder = MagicMock()
        builder.build_serialized_network.return_value = b"a plan"
        builder.create_optimization_profile.return_value = self.shapes
        return builder

    def OnnxParser(self, network: object, logger: object) -> SimpleNamespace:
        def parse(data: bytes) -> bool:
            self.graphs.append(onnx.ModelProto.FromString(data))
            return True

        return SimpleNamespace(parse=parse)


@pytest.mark.parametrize(
    ("kind", "wanted", "halved", "precision"),
    [
        (TensorProto.FLOAT, EnginePrecision.FP16, True, "fp16"),
        (TensorProto.FLOAT, EnginePrecision.KEEP, False, "keep"),
        # A file that is float16 already, such as the bundled one: nothing is cast, and nothing fails.
        (TensorProto.FLOAT16, EnginePrecision.FP16, False, "keep"),
    ],
)
def test_a_built_engine_is_found_with_its_build_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    kind: int, wanted: EnginePrecision, halved: bool, precision: str,
) -> None:  # fmt: skip
    trt = PlayedTensorRt()
    said: list[str] = []
    monkeypatch.setenv("TRIDETR_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(engine, "gpu_name", lambda: "Some GPU")
    monkeypatch.setattr(engine, "import_tensorrt", lambda: trt)
    model = tmp_path / "m.onnx"
    onnx.save(fuse(tiny_export(kind=kind), classes=COCO_91, source="test"), model)
    (tmp_path / "engines").mkdir()
    for _ in range(2):
        plan = engine.build(model, profile=PROFILE, precision=wanted, step=said.append)
        assert find_engine(model) == plan
    assert len(trt.graphs) == 1
    assert "exists already" in said[-1]
    in_half = {w.name for w in trt.graphs[0].graph.initializer if w.name.endswith("/fp16")}
    assert bool(in_half) == halved
    trt.shapes.set_shape.assert_called_once_with(
        "frame", PROFILE.least, PROFILE.usual, PROFILE.largest
    )
    facts = read_facts(plan)
    assert facts is not None
    assert (facts.gpu, facts.tensorrt, facts.precision) == ("Some GPU", "11.4.0", precision)
    assert facts.profile == PROFILE
    assert PROFILE.takes(1920, 1080)
    assert PROFILE.takes(*PROBE_SIZE)
    assert not PROFILE.takes(3840, 2160)


def test_a_larger_batch_than_the_models_fixed_one_is_refused() -> None:
    fixed = fuse(tiny_export(batch=1), classes=COCO_91, source="test")
    with pytest.raises(ModelError, match="fixed batch size of 1"):
        engine.check_profile(fixed, PROFILE)
    engine.check_profile(fixed, Profile.of([(640, 480)], 1))
    model = fuse(tiny_export(), classes=COCO_91, source="test")
    engine.check_profile(model, PROFILE)
    assert gather_pixels(model)
    with pytest.raises(ModelError, match=r"written for openvino.*--target portable"):
        engine.check_profile(model, PROFILE)


def test_a_model_that_was_quantised_for_cpus_is_refused() -> None:
    model = fuse(tiny_export(), classes=COCO_91, source="test")
    set_metadata(model, {"tridetr.quantized_for": "tensorrt"})
    engine.check_profile(model, PROFILE)
    set_metadata(model, {"tridetr.quantized_for": "cpu"})
    with pytest.raises(ModelError, match=r"quantised for CPUs.*--target tensorrt"):
        engine.check_profile(model, PROFILE)


def test_products_run_in_float16_and_the_rest_in_float32() -> None:
    model = fuse(tiny_export(), classes=COCO_91, source="test")
    half = halve_products(model)
    weights = {w.name: w.data_type for w in half.graph.initializer}
    assert weights["to_box/fp16"] == weights["to_logit/fp16"] == TensorProto.FLOAT16
    assert "to_box" not in weights
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    for node in half.graph.node:
        if node.name.startswith("tridetr/") and node.op_type in ("Conv", "Resize", "Mul"):
            assert kinds.get(node.output[0], 1) != TensorProto.FLOAT16
    frame = np.random.default_rng(0).integers(0, 256, (1, 72, 64), np.uint8)
    full, mixed = (open_session(m).run(["scores"], {"frame": frame})[0] for m in (model, half))
    assert 0 < np.abs(full - mixed).max() < 5e-3


def test_casting_a_float16_model_is_refused() -> None:
    half = fuse(tiny_export(kind=TensorProto.FLOAT16), classes=COCO_91, source="test")
    with pytest.raises(ModelError, match="fp16 already"):
        halve_products(half)


def test_the_newest_engine_of_a_model_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIDETR_ENGINES", str(tmp_path / "engines"))
    model = tmp_path / "model.onnx"
    model.write_bytes(b"a model")
    assert find_engine(model) is None
    (tmp_path / "engines").mkdir()
    for name in ("one.plan", "two.plan"):
        plan = tmp_path / "engines" / name
        plan.write_bytes(b"plan")
        link_engine(plan, checksum_of(model))
        assert find_engine(model) == plan
    model.write_bytes(b"another model")
    assert find_engine(model) is None


def test_a_configured_model_is_a_file_or_an_installed_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert configured_model(tmp_path / "yard") == tmp_path / "yard"
    named = installed_path("yard")
    named.parent.mkdir(parents=True)
    named.touch()
    assert configured_model(tmp_path / "yard") == named
    assert configured_model(tmp_path / "yard.onnx") == tmp_path / "yard.onnx"
    dotted = installed_path("yard-1.2")
    dotted.touch()
    assert configured_model(tmp_path / "yard-1.2") == dotted
    (tmp_path / "yard").touch()
    assert configured_model(tmp_path / "yard") == tmp_path / "yard", "a file goes first"
