from __future__ import annotations

import errno
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from support.tiny_export import tiny_export
from support.waiting import wait_for
from tridetr.config import Config
from tridetr.errors import ModelError, TritonError
from tridetr.model_card import Form
from tridetr.models.fuse import fuse
from tridetr.models.onnx_file import set_metadata
from tridetr.plan import Placement
from tridetr.telemetry import metrics
from tridetr.triton import launch, repository, setup, trial


def test_a_full_disk_is_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was larger than the pod's run volume once ended in repeated tracebacks."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server = SimpleNamespace(is_native=lambda _: False, backends=None)
    monkeypatch.setattr(setup, "find_server", lambda _: server)
    monkeypatch.setattr(repository, "render", full)
    config = Config.model_validate(
        {"cameras": {"a": {"source": "synthetic"}}, "run_dir": str(tmp_path)}
    )
    made = setup.Setup(config, launch.Layout(tmp_path, tmp_path), (tmp_path / "secret", "s"))
    (tmp_path / "triton").mkdir()
    with pytest.raises(TritonError, match=r"No space left.*MiB are free.*sizeLimit"):
        made.lay_out()


def test_folders_that_the_python_backend_leaves_in_tmp_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start leaves one, regardless of TMPDIR."""
    server = SimpleNamespace(is_native=lambda _: False, backends=None)
    monkeypatch.setattr(setup, "find_server", lambda _: server)
    monkeypatch.setattr(setup, "_ENVIRONMENTS", tmp_path)
    config = Config.model_validate(
        {"cameras": {"a": {"source": "synthetic"}}, "run_dir": str(tmp_path)}
    )
    files = launch.Layout(tmp_path, tmp_path)
    made = setup.Setup(config, files, (files.secret, "s"))
    (tmp_path / "python_env_before").mkdir()
    made.clean()
    assert (tmp_path / "python_env_before").is_dir()  # not from our server
    made._started_unix_s = (tmp_path / "python_env_before").stat().st_ctime + 0.001
    time.sleep(0.01)  # the next folders are newer, also by the coarse clock of the file system
    (tmp_path / "python_env_ours").mkdir()
    (tmp_path / "python_env_used").mkdir()
    (tmp_path / "python_env_used" / "bin").touch()
    files.temporary.mkdir(parents=True)
    (files.temporary / "left").touch()
    made.clean()
    left = sorted(path.name for path in tmp_path.glob("python_env_*"))
    assert left == ["python_env_before", "python_env_used"]
    assert not files.temporary.exists()
    monkeypatch.setattr(setup, "_LEFT_OVER_S", 0)
    made.clean()  # as if an hour had passed: folders of killed runs are removed
    assert [path.name for path in tmp_path.glob("python_env_*")] == ["python_env_used"]


def test_a_metrics_port_in_use_does_not_prevent_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert setup._metrics_port(taken) == 0
    assert f"cannot bind to port {taken} (Address already in use" in caplog.text
    assert setup._metrics_port(0) == 0


def setup_of_a_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, form: Form
) -> tuple[Path, setup.Setup]:
    """Return a model file, and the setup of a server that was laid out with it."""
    server = SimpleNamespace(is_native=lambda _: True, backends=folder)
    where = Placement("onnxruntime", native=True, gpu=False, graph=form)
    monkeypatch.setattr(setup, "find_server", lambda _: server)
    monkeypatch.setattr(setup, "place_model", lambda *_: where)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    model = folder / "m.onnx"
    onnx.save(fuse(tiny_export(), classes={"person": 1}, source="test"), model)
    config = Config.model_validate(
        {
            "cameras": {"a": {"source": "synthetic"}},
            "run_dir": str(folder),
            "model": {"file": str(model)},
        }
    )
    made = setup.Setup(config, launch.Layout(folder, folder), (folder / "secret", "s"))
    made.lay_out()
    return model, made


@pytest.mark.parametrize("content", [b"not a model", None])
def test_a_restart_serves_the_previous_model_if_the_new_file_cannot_be_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    content: bytes | None,
) -> None:
    """The server died while the file was damaged: the node had no detector until someone repaired the file."""
    model, made = setup_of_a_model(tmp_path, monkeypatch, Form.OPENVINO)
    good, refused = model.read_bytes(), metrics.MODEL_REFUSED.labels("rfdetr_ort")._value
    served = repository.model_in(tmp_path / "triton" / "models", "rfdetr_ort")
    before = served.read_bytes()
    model.unlink()
    if content is not None:
        model.write_bytes(content)
    assert refused.get() == 0
    for _ in range(2):
        caplog.clear()
        made.lay_out()
        assert caplog.text.count("the previous model is served again: ") == 1
        assert (served.read_bytes(), refused.get()) == (before, 1)
        assert not made.replacement.is_due()
    model.write_bytes(good)
    assert not made.replacement.is_due()
    wait_for(made.replacement.is_due, 60, "the new file is accepted")
    made.lay_out()
    assert refused.get() == 0


def test_a_file_that_does_not_run_is_refused_and_a_restart_serves_the_previous_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file conforms to the contract, but ONNX Runtime could not load it: the old model had ended by then."""
    model, made = setup_of_a_model(tmp_path, monkeypatch, Form.OPENVINO)
    refused = metrics.MODEL_REFUSED.labels("rfdetr_ort")._value
    served = repository.model_in(tmp_path / "triton" / "models", "rfdetr_ort")
    before = served.read_bytes()
    graph = onnx.load(model)
    graph.graph.node[-1].op_type = "Missing"
    onnx.save(graph, model)
    made.served()
    made.lay_out()  # the server died before the file was tried
    assert served.read_bytes() == before

    def is_refused() -> bool:
        assert not made.replacement.is_due()
        return bool(refused.get())

    wait_for(is_refused, 60, "the new file is refused")
    assert "the old model continues to serve: " in caplog.text
    assert "Missing" in caplog.text
    made.lay_out()
    assert served.read_bytes() == before
    assert not made.replacement.is_due()


