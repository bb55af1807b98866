"""Verify, evaluate and quantize detect errors and measure accuracy correctly."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from support.tiny_export import tiny_export
from tridetr.contract import COCO_91
from tridetr.errors import ModelError
from tridetr.model_card import ModelCard, Target
from tridetr.models.choices import EnginePrecision
from tridetr.models.evaluate import evaluate
from tridetr.models.fuse import fuse
from tridetr.models.gathering import gather_pixels
from tridetr.models.labelled import Label, LabelledPicture, load_labelled
from tridetr.models.onnx_file import card_of, metadata_of
from tridetr.models.quantize import layers_to_quantize, quantize
from tridetr.models.runtime import open_session
from tridetr.models.verify import Verifier
from tridetr.triton.model_file import read_model_file


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        noise = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(noise).resize((97, 75), Image.Resampling.BICUBIC).save(
            folder / f"{index}.png"
        )
    return folder


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def test_verify_finds_no_difference_in_a_correct_model(pictures: Path, tmp_path: Path) -> None:
    model = saved(fuse(tiny_export(), classes=COCO_91, source="test"), tmp_path / "m.onnx")
    verifier = Verifier(model)
    for picture in sorted(pictures.iterdir()):
        difference = verifier.compare(picture)
        assert difference.compared > 100
        assert difference.input < 1e-3
        assert max(difference.box_px, difference.end_box_px) < 1e-2
        assert max(difference.score, difference.end_score) < 1e-4


def test_verify_checks_the_graph_that_tensorrt_gets(pictures: Path, tmp_path: Path) -> None:
    model = saved(fuse(tiny_export(), classes=COCO_91, source="test"), tmp_path / "m.onnx")
    difference = Verifier(model, precision=EnginePrecision.FP16).compare(next(pictures.iterdir()))
    assert difference.input < 1e-3  # pre- and post-processing stay in float32
    assert 0 < difference.end_score < 5e-3


@pytest.mark.parametrize(
    ("constant", "change", "grows"),
    [
        ([3, 3, 1, 1], 1.02, "input"),  # a wrong colour matrix
        ([], 1.1, "box_px"),  # the factor 1/2 of cxcywh to xyxy
    ],
)
def test_verify_finds_a_broken_model(
    constant: list[int], change: float, grows: str, pictures: Path, tmp_path: Path
) -> None:
    model = fuse(tiny_export(), classes=COCO_91, source="test")
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        is_half = array.shape == () and array.dtype == np.float32 and float(array) == 0.5
        ours = weight.name.startswith("tridetr/") and list(weight.dims) == constant
        if ours and (constant or is_half):
            changed = (array * change).astype(array.dtype)
            weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    difference = Verifier(saved(model, tmp_path / "m.onnx")).compare(next(pictures.iterdir()))
    assert getattr(difference, grows) > 0.01


def test_verify_needs_a_fused_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tridetr models fuse"):
        Verifier(saved(tiny_export(), tmp_path / "m.onnx"))


def constant_model(boxes: list[list[float]], ids: list[int], path: Path) -> Path:
    """Write a contract model that detects the same boxes in every frame."""
    scores = [0.9 - 0.1 * index for index in range(len(ids))]
    values = {
        "boxes": np.array([boxes], np.float32),
        "scores": np.array([scores], np.float32),
        "classes": np.array([ids], np.int32),
    }
    zero = helper.make_node("Sub", ["first", "first"], ["zero"])
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["float"], ["first"], keepdims=0),
        zero,
    ]
    outputs = []
    for name, value in values.items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        nodes.append(helper.make_node("Cast", ["zero"], [f"{name}_zero"], to=kind))
        nodes.append(helper.make_node("Add", [f"{name}_value", f"{name}_zero"], [name]))
        outputs.append(helper.make_tensor_value_info(name, kind, list(value.shape)))
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, "rows", "width"])],
        outputs,
        [numpy_helper.from_array(value, f"{name}_value") for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return saved(model, path)


def test_evaluate_gives_ap_1_for_the_labels_and_0_for_a_miss(
    pictures: Path, tmp_path: Path
) -> None:
    labels = (Label("person", (10, 10, 20, 30)), Label("car", (50, 20, 20, 20)))
    data = [LabelledPicture(path, labels) for path in sorted(pictures.iterdir())]
    right = constant_model([[10, 10, 30, 40], [50, 20, 70, 40]], [1, 3], tmp_path / "right.onnx")
    perfect = evaluate(right, data)
    assert perfect.ap == pytest.approx(1.0)
    assert set(perfect.ap_by_class) == {"person", "car"}
    wrong = constant_model([[10, 10, 30, 40], [70, 60, 90, 74]], [1, 3], tmp_path / "wrong.onnx")
    half = evaluate(wrong, data)
    assert half.ap_by_class == {"person": pytest.approx(1.0), "car": pytest.approx(0.0)}
    # IoU 0.75 counts at 0.50 .. 0.75: 6 of 10 thresholds
    loose = constant_model([[10, 10, 30, 32.5]], [1], tmp_path / "loose.onnx")
    assert evaluate(loose, data).ap_by_class["person"] == pytest.approx(0.6, abs=0.01)


def test_evaluate_refuses_other_classes(pictures: Path, tmp_path: Path) -> None:
    data = [
        LabelledPicture(path, (Label("hedgehog", (0, 0, 5, 5)),)) for path in pictures.iterdir()
    ]
    model = constant_model([[0, 0, 5, 5]], [1], tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="no class name in common"):
        evaluate(model, data)


def test_yolo_and_coco_layouts_give_the_same_labels(pictures: Path, tmp_path: Path) -> None:
    yolo = tmp_path / "yolo"
    (yolo / "labels").mkdir(parents=True)
    pictures.rename(yolo / "images")
    (yolo / "data.yaml").write_text("names: [cat, dog]")
    (yolo / "labels" / "1.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (first,) = [one for one in load_labelled(yolo) if one.labels]
    (label,) = first.labels
    assert (first.path.name, label.name) == ("1.png", "dog")
    np.testing.assert_allclose(label.xywh, (36.375, 18.75, 24.25, 37.5))
    coco = {
        "images": [{"id": 7, "file_name": "1.png"}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": list(label.xywh)}],
    }
    (yolo / "images" / "_annotations.coco.json").write_text(json.dumps(coco))
    assert load_labelled(yolo / "images") == [first]


@pytest.mark.parametrize(
    ("line", "message"), [("9 0 0 1 1", "2 classes"), ("x", "is not"), ("0 1 2", "is not")]
)
def test_the_error_for_a_bad_label_contains_the_file(
    line: str, message: str, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    pictures.rename(tmp_path / "images")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]")
    (tmp_path / "labels" / "0.txt").write_text(line)
    with pytest.raises(ModelError, match=rf"0\.txt.*{message}"):
        load_labelled(tmp_path)


def deep_export() -> onnx.ModelProto:
    """The tiny export with four wide layers between the cells and the heads."""
    model = tiny_export()
    rng = np.random.default_rng(1)
    widths = [3, 128, 128, 128, 3]
    value = "tokens"
    layers = []
    for index, (a, b) in enumerate(pairwise(widths)):
        weight = (rng.normal(0, 1, (a, b)) / np.sqrt(a)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"wide{index}"))
        layers.append(
            helper.make_node("MatMul", [value, f"wide{index}"], [f"h{index}"], name=f"wide.{index}")
        )
        layers.append(helper.make_node("Tanh", [f"h{index}"], [f"t{index}"]))
        value = f"t{index}"
    nodes = list(model.graph.node)
    for head in nodes[3:]:
        if head.op_type == "MatMul":
            head.input[0] = value
            head.name = "bbox_embed" if head.output[0] == "box" else "class_embed"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:3], *layers, *nodes[3:]])
    return model


@pytest.mark.parametrize("target", list(Target))
def test_quantize_changes_only_the_inner_layers_and_results_little(
    target: Target, pictures: Path, tmp_path: Path
) -> None:
    model = fuse(deep_export(), classes=COCO_91, source="test")
    assert layers_to_quantize(model, None) == ["wide.1", "wide.2"]
    source, output = saved(model, tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    assert quantize(source, output, sorted(pictures.iterdir()), target=target) == 2
    quantised = onnx.load(output)
    card = ModelCard.from_metadata(metadata_of(quantised))
    assert card is not None
    assert card.precision == "int8"
    assert card.quantized_for is target
    assert read_model_file(output).card.quantized_for is target
    zero_points = {
        numpy_helper.to_array(w).dtype.name
        for w in quantised.graph.initializer
        if w.name.endswith("zero_point")
    }
    assert zero_points == ({"int8"} if target is Target.TENSORRT else {"int8", "uint8"})
    frame = np.random.default_rng(2).integers(60, 200, (1, 72, 64), np.uint8)
    before, after = (
        open_session(path).run(["scores"], {"frame": frame})[0] for path in (source, output)
    )
    assert 0 < np.abs(before - after).max() < 0.05
    with pytest.raises(ModelError, match="quantised already"):
        quantize(output, tmp_path / "again.onnx", [])


@pytest.mark.parametrize("target", list(Target))
def test_the_target_of_a_model_without_a_card_is_known(
    target: Target, pictures: Path, tmp_path: Path
) -> None:
    """Also of a file for TensorRT that lost its metadata: only OpenVINO computes it wrongly, and silently."""
    model = fuse(deep_export(), classes=COCO_91, source="test")
    del model.metadata_props[:]
    source, output = saved(model, tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    quantize(source, output, sorted(pictures.iterdir()), target=target)
    card = read_model_file(output).card
    assert (card.quantized_for, card.contract) == (target, "")
    quantised = onnx.load(output)
    del quantised.metadata_props[:]
    onnx.save(quantised, output)
    expected = Target.TENSORRT if target is Target.TENSORRT else None
    assert read_model_file(output).card.quantized_for is expected
    for weight in [*quantised.graph.initializer]:  # as other programs write them
        if weight.name.endswith("zero_point"):
            quantised.graph.initializer.remove(weight)
            node = helper.make_node("Constant", [], [weight.name], value=weight)
            quantised.graph.node.insert(0, node)
    onnx.save(quantised, output)
    assert read_model_file(output).card.quantized_for is expected
    assert read_model_file(source).card.quantized_for is None


def test_the_openvino_form_of_a_quantised_model_keeps_its_target(
    pictures: Path, tmp_path: Path
) -> None:
    model = fuse(deep_export(), classes=COCO_91, source="test")
    source, output = saved(model, tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    quantize(source, output, sorted(pictures.iterdir()), target=Target.CPU)
    changed = onnx.load(output)
    assert gather_pixels(changed)
    assert card_of(changed).quantized_for is Target.CPU


def test_a_failed_quantisation_leaves_no_file(tmp_path: Path) -> None:
    source = saved(fuse(deep_export(), classes=COCO_91, source="t"), tmp_path / "float.onnx")
    with pytest.raises(ModelError, match="cannot be read as a picture"):
        quantize(source, tmp_path / "out" / "int8.onnx", [source])
    assert list((tmp_path / "out").iterdir()) == []


def test_quantize_needs_a_contract_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a contract model"):
        quantize(saved(tiny_export(), tmp_path / "m.onnx"), tmp_path / "o.onnx", [])
