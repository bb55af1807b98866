"""Check the GPU and what the GPU path needs. All functions except `check_gpu` are pure."""

from __future__ import annotations

from collections.abc import Iterator

from tridetr.config import Config
from tridetr.config.schema import GPU_PROVIDERS
from tridetr.doctor import gpu_facts
from tridetr.doctor.finding import Finding, Level
from tridetr.doctor.gpu_facts import GpuFacts
from tridetr.triton.engine.rtx import PACKAGE as RTX_PACKAGE

INSTALL = "pip install 'tridetr[gpu]'"
# Turing, the oldest that current Triton containers and TensorRT 10 support
_LEAST_CAPABILITY = (7, 5)
_LEAST_CUDA = (12, 0)
# Rule of thumb for a full-size model with TensorRT or ONNX Runtime, including the CUDA context
_LEAST_FREE_MIB = 1500
_SHARE = "shareProcessNamespace: true for the pod (docker: --pid and --ipc of Triton's container)"


def check_gpu(config: Config) -> Iterator[Finding]:
    """Check everything that the GPU path needs; one finding if no GPU is requested and none exists."""
    return judge(config, gpu_facts.gather())


def judge(config: Config, facts: GpuFacts) -> Iterator[Finding]:
    """Yield what the facts mean for this configuration."""
    wanted = wants_gpu(config)
    if facts.driver is None and not facts.jetson:
        if wanted:
            yield Finding(
                "GPU",
                "fault" if config.device == "cuda" else "warning",
                f"{wanted} is set, but no NVIDIA driver is loaded",
                _driver_remedy(facts),
            )
        else:
            yield Finding("GPU", "ok", "none; the model runs on the CPU")
        return
    yield _driver(facts)
    yield from _gpus(facts)
    if not wanted and not facts.gpus:
        return
    yield from _provider(config, facts)
    yield from _regions(config, facts)
    yield from _decoders(config, facts)
    yield from _tensorrt(config, facts)
    yield from _runtime(facts)


def wants_gpu(config: Config) -> str:
    """Return the setting that requests a GPU, such as `device: cuda`; empty if none does."""
    if config.device == "cuda":
        return "device: cuda"
    if config.model.provider in GPU_PROVIDERS:
        return f"model.provider: {config.model.provider}"
    if config.model.name == "rfdetr_trt":
        return "model.name: rfdetr_trt"
    for name, camera in config.cameras.items():
        if camera.decode == "gpu":
            return f"cameras.{name}.decode: gpu"
    return ""


def _driver_remedy(facts: GpuFacts) -> str:
    if facts.container:
        return "start the container with the NVIDIA runtime (docker: --gpus all; k3s: gpu.enabled)"
    return "install the driver (Debian: nvidia-driver; then reboot), or set device: auto"


def _driver(facts: GpuFacts) -> Finding:
    if facts.nvml_error:
        if "not installed" in facts.nvml_error:
            remedy = INSTALL
        elif facts.container:
            remedy = "NVIDIA_DRIVER_CAPABILITIES must include utility and compute"
        else:
            remedy = "check that the driver is loaded (dmesg)"
        text = f"{facts.driver or 'of a Jetson'}; NVML does not work: {facts.nvml_error}"
        return Finding("GPU driver", "warning", text, remedy)
    cuda = f"CUDA up to {facts.cuda[0]}.{facts.cuda[1]}" if facts.cuda else "CUDA unknown"
    text = f"{facts.driver}, {cuda}"
    if facts.cuda and facts.cuda < _LEAST_CUDA:
        wanted = ".".join(map(str, _LEAST_CUDA))
        return Finding("GPU driver", "fault", text, f"install a driver with CUDA {wanted} or newer")
    return Finding("GPU driver", "ok", text)


def _gpus(facts: GpuFacts) -> Iterator[Finding]:
    for number, gpu in enumerate(facts.gpus):
        capability = ".".join(map(str, gpu.capability))
        text = (
            f"{gpu.name}, {gpu.memory_mib} MiB ({gpu.free_mib} free), compute capability "
            f"{capability}"
        )
        level: Level = "ok"
        remedy = ""
        if gpu.capability < _LEAST_CAPABILITY:
            least = ".".join(map(str, _LEAST_CAPABILITY))
            level = "warning"
            remedy = f"TensorRT 10 and current containers need {least}: set device: cpu, or use a newer GPU"
        elif gpu.exclusive:
            level = "fault"
            text += ", exclusive compute mode"
            remedy = "the gpu process and Triton each need a context: sudo nvidia-smi -c DEFAULT"
        elif gpu.mig:
            level = "warning"
            text += ", MIG is on"
            remedy = "CUDA IPC only works within one MIG instance: give all containers the same one"
        elif gpu.free_mib < _LEAST_FREE_MIB:
            level = "warning"
            remedy = f"a full-size model takes about {_LEAST_FREE_MIB} MiB: nvidia-smi shows what uses the memory"
        yield Finding(f"GPU {number}", level, text, remedy)
    if not facts.gpus and not facts.nvml_error and not facts.jetson:
        text = "the driver shows no GPU to this process"
        remedy = "check NVIDIA_VISIBLE_DEVICES, or the pod's GPU resource"
        yield Finding("GPU", "fault", text, remedy)


