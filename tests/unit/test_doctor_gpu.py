"""The doctor's checks of the GPU, on fake machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tridetr.config import Config
from tridetr.doctor.finding import Finding
from tridetr.doctor.gpu import judge
from tridetr.doctor.gpu_facts import Gpu, GpuFacts, ServerProcess, find_libraries, gather

RTX = Gpu("NVIDIA GeForce RTX 2060 SUPER", 8192, 7800, (7, 5))
OURS = {"ipc": "ipc:[1]", "pid": "pid:[2]"}
WHOLE = GpuFacts(
    driver="570.86",
    cuda=(12, 8),
    gpus=(RTX,),
    runtime=True,
    libraries={"libcuda.so": "libcuda.so.1", "libnvcuvid.so": "libnvcuvid.so.1"},
    packages={
        "cuda-bindings": "12.9.0",
        "PyNvVideoCodec": "2.2.4",
        "nvidia-nvjpeg-cu12": "12.4",
        "tensorrt": "10.9",
    },
    namespaces=OURS,
    cuda_provider="",
)
CONTAINER: dict[str, Any] = {"container": True, "capabilities": "all"}


def config(decode: str = "cpu", **keys: Any) -> Config:
    return Config.model_validate(
        {"cameras": {"door": {"source": "rtsp://c/1", "decode": decode}}, **keys}
    )


def findings(facts: GpuFacts, **keys: Any) -> dict[str, Finding]:
    return {finding.subject: finding for finding in judge(config(**keys), facts)}


def test_a_complete_gpu_node_has_no_fault() -> None:
    found = findings(WHOLE, decode="gpu", device="cuda")
    assert {finding.level for finding in found.values()} == {"ok"}
    assert "570.86" in found["GPU driver"].text
    assert "12.8" in found["GPU driver"].text
    for part in (RTX.name, "8192 MiB", "7800 free", "7.5"):
        assert part in found["GPU 0"].text
    assert "used by door" in found["GPU decoding"].text
    assert found["TensorRT"].text == "10.9"


def test_one_finding_where_no_gpu_exists_and_none_is_requested() -> None:
    assert [str(f.level) for f in judge(config(), GpuFacts())] == ["ok"]


CASES: list[tuple[str, GpuFacts, dict[str, Any], str, str, str]] = [
    # what, facts, configuration, subject, level, words of the remedy
    ("no driver", GpuFacts(), {"device": "cuda"}, "GPU", "fault", "install the driver"),
    (
        "no driver, model asks",
        GpuFacts(container=True),
        {"model": {"provider": "tensorrt"}},
        "GPU",
        "warning",
        "--gpus all",
    ),
    (
        "no NVML package",
        GpuFacts(driver="570.86", nvml_error="nvidia-ml-py is not installed"),
        {"device": "cuda"},
        "GPU driver",
        "warning",
        "tridetr[gpu]",
    ),
    (
        "NVML fails in a container",
        replace(WHOLE, gpus=(), nvml_error="Not Supported", **CONTAINER),
        {"device": "cuda"},
        "GPU driver",
        "warning",
        "NVIDIA_DRIVER_CAPABILITIES",
    ),
    ("old driver", replace(WHOLE, cuda=(11, 4)), {}, "GPU driver", "fault", "12.0"),
    (
        "old GPU",
        replace(WHOLE, gpus=(replace(RTX, capability=(6, 1)),)),
        {},
        "GPU 0",
        "warning",
        "7.5",
    ),
    (
        "exclusive",
        replace(WHOLE, gpus=(replace(RTX, exclusive=True),)),
        {},
        "GPU 0",
        "fault",
        "-c DEFAULT",
    ),
    ("MIG", replace(WHOLE, gpus=(replace(RTX, mig=True),)), {}, "GPU 0", "warning", "instance"),
    ("full", replace(WHOLE, gpus=(replace(RTX, free_mib=300),)), {}, "GPU 0", "warning", "smi"),
    ("hidden", replace(WHOLE, gpus=()), {"device": "cuda"}, "GPU", "fault", "VISIBLE_DEVICES"),
    (
        "no bindings",
        replace(WHOLE, packages={}),
        {},
        "CUDA regions",
        "warning",
        "tridetr[gpu]",
    ),
    (
        "Triton not visible",
        WHOLE,
        {"triton": {"url": "127.0.0.1:8001"}},
        "CUDA regions",
        "warning",
        "shareProcessNamespace",
    ),
    (
        "another PID namespace",
        replace(WHOLE, servers=(ServerProcess(7, {**OURS, "pid": "pid:[9]"}),)),
        {"triton": {"url": "127.0.0.1:8001"}},
        "CUDA regions",
        "warning",
        "shareProcessNamespace",
    ),
    (
        "another user's Triton",
        replace(WHOLE, servers=(ServerProcess(7, {}),)),
        {"triton": {"url": "127.0.0.1:8001"}},
        "CUDA regions",
        "warning",
        "as root",
    ),
    (
        "no video capability",
        replace(WHOLE, libraries={}, **CONTAINER),
        {"decode": "gpu"},
        "GPU decoding",
        "fault",
        "must include video",
    ),
    (
        "no decoders",
        replace(WHOLE, packages={"cuda-bindings": "12.9"}),
        {"decode": "gpu"},
        "GPU decoding",
        "fault",
        "tridetr[gpu]",
    ),
    (
        "a CUDA provider that does not load",
        replace(WHOLE, cuda_provider="libcudnn.so.9: cannot open shared object file"),
        {},
        "CUDA provider",
        "fault",
        "onnxruntime-gpu[cuda,cudnn]",
    ),
    (
        "no CUDA provider",
        replace(WHOLE, cuda_provider=None),
        {"model": {"provider": "cuda"}},
        "CUDA provider",
        "fault",
        "onnxruntime-gpu",
    ),
    (
        "no TensorRT",
        replace(WHOLE, packages={"cuda-bindings": "12.9"}),
        {"model": {"name": "rfdetr_trt"}},
        "TensorRT",
        "fault",
        "container",
    ),
]


@pytest.mark.parametrize(
    ("facts", "keys", "subject", "level", "remedy"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_what_is_missing_and_the_remedy(
    facts: GpuFacts, keys: dict[str, Any], subject: str, level: str, remedy: str
) -> None:
    finding = findings(facts, **keys)[subject]
    assert finding.level == level, finding
    assert remedy in finding.remedy


def test_triton_in_the_same_namespaces_is_ok() -> None:
    facts = replace(WHOLE, servers=(ServerProcess(7, dict(OURS)),))
    assert findings(facts, triton={"url": "127.0.0.1:8001"})["CUDA regions"].level == "ok"


def test_a_jetson_is_reported_as_having_no_cuda_ipc() -> None:
    facts = GpuFacts(jetson=True, nvml_error="nvidia-ml-py is not installed")
    finding = findings(facts, device="cuda")["CUDA regions"]
    assert finding.level == "ok"
    assert "Jetson" in finding.text


class NvmlError(Exception):
    pass


def fake_nvml(fail: str = "") -> Any:
    """Return a stand-in for the module pynvml; `fail` is the name of a function that raises."""

    def function(name: str, value: Any) -> Any:
        def call(*_: Any) -> Any:
            if name == fail:
                raise NvmlError(f"{name} failed")
            return value

        return call

    values: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlSystemGetCudaDriverVersion_v2": 12080,
        "nvmlSystemGetDriverVersion": "570.86",
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": object(),
        "nvmlDeviceGetName": "NVIDIA L4",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 << 30, free=20 << 30),
        "nvmlDeviceGetCudaComputeCapability": (8, 9),
        "nvmlDeviceGetMigMode": [0, 0],
        "nvmlDeviceGetComputeMode": 0,
    }
    functions = {name: function(name, value) for name, value in values.items()}
    return SimpleNamespace(NVMLError=NvmlError, NVML_COMPUTEMODE_EXCLUSIVE_PROCESS=3, **functions)


def test_driver_cuda_version_and_gpus_come_from_nvml(tmp_path: Path) -> None:
    facts = gather(tmp_path, fake_nvml("nvmlDeviceGetMigMode"))  # most GPUs do not support MIG
    assert (facts.driver, facts.cuda, facts.nvml_error) == ("570.86", (12, 8), "")
    assert facts.gpus == (Gpu("NVIDIA L4", 24576, 20480, (8, 9)),)


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_an_nvml_failure_is_reported(tmp_path: Path, function: str) -> None:
    facts = gather(tmp_path, fake_nvml(function))
    assert facts.gpus == ()
    assert function in facts.nvml_error


def test_facts_are_read_from_proc(tmp_path: Path) -> None:
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Tue\n"
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(version)
    (tmp_path / "proc/device-tree").mkdir()
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"nvidia,p3768\0nvidia,tegra234\0")
    for pid, name in (("self", "tridetr"), ("7", "tritonserver"), ("8", "bash")):
        (tmp_path / "proc" / pid / "ns").mkdir(parents=True)
        (tmp_path / "proc" / pid / "comm").write_text(name + "\n")
        for kind, value in OURS.items():
            (tmp_path / "proc" / pid / "ns" / kind).symlink_to(value)
    facts = gather(tmp_path, fake_nvml("nvmlInit"))
    assert facts.driver == "570.86.15"
    assert facts.jetson
    assert facts.namespaces == OURS
    assert facts.servers == (ServerProcess(7, OURS),)


def test_the_newest_version_of_a_library_is_found() -> None:
    def load(name: str) -> None:
        if name not in ("libnvjpeg.so.13", "libnvjpeg.so.12", "libcuda.so.1"):
            raise OSError(name)

    assert find_libraries(load) == {
        "libcuda.so": "libcuda.so.1",
        "libnvjpeg.so": "libnvjpeg.so.13",
    }
