"""The commands of `tridetr models`, with a tiny network instead of RF-DETR."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from support.tiny_export import tiny_export
from tridetr.errors import ModelError, TridetrError
from tridetr.model_card import Form
from tridetr.models import export_worker
from tridetr.models.cli import app
from tridetr.models.cli.make import read_classes
from tridetr.models.export import export
from tridetr.models.onnx_file import read_card, set_metadata
from tridetr.models.raw_export import export_metadata
from tridetr.triton.model_file import read_model_file

CLASSES = {"hedgehog": 0, "fox": 1}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    model = tiny_export(columns=3)
    set_metadata(model, export_metadata(CLASSES, "a test"))
    path = tmp_path / "export.onnx"
    onnx.save(model, path)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    # Lines are broken where the temporary folder's name is long
    return " ".join(result.output.split())


def refused(*arguments: object) -> str:
    with pytest.raises(ModelError) as caught:
        CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    return str(caught.value)


def fake_python(tmp_path: Path, model: Path, *messages: dict[str, Any], status: int = 0) -> Path:
    """Return a fake interpreter that answers like the export worker, regardless of its arguments."""
    script = tmp_path / "python"
    lines = "".join(f"echo '{json.dumps(message)}'\n" for message in messages)
    find = 'while [ "$1" != --output ]; do shift; done; cp ' + f"'{model}' \"$2\"\n"
    script.write_text(f"#!/bin/sh\n{find}{lines}echo deep trouble >&2\nexit {status}\n")
    script.chmod(0o755)
    return script


DONE = {
    "done": {
        "classes": CLASSES,
        "resolution": 32,
        "model": "RFDETRNano",
        "rfdetr": "9.9",
    }
}


def test_a_checkpoint_is_exported_installed_and_verified(exported: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.pth"
    checkpoint.touch()
    python = fake_python(tmp_path, exported, {"step": "tracing"}, DONE)
    output = run("export", "--weights", checkpoint, "--name", "yard", "--python", python)
    assert "tracing" in output
    assert "hedgehog, fox" in output
    assert "model: {file: yard}" in output
    assert "hedgehog" in run("list")
    assert "RFDETRNano (best.pth), rfdetr 9.9" in run("info", "yard")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(pictures / "grey.png")
    assert "too far" not in run("verify", "yard", "--data", pictures)
    assert "exists: --force" in refused("export", "--weights", checkpoint, "--name", "yard")
    run("remove", "yard")
    assert "no models are installed" in run("list")


def test_a_failing_export_reports_the_cause_and_installs_nothing(
    exported: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "best.pth"
    checkpoint.touch()
    python = fake_python(tmp_path, exported, {"error": "ValueError: no such head"}, status=1)
    message = refused("export", "--weights", checkpoint, "--python", python)
    assert "no such head" in message
    assert "deep trouble" in message
    assert "no models are installed" in run("list")


def test_a_worker_that_dies_is_an_error(exported: Path, tmp_path: Path) -> None:
    python = fake_python(tmp_path, exported, status=9)
    with pytest.raises(ModelError, match="exited with status 9"):
        export(tmp_path / "o.onnx", python=python, weights="random", variant="nano")


@pytest.mark.parametrize(
    ("weights", "variant", "message"),
    [("nowhere.pth", None, "no such checkpoint"), ("random", None, "requires --variant")],
)
def test_export_without_weights_or_variant_is_refused(
    weights: str, variant: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        export(tmp_path / "o.onnx", python=Path("/nowhere"), weights=weights, variant=variant)


def test_an_offline_machine_has_its_own_error(exported: Path, tmp_path: Path) -> None:
    error = {"error": "ConnectionError: Max retries exceeded"}
    python = fake_python(tmp_path, exported, error, status=1)
    with pytest.raises(ModelError, match=r"cannot download the pretrained weights.*--weights FILE"):
        export(tmp_path / "o.onnx", python=python, weights="pretrained", variant="nano")


def test_fuse_writes_for_openvino_from_an_export_and_from_a_fused_model(
    exported: Path, tmp_path: Path
) -> None:
    portable, first, second = (
        tmp_path / f"{name}.onnx" for name in ("portable", "first", "second")
    )
    run("fuse", exported, portable)
    run("fuse", exported, first, "--target", "openvino")
    run("fuse", portable, second, "--target", "openvino")
    assert [read_card(path).form for path in (portable, first, second)] == [
        Form.PORTABLE, Form.OPENVINO, Form.OPENVINO,
    ]  # fmt: skip
    assert "it is not a portable model" in refused(
        "fuse", first, tmp_path / "third.onnx", "--target", "openvino"
    )


def test_fuse_reads_class_names_from_a_file_or_the_export(exported: Path, tmp_path: Path) -> None:
    run("fuse", exported, tmp_path / "own.onnx")
    names = tmp_path / "names.txt"
    names.write_text("cat\n\ndog\n")
    run("fuse", exported, tmp_path / "named.onnx", "--classes", names, "--default-score", "0.3")
    assert '{"cat": 0, "dog": 2}' in run("info", tmp_path / "named.onnx")
    bare = tmp_path / "bare.onnx"
    onnx.save(tiny_export(), bare)
    assert "--classes" in refused("fuse", bare, tmp_path / "out.onnx")
    run("fuse", bare, tmp_path / "out.onnx", "--classes", "coco")
    assert "exists" in refused("fuse", bare, tmp_path / "out.onnx", "--classes", "coco")
    run("recolor", tmp_path / "out.onnx", tmp_path / "full.onnx", "--color", "bt601-full")
    assert "bt601-full" in run("info", tmp_path / "full.onnx")


def test_a_checkpoint_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle can contain code: rfdetr must read it with PyTorch's `weights_only`."""
    calls: list[dict[str, Any]] = []

    def from_checkpoint(_path: str, **settings: Any) -> None:
        calls.append(settings)
        raise ValueError("far enough")

    detr = SimpleNamespace(RFDETR=SimpleNamespace(from_checkpoint=from_checkpoint))
    monkeypatch.setitem(sys.modules, "rfdetr", cast(ModuleType, SimpleNamespace(detr=detr)))
    torch = SimpleNamespace(manual_seed=lambda _seed: None)
    monkeypatch.setitem(sys.modules, "torch", cast(ModuleType, torch))
    monkeypatch.setattr(export_worker, "import_torchvision", lambda: None)
    options = Namespace(weights="best.pth", variant=None, resolution=None, output=tmp_path / "x")
    with pytest.raises(ValueError, match="far enough"):
        export_worker.export(options, lambda _step: None)
    assert [call["trust_checkpoint"] for call in calls] == [False]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"person\nperson\n", "line 2 repeats the class 'person' of line 1"),
        ("Fu\xdfg\xe4nger\ncar\n".encode("latin-1"), "line 1: not UTF-8 but another encoding"),
        (b"\n\n", "no class names"),
        (b"car\nper\x00son\n", r"line 2: 'per\\x00son' contains invisible characters"),
        ("zebra\u200b\n".encode(), r"line 1: 'zebra\\u200b' contains invisible characters"),
        (None, "cannot be read"),
    ],
)
def test_invalid_class_names_are_refused(tmp_path: Path, data: bytes | None, said: str) -> None:
    names = tmp_path / "names.txt"
    if data is not None:
        names.write_bytes(data)
    with pytest.raises(TridetrError, match=said):
        read_classes(str(names))


