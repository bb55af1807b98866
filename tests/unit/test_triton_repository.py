from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from support.tiny_export import tiny_export
from tridetr.config import Config
from tridetr.errors import ModelError
from tridetr.files import checksum_of
from tridetr.model_card import Form
from tridetr.models.engine_files import (
    EngineFacts,
    Profile,
    facts_file,
    link_engine,
    write_facts,
)
from tridetr.models.fuse import fuse
from tridetr.models.onnx_file import read_card
from tridetr.paths import model_repository_dir
from tridetr.plan import Placement
from tridetr.triton import repository
from tridetr.triton.describe import model_info
from tridetr.triton.model_file import ModelFile, read_model_file

ON_CPU = Placement("onnxruntime", native=False, gpu=False)
ON_GPU = Placement("tensorrt", native=True, gpu=True)


def contract_model(path: Path, batch: int | str, metadata: dict[str, str] | None = None) -> Path:
    outputs = {
        "boxes": (TensorProto.FLOAT, [batch, 300, 4]),
        "scores": (TensorProto.FLOAT, [batch, 300]),
        "classes": (TensorProto.INT32, [batch, 300]),
    }
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [batch, "rows", "width"])
    graph = helper.make_graph(
        [], "g", [frame], [helper.make_tensor_value_info(n, *v) for n, v in outputs.items()]
    )
    model = helper.make_model(graph)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def config(tmp_path: Path, model: Path | None, **sections: object) -> Config:
    wanted = {"file": str(model) if model else None, **sections}
    return Config.model_validate(
        {"cameras": {"a": {"source": "synthetic"}}, "model": wanted, "run_dir": str(tmp_path)}
    )


def render(settings: Config, tmp_path: Path, placement: Placement = ON_CPU) -> ModelFile:
    return repository.render(
        settings, tmp_path / "models", placement,
        engine_report=tmp_path / "engine.json", cache=tmp_path / "cache",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["rfdetr_ort", "rfdetr_trt"])
def test_the_shipped_entries_are_valid(name: str) -> None:
    text = (model_repository_dir() / name / "config.pbtxt").read_text()
    entry = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert entry.name == name
    assert entry.backend == {"rfdetr_ort": "onnxruntime", "rfdetr_trt": "tensorrt"}[name]
    assert entry.max_batch_size > 0
    assert [i.name for i in entry.input] == ["frame"]
    assert [o.name for o in entry.output] == ["boxes", "scores", "classes"]
    (group,) = entry.instance_group
    assert (group.kind, group.count) == (model_config_pb2.ModelInstanceGroup.KIND_AUTO, 1)


@pytest.mark.parametrize(
    ("batch", "max_batch", "frame", "boxes"),
    [("batch", 8, [-1, -1], [300, 4]), (1, 0, [1, -1, -1], [1, 300, 4])],
)
def test_the_rendered_configuration_has_the_shapes_of_the_model(
    tmp_path: Path, batch: int | str, max_batch: int, frame: list[int], boxes: list[int]
) -> None:
    metadata = {"tridetr.classes": '{"person": 1}', "tridetr.contract": "1", "other": "x"}
    path = contract_model(tmp_path / "m.onnx", batch, metadata)
    settings = config(tmp_path, path, precision="bf16", threads=3)
    render(settings, tmp_path)
    text = (tmp_path / "models/rfdetr_ort/config.pbtxt").read_text()
    rendered = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert rendered.max_batch_size == max_batch
    assert list(rendered.input[0].dims) == frame
    assert list(rendered.output[0].dims) == boxes
    parameters = {key: value.string_value for key, value in rendered.parameters.items()}
    assert parameters["classes"] == '{"person": 1}'
    assert parameters["engine_precision"] == "bf16"
    assert parameters["intra_op_thread_count"] == "3"
    assert "other" not in parameters
    assert (tmp_path / "models/rfdetr_ort/1/model.onnx").resolve() == path
    info = model_info(rendered, "1", None)
    assert info.classes == {"person": 1}
    assert info.engine == "onnxruntime"
    assert info.name == "m", "its own name, not the entry's"
    assert info.version == info.checksum[:12]
    render(settings, tmp_path)  # again, over the first one


def test_a_model_without_metadata_has_no_class_names(tmp_path: Path) -> None:
    """So that the detector reports that it assumes COCO's."""
    path = contract_model(tmp_path / "m.onnx", 1)
    model = read_model_file(path)
    render(config(tmp_path, path), tmp_path)
    text = (tmp_path / "models/rfdetr_ort/config.pbtxt").read_text()
    rendered = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert model_info(rendered, "1", None).classes == model.card.classes == {}
    assert not model.card.contract
    assert len(model.card.checksum) == 64


