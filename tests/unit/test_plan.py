"""Placement of frames and decoding, detection of the machine, and the logged reasons."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tridetr import machine as machine_module
from tridetr.config import Config
from tridetr.errors import CudaError, ModelError
from tridetr.machine import Gpus, Machine
from tridetr.model_card import ModelCard, Target
from tridetr.plan import Frames, check_target, place_frames, place_model, plan
from tridetr.supervisor import runner
from tridetr.triton.endpoint import Endpoint, write_endpoint

GPU = Machine(Gpus(1))
NONE = Machine(Gpus(0, "the NVIDIA driver is not installed"))
JETSON = Machine(Gpus(1), jetson=True)
NO_BINDINGS = Machine(Gpus(1), bindings=False)
OTHER_PIDS = Machine(Gpus(1), server_in_pid_namespace=False)
SAME_PIDS = Machine(Gpus(1), server_in_pid_namespace=True)


def choose(device: str, provider: str, found: Machine) -> Frames:
    return place_frames(
        make_config(Path("/run"), device=device, model={"provider": provider}), found
    )


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("provider", ["auto", "cuda", "tensorrt"])
@pytest.mark.parametrize("found", [GPU, SAME_PIDS, Machine(Gpus(4))])
def test_frames_go_to_the_gpu(device: Any, provider: str, found: Machine) -> None:
    assert choose(device, provider, found).cuda


@pytest.mark.parametrize(
    ("found", "why", "remedy", "is_loss"),
    [
        (NONE, "the NVIDIA driver is not installed", "install the NVIDIA driver", False),
        (JETSON, "Jetson", "use a PC with a GPU", False),
        (NO_BINDINGS, "cuda-bindings is not installed", r"pip install 'tridetr\[gpu\]'", True),
        (OTHER_PIDS, "another PID namespace", "use one PID namespace", True),
        # Only the first obstacle is reported: removing it may remove the others.
        (Machine(Gpus(0, "no driver"), bindings=False, jetson=True), "Jetson", "use a PC", False),
        (Machine(Gpus(0, "no driver"), bindings=False), "no driver", "install", False),
    ],
)
def test_the_reason_against_gpu_memory_is_reported_with_its_remedy(
    found: Machine, why: str, remedy: str, is_loss: bool
) -> None:
    choice = choose("auto", "auto", found)
    assert (choice.cuda, choice.is_loss) == (False, is_loss)
    assert why in choice.why_not
    # Without a GPU there is no remedy to log: most machines have none.
    assert ("Remedy" in choice.why_not) == is_loss
    with pytest.raises(
        CudaError, match=rf"device: cuda is impossible here.*Remedy: {remedy}"
    ) as raised:
        choose("cuda", "auto", found)
    assert why in str(raised.value)
    assert "or set device: auto" in str(raised.value)


@pytest.mark.parametrize("found", [GPU, NONE, JETSON, NO_BINDINGS])
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_a_model_on_the_cpu_needs_no_gpu_memory(provider: str, found: Machine) -> None:
    choice = choose("auto", provider, found)
    assert (choice.cuda, choice.why_not) == (False, "")
    assert choice.gpu == (found in (GPU, JETSON))
    with pytest.raises(ValidationError, match=r"device: cuda rules that out"):
        choose("cuda", provider, found)


@pytest.mark.parametrize("found", [GPU, NONE, JETSON, NO_BINDINGS])
def test_device_cpu_uses_no_gpu_memory(found: Machine) -> None:
    assert not choose("cpu", "auto", found).cuda


# ---------------------------------------------------------------- detection


def test_a_jetson_is_recognised(tmp_path: Path) -> None:
    assert not machine_module.is_jetson(tmp_path)
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"raspberrypi,4-model-b\0brcm,bcm2711\0")
    assert not machine_module.is_jetson(tmp_path)
    (tree / "compatible").write_bytes(b"nvidia,p3767-0000\0nvidia,tegra234\0")
    assert machine_module.is_jetson(tmp_path)
    (tree / "compatible").unlink()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36")
    assert machine_module.is_jetson(tmp_path)


def test_pid_namespaces_are_compared(tmp_path: Path) -> None:
    for process, namespace in (("self", "pid:[1]"), ("7", "pid:[1]"), ("8", "pid:[2]")):
        folder = tmp_path / "proc" / process / "ns"
        folder.mkdir(parents=True)
        (folder / "pid").symlink_to(namespace)
    assert machine_module.same_pid_namespace(7, tmp_path) is True
    assert machine_module.same_pid_namespace(8, tmp_path) is False
    assert machine_module.same_pid_namespace(9, tmp_path) is None
    assert machine_module.same_pid_namespace(1) in (True, False, None)  # this very machine


def test_the_servers_pid_namespace_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    asked: list[int] = []

    def elsewhere(pid: int) -> bool:
        asked.append(pid)
        return False

    monkeypatch.setattr(machine_module, "same_pid_namespace", elsewhere)
    assert machine_module.find_machine(config).server_in_pid_namespace is None  # not started yet
    write_endpoint(tmp_path, Endpoint("127.0.0.1:1", pid=77))
    assert machine_module.find_machine(config).server_in_pid_namespace is False
    external = make_config(tmp_path, triton={"url": "other:8001"})
    assert machine_module.find_machine(external).server_in_pid_namespace is None
    assert asked == [77]


# ---------------------------------------------------------------- logged reasons


def make_config(folder: Path, **sections: Any) -> Config:
    fields = {
        "instance": "t",
        "cameras": {"cam": {"source": "synthetic"}},
        "run_dir": folder,
        "state_dir": folder,
    }
    return Config.model_validate(fields | sections)


@pytest.mark.parametrize(
    ("device", "found", "level"),
    [
        ("auto", NONE, logging.INFO),
        ("auto", JETSON, logging.INFO),
        ("auto", NO_BINDINGS, logging.WARNING),
        ("cpu", NO_BINDINGS, None),
    ],
)
def test_the_reason_is_logged_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    found: Machine,
    level: int | None,
) -> None:
    monkeypatch.setattr(runner, "find_machine", lambda _: found)
    with caplog.at_level(logging.DEBUG, "tridetr"):
        assert not runner.needs_gpu_process(make_config(tmp_path, device=device))
    assert [record.levelno for record in caplog.records] == ([level] if level else [])


def test_which_nodes_need_the_gpu_process(tmp_path: Path) -> None:
    decoded = {"cam": {"source": "rtsp://c/1", "decode": "gpu"}}
    assert plan(make_config(tmp_path), GPU).needs_gpu_process
    assert not plan(make_config(tmp_path, device="cpu"), GPU).needs_gpu_process
    on_cpu = {"provider": "openvino"}
    assert not plan(make_config(tmp_path, model=on_cpu), GPU).needs_gpu_process
    assert plan(
        make_config(tmp_path, model=on_cpu, cameras=decoded), GPU
    ).needs_gpu_process  # to decode
    with pytest.raises(
        CudaError, match=r"decode: gpu is impossible here: device: cpu.*decode: cpu"
    ):
        plan(make_config(tmp_path, device="cpu", cameras=decoded), GPU)
    assert not plan(make_config(tmp_path), NONE).needs_gpu_process
    with pytest.raises(
        CudaError, match=r"camera cam: decode: gpu is impossible.*driver is not installed"
    ):
        plan(make_config(tmp_path, cameras=decoded), NONE)
    with pytest.raises(CudaError, match="device: cuda is impossible here"):
        plan(make_config(tmp_path, device="cuda"), NONE)


def test_this_machine_can_be_inspected(tmp_path: Path) -> None:
    found = machine_module.find_machine(make_config(tmp_path))
    assert found.gpus.count > 0 or found.gpus.why_none


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("model", "gpus", "refused"),
    [
        ({}, 0, Target.TENSORRT),  # OpenVINO, if its package is installed
        ({"provider": "openvino"}, 1, Target.TENSORRT),
        ({"provider": "cpu"}, 0, None),
        ({"provider": "cuda"}, 1, None),
        ({"provider": "tensorrt"}, 1, Target.CPU),
        ({"provider": "tensorrt-rtx"}, 1, Target.CPU),
        ({"name": "rfdetr_trt"}, 1, Target.CPU),
    ],
)
def test_a_model_that_was_quantised_for_other_engines_is_refused(
    model: dict[str, str], gpus: int, refused: Target | None, native: bool
) -> None:
    """OpenVINO computes wrong convolutions from a file for TensorRT, and detects almost nothing with it."""
    machine = Machine(Gpus(gpus), openvino_wheel=True, native=native)
    placement = place_model(make_config(Path("/run"), model=model), machine)
    if native and not model:
        refused = None  # the server's own ONNX Runtime, on the CPU
    for target in (None, *Target):
        card = ModelCard(quantized_for=target)
        if target is not None and target is refused:
            with pytest.raises(ModelError, match=r"was quantised for .*Remedy: .*--target"):
                check_target(card, placement)
        else:
            check_target(card, placement)
