"""Which execution provider and precision to use: by what the machine has, unless the user forces it.

`tridetr.plan` says where the model runs. What is left to choose is known in the model's own process only: what the
ONNX Runtime that is imported there offers, which may differ from the installed packages, and what is in the model file.

Measured with a full-size RF-DETR Nano on two Zen 4 cores, OpenVINO in bf16 needs about 0.4 times the CPU time of
plain ONNX Runtime in fp32, and OpenVINO in fp32 about 0.8 times. bf16 pays only where the CPU multiplies it in
hardware (AVX-512 BF16, AMX, AVX-NE-CONVERT); elsewhere it would be emulated.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tridetr.errors import ModelError

OPENVINO = "OpenVINOExecutionProvider"
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"
_BY_NAME = {
    "openvino": OPENVINO,
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": TENSORRT,
    "tensorrt-rtx": RTX,
}
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "avx_ne_convert")
_PACKAGES = {
    OPENVINO: "onnxruntime-openvino",
    CUDA: "onnxruntime-gpu",
    TENSORRT: "onnxruntime-gpu (with TensorRT)",
    CPU: "onnxruntime",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """An execution provider of ONNX Runtime, a precision, and why."""

    provider: str
    precision: str
    reason: str


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the instruction sets of this CPU as Linux names them; empty if it does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def choose(
    provider: str,
    precision: str,
    *,
    available: Collection[str],
    flags: Collection[str],
    gpu: bool,
    ours: bool,
) -> Choice:
    """Choose provider and precision.

    Args:
        provider: `auto`, `auto-cpu`, `auto-cuda`, or one by name (`cpu`, `openvino`, `cuda`, `tensorrt`).
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        available: ONNX Runtime's providers as installed.
        flags: instruction sets of the CPU.
        gpu: whether Triton placed the instance on a GPU.
        ours: whether `tridetr models fuse` made the model (an RF-DETR). What bf16 does to other graphs is unknown:
            a YOLOX whose two best anchors are a hair apart reports the other one.

    Raises:
        ModelError: what was forced is not there, or the two do not go together.
    """
    if provider in _BY_NAME:
        chosen, why = _BY_NAME[provider], "as configured"
    elif provider == "auto-cuda" or (provider == "auto" and gpu and CUDA in available):
        chosen, why = CUDA, "a GPU is there"
    elif OPENVINO in available:
        chosen, why = OPENVINO, "the fastest on a CPU"
    else:
        chosen, why = CPU, f"{_PACKAGES[OPENVINO]} is not installed"
    if chosen not in available and chosen != RTX:  # a plug-in, which is not listed
        raise ModelError(
            f"ONNX Runtime has no {chosen} (it has {', '.join(available)}). Remedy: "
            f"pip uninstall onnxruntime onnxruntime-openvino onnxruntime-gpu, then pip install "
            f"{_PACKAGES[chosen]} (they share one folder, so only one of them may be installed)"
        )
    return _with_precision(chosen, precision, why, flags, ours)


def _with_precision(
    chosen: str, precision: str, why: str, flags: Collection[str], ours: bool
) -> Choice:
    if chosen != OPENVINO:
        # These run a graph in the types it has; a GPU's FP16 comes from the model file.
        if precision not in ("auto", "fp32"):
            raise ModelError(
                f"precision {precision} is for the OpenVINO provider; {chosen} runs a model in the "
                "types of its file. Remedy: precision: auto, or provider: openvino"
            )
        return Choice(chosen, "fp32", why)
    if precision != "auto":
        return Choice(chosen, precision, f"{why}, precision as configured")
    if not ours:
        return Choice(chosen, "fp32", f"{why}, no RF-DETR of `tridetr models fuse`: exact")
    found = next((flag for flag in _BF16_FLAGS if flag in flags), None)
    if found:
        return Choice(chosen, "bf16", f"{why}, the CPU has {found}")
    return Choice(chosen, "fp32", f"{why}, the CPU does not multiply bf16 in hardware")