@pytest.mark.parametrize(
    ("content", "said"), [(None, "does not exist"), (b"not onnx", "not an ONNX model")]
)
def test_a_missing_or_broken_file_is_refused(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        render(config(tmp_path, path), tmp_path)


def test_a_fixed_batch_of_four_is_refused(tmp_path: Path) -> None:
    path = contract_model(tmp_path / "m.onnx", 4)
    with pytest.raises(ModelError, match="fixed batch size of 4"):
        render(config(tmp_path, path), tmp_path)


def test_a_missing_engine_is_refused_with_the_command_that_builds_it(tmp_path: Path) -> None:
    path = contract_model(tmp_path / "m.onnx", "batch")
    if (model_repository_dir() / "rfdetr_trt/1/model.plan").exists():
        pytest.skip("an engine was built here")
    with pytest.raises(ModelError, match="build-engine"):
        render(config(tmp_path, path, name="rfdetr_trt"), tmp_path, ON_GPU)


def test_an_engine_is_served_with_its_build_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIDETR_ENGINES", str(tmp_path / "engines"))
    path = contract_model(tmp_path / "m.onnx", "batch", {"tridetr.precision": "fp32"})
    engine = tmp_path / "engines" / "some_gpu.plan"
    engine.parent.mkdir()
    engine.write_bytes(b"an engine")
    link_engine(engine, checksum_of(path))
    settings = config(tmp_path, path, name="rfdetr_trt")
    model = render(settings, tmp_path, ON_GPU)
    assert (tmp_path / "models/rfdetr_trt/1/model.plan").resolve() == engine
    assert repository.engine_precision(model) == "unknown"  # without build parameters
    shape = (2, 1620, 1920)
    profile = Profile((1, 72, 64), (1, *shape[1:]), shape)
    write_facts(engine, EngineFacts("Some GPU", "11.4.0", "fp16", profile))
    model = render(settings, tmp_path, ON_GPU)
    text = (tmp_path / "models/rfdetr_trt/config.pbtxt").read_text()
    assert text_format.Parse(text, model_config_pb2.ModelConfig()).max_batch_size == 2
    assert repository.engine_precision(model) == "fp16"
    facts_file(engine).write_text("{}")
    with pytest.raises(ModelError, match=r"some_gpu\.plan\.json.*build-engine --force"):
        render(settings, tmp_path, ON_GPU)


def test_a_models_display_name_fits_into_results(tmp_path: Path) -> None:
    path = contract_model(tmp_path / ("ü" * 60 + ".onnx"), 1)
    assert repository.own_name(config(tmp_path, path)) == "ü" * 32
    assert repository.own_name(config(tmp_path, None)) == "bundled"


def test_a_model_of_another_contract_version_is_refused(tmp_path: Path) -> None:
    path = contract_model(tmp_path / "m.onnx", 1, {"tridetr.contract": "2"})
    with pytest.raises(
        ModelError, match=r"version 2, this tridetr supports version 1: fuse .* again"
    ):
        read_model_file(path)


def test_a_model_with_an_unknown_element_type_is_refused(tmp_path: Path) -> None:
    """It ended the process that serves, and with it the old model, instead of being rejected."""
    model = onnx.load(contract_model(tmp_path / "m.onnx", 1))
    model.graph.input[0].type.tensor_type.elem_type = 99
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="TYPE_99"):
        read_model_file(tmp_path / "m.onnx")


def test_openvino_serves_its_own_form_of_the_model_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "m.onnx"
    onnx.save(fuse(tiny_export(), classes={"person": 1}, source="test"), model)
    where = Placement("onnxruntime", native=False, gpu=False, graph=Form.OPENVINO)
    served = []
    for _ in range(2):
        render(config(tmp_path, model), tmp_path, where)
        served.append(repository.model_in(tmp_path / "models", "rfdetr_ort").resolve())
    assert served[0] == served[1]
    assert served[0].parent == tmp_path / "cache" / "tridetr" / "graphs"
    assert read_card(served[0]).form is Form.OPENVINO
    assert read_card(model).form is Form.PORTABLE
    # If the cache is not writable, only the next start takes longer.
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    render(config(tmp_path, model), tmp_path, where)
    there = repository.model_in(tmp_path / "models", "rfdetr_ort").resolve()
    assert there.parent == tmp_path
    assert there.read_bytes() == served[0].read_bytes()


def test_openvino_serves_a_model_that_fuse_did_not_make_unchanged(tmp_path: Path) -> None:
    model = contract_model(tmp_path / "m.onnx", "batch")
    where = Placement("onnxruntime", native=False, gpu=False, graph=Form.OPENVINO)
    render(config(tmp_path, model), tmp_path, where)
    assert repository.model_in(tmp_path / "models", "rfdetr_ort").resolve() == model
