from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from tridetr.config import Config
from tridetr.errors import ModelError
from tridetr.paths import model_repository_dir
from tridetr.triton import repository
from tridetr.triton.describe import model_info
from tridetr.triton.model_file import read_model_file


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


@pytest.mark.parametrize("name", ["rfdetr_ort", "rfdetr_trt"])
def test_the_shipped_entries_are_what_triton_understands(name: str) -> None:
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
def test_rendering(
    tmp_path: Path, batch: int | str, max_batch: int, frame: list[int], boxes: list[int]
) -> None:
    metadata = {"tridetr.classes": '{"person": 1}', "tridetr.contract": "1", "other": "x"}
    path = contract_model(tmp_path / "m.onnx", batch, metadata)
    settings = config(tmp_path, path, precision="bf16", threads=3)
    repository.render(settings, tmp_path / "models", engine_report=tmp_path / "engine.json")
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
    repository.render(settings, tmp_path / "models")  # again, over the earlier one


def test_a_model_without_metadata_gets_the_names_of_coco(tmp_path: Path) -> None:
    model = read_model_file(contract_model(tmp_path / "m.onnx", 1))
    assert '"person": 1' in model.metadata["classes"]
    assert "contract" not in model.metadata
    assert len(model.metadata["checksum"]) == 64


@pytest.mark.parametrize(
    ("content", "said"), [(None, "is not there"), (b"not onnx", "not an ONNX model")]
)
def test_a_missing_or_broken_file_is_refused(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        repository.render(config(tmp_path, path), tmp_path / "models")


def test_a_batch_of_four_only_is_refused(tmp_path: Path) -> None:
    path = contract_model(tmp_path / "m.onnx", 4)
    with pytest.raises(ModelError, match="batches of 4"):
        repository.render(config(tmp_path, path), tmp_path / "models")


def test_a_missing_engine_says_what_builds_it(tmp_path: Path) -> None:
    path = contract_model(tmp_path / "m.onnx", "batch")
    if (model_repository_dir() / "rfdetr_trt/1/model.plan").exists():
        pytest.skip("an engine was built here")
    with pytest.raises(ModelError, match="build-engine"):
        repository.render(config(tmp_path, path, name="rfdetr_trt"), tmp_path / "models")