def test_class_names_with_a_byte_order_mark(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(b"\xef\xbb\xbfperson\r\ncar\r\n")
    assert read_classes(str(names)) == {"person": 0, "car": 1}


def test_serving_a_raw_export_is_refused_with_the_remedy(exported: Path) -> None:
    with pytest.raises(ModelError, match=r"models install \S+export.onnx --name export"):
        read_model_file(exported)


def test_verify_exits_with_1_above_its_bounds(exported: Path, tmp_path: Path) -> None:
    run("fuse", exported, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path / "noise.png")
    arguments = ["verify", str(tmp_path / "m.onnx"), "--data", str(tmp_path), "--max-input", "1e-9"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "too far" in result.output


def test_an_engine_needs_a_gpu(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("fuse", exported, tmp_path / "m.onnx")
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused("build-engine", tmp_path / "m.onnx", "--size", "640x480")
    assert "no NVIDIA GPU here" in message
    assert "specify MODEL" in refused("build-engine", "--size", "640x480")


def test_a_plot_of_an_unsupported_format_is_refused_before_the_evaluation() -> None:
    message = refused("evaluate", "nowhere.onnx", "--data", "nowhere", "--plot", "plot.txt")
    assert message == "plot.txt: unsupported format; use .png, .svg or .pdf"


def test_every_command_has_help() -> None:
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        assert len(run(name, "--help")) > 200