def test_a_file_that_was_quantised_for_another_engine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenVINO detected almost nothing with a file for TensorRT: it passed the trial, and people in view had left."""
    model, made = setup_of_a_model(tmp_path, monkeypatch, Form.OPENVINO)
    served = repository.model_in(tmp_path / "triton" / "models", "rfdetr_ort")
    before = served.read_bytes()
    graph = onnx.load(model)
    set_metadata(graph, {"tridetr.quantized_for": "tensorrt"})
    onnx.save(graph, model)
    made.served()
    assert not made.replacement.is_due()  # it may still be being written
    assert not made.replacement.is_due()
    made.lay_out()  # the server died
    assert served.read_bytes() == before
    assert "the old model continues to serve: " in caplog.text
    assert "the previous model is served again: " in caplog.text
    assert caplog.text.count("quantised for TensorRT, but OpenVINO would run it") == 2
    assert "--target cpu" in caplog.text


def test_a_new_file_is_served_untried_if_the_server_does_not_start_with_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only while a server serves are files tried: with one that never gets ready, no repaired file was looked at."""
    model, made = setup_of_a_model(tmp_path, monkeypatch, Form.OPENVINO)
    served = repository.model_in(tmp_path / "triton" / "models", "rfdetr_ort")
    before = served.read_bytes()
    other = fuse(tiny_export(), classes={"someone": 1}, source="test")
    onnx.save(other, model)
    made.lay_out()
    assert served.read_bytes() != before
    assert made.replacement.is_rendered()


@pytest.mark.parametrize("ending", ["ALRM", "KILL"])
def test_a_trial_that_proves_nothing_does_not_refuse_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Too little time or memory for the trial: the server may load the model."""
    model, made = setup_of_a_model(tmp_path, monkeypatch, Form.OPENVINO)
    monkeypatch.setattr(trial, "module_command", lambda *_: ["sh", "-c", f"kill -{ending} $$"])
    model.touch()
    assert not made.replacement.is_due()
    wait_for(made.replacement.is_due, 10, "the new file is accepted")


def test_a_model_that_is_served_from_its_own_file_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made = setup_of_a_model(tmp_path, monkeypatch, Form.PORTABLE)
    model.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not an ONNX model"):
        made.lay_out()