def _provider(config: Config, facts: GpuFacts) -> Iterator[Finding]:
    """Check that ONNX Runtime's CUDA provider loads: otherwise it falls back to the CPU silently."""
    if (
        config.model.provider in ("cpu", "openvino", "tensorrt-rtx")
        or config.model.name == "rfdetr_trt"
    ):
        return
    subject = "CUDA provider"
    packages = "pip uninstall onnxruntime-openvino; pip install 'onnxruntime-gpu[cuda,cudnn]'"
    if facts.cuda_provider is None:
        if config.model.provider == "cuda":
            yield Finding(subject, "fault", "onnxruntime-gpu is not installed", packages)
    elif facts.cuda_provider:
        text = f"ONNX Runtime's CUDA provider does not load: {facts.cuda_provider}"
        yield Finding(subject, "fault", text, packages)
    else:
        yield Finding(subject, "ok", "loads and runs the bundled model")


def _regions(config: Config, facts: GpuFacts) -> Iterator[Finding]:
    """Check whether Triton can open frames in device memory by CUDA IPC."""
    subject = "CUDA regions"
    if facts.jetson:
        text = "a Jetson has no CUDA IPC: frames go through system shared memory"
        yield Finding(subject, "ok", text)
        return
    if "cuda-bindings" not in facts.packages:
        text = "cuda-bindings is not installed: frames go through system shared memory"
        yield Finding(subject, "warning", text, INSTALL)
        return
    if config.triton.url is None:
        yield Finding(subject, "ok", "the embedded Triton is in the same namespaces")
        return
    if not facts.servers:
        text = "Triton's process is not visible: it is in another PID namespace, or has not started"
        yield Finding(subject, "warning", text, _SHARE)
        return
    for server in facts.servers:
        yield _same_namespaces(subject, facts, server)


def _same_namespaces(subject: str, facts: GpuFacts, server: gpu_facts.ServerProcess) -> Finding:
    named = f"Triton (process {server.pid})"
    unknown = [kind for kind in facts.namespaces if kind not in server.namespaces]
    if unknown:
        text = f"{named} belongs to another user: its namespaces cannot be read"
        return Finding(subject, "warning", text, "run tridetr doctor as that user, or as root")
    others = [
        kind.upper() for kind, own in facts.namespaces.items() if server.namespaces[kind] != own
    ]
    if others:
        text = f"{named} is in another {' and '.join(others)} namespace: no CUDA IPC"
        return Finding(subject, "warning", text, _SHARE)
    return Finding(subject, "ok", f"{named} is in the same IPC and PID namespaces")


def _decoders(config: Config, facts: GpuFacts) -> Iterator[Finding]:
    """Check the libraries that `decode: gpu` needs."""
    asked = [name for name, camera in config.cameras.items() if camera.decode != "cpu"]
    missing = []
    if "PyNvVideoCodec" not in facts.packages:
        missing.append(("PyNvVideoCodec (H.264, H.265)", INSTALL))
    elif "libnvcuvid.so" not in facts.libraries:
        container = "NVIDIA_DRIVER_CAPABILITIES must include video"
        host = "install the driver's decode library (Debian: libnvcuvid1)"
        remedy = container if facts.container else host
        missing.append(("libnvcuvid (H.264, H.265)", remedy))
    wheels = {"nvidia-nvjpeg-cu12", "nvidia-nvjpeg"}
    if "libnvjpeg.so" not in facts.libraries and not wheels & facts.packages.keys():
        missing.append(("nvJPEG (MJPEG)", INSTALL))
    subject = "GPU decoding"
    if not missing:
        used = f"used by {', '.join(asked)}" if asked else "not used by any camera (decode: cpu)"
        yield Finding(subject, "ok", f"H.264, H.265 and MJPEG; {used}")
        return
    text = " and ".join(name for name, _ in missing)
    remedies = "; ".join(dict.fromkeys(remedy for _, remedy in missing))
    if asked:
        text += f" missing: no pictures from {', '.join(asked)}"
        yield Finding(subject, "fault", text, f"{remedies}; or set decode: cpu")
    else:
        yield Finding(subject, "ok", f"not used by any camera; missing: {text}")


def _tensorrt(config: Config, facts: GpuFacts) -> Iterator[Finding]:
    yield from _rtx(config, facts)
    if config.triton.url is not None:
        return  # the external server has its own
    found = facts.packages.get("tensorrt") or facts.libraries.get("libnvinfer.so")
    if found:
        yield Finding("TensorRT", "ok", found)
    elif config.model.name == "rfdetr_trt" or config.model.provider == "tensorrt":
        yield Finding(
            "TensorRT",
            "fault",
            "is requested, but its libraries are not installed",
            "use NVIDIA's Triton container (docker/triton-gpu.Dockerfile), or set model.provider: cuda",
        )
    else:
        yield Finding("TensorRT", "ok", "not installed, and not requested")


def _rtx(config: Config, facts: GpuFacts) -> Iterator[Finding]:
    """Suggest TensorRT for RTX if it supports the first GPU."""
    capability = facts.gpus[0].capability if facts.gpus else (0, 0)
    takes = capability in ((7, 5), (8, 6), (8, 9)) or capability[0] == 12
    if config.model.provider == "tensorrt-rtx" and facts.gpus and not takes:
        text = f"does not support compute capability {'.'.join(map(str, capability))}"
        yield Finding("TensorRT for RTX", "fault", text, "set model.provider: cuda")
    elif takes:
        text = f"supports this GPU: model.provider: tensorrt-rtx, pip install {RTX_PACKAGE} (not tested yet)"
        yield Finding("TensorRT for RTX", "ok", text)


def _runtime(facts: GpuFacts) -> Iterator[Finding]:
    subject = "NVIDIA container runtime"
    if facts.jetson or (facts.container and facts.capabilities is None):
        return
    if facts.container:
        yield Finding(subject, "ok", f"in use by this container ({facts.capabilities})")
    elif facts.runtime:
        yield Finding(subject, "ok", "installed")
    else:
        text = "not installed: containers (k3s, Docker) on this host cannot use the GPU"
        yield Finding(subject, "ok", text)
