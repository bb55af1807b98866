"""Choose the execution provider and precision of ONNX Runtime.

`tridetr.plan` decides where the model runs. The rest depends on facts that are only known in the model's process: the
providers of the ONNX Runtime that is imported there, which may differ from the installed packages, and the model file.

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
    """An execution provider of ONNX Runtime, its precision, and the reason for the choice."""

    provider: str
    precision: str
    reason: str


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the feature flags of this CPU as named by Linux; empty if unknown."""
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
    """Choose the provider and precision.

    Args:
        provider: `auto`, `auto-cpu`, `auto-cuda`, or one by name (`cpu`, `openvino`, `cuda`, `tensorrt`).
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        available: the providers of the installed ONNX Runtime.
        flags: feature flags of the CPU.
        gpu: whether Triton placed the instance on a GPU.
        ours: whether `tridetr models fuse` made the model (an RF-DETR). Other models never use bf16 by default, whose
            effect on them is unknown: a YOLOX whose two best anchors are nearly equal reports the other one.

    Raises:
        ModelError: the configured provider is not available, or does not support the configured precision.
    """
    if provider in _BY_NAME:
        chosen, why = _BY_NAME[provider], "as configured"
    elif provider == "auto-cuda" or (provider == "auto" and gpu and CUDA in available):
        chosen, why = CUDA, "a GPU is there"
    elif OPENVINO in available:
        chosen, why = OPENVINO, "the fastest on a CPU"
    else:
        chosen, why = CPU, f"{_PACKAGES[OPENVINO]} is not installed"
    if chosen not in available and chosen != RTX:  # a plug-in, which is never listed
        raise ModelError(
            f"ONNX Runtime has no {chosen} (available: {', '.join(available)}). Remedy: "
            f"pip uninstall onnxruntime onnxruntime-openvino onnxruntime-gpu, then pip install "
            f"{_PACKAGES[chosen]} (they share one folder, so only one of them may be installed)"
        )
    return _with_precision(chosen, precision, why, flags, ours)


def _with_precision(
    chosen: str, precision: str, why: str, flags: Collection[str], ours: bool
) -> Choice:
    if chosen != OPENVINO:
        # These run a graph in its own data types; FP16 on a GPU needs an FP16 model file.
        if precision not in ("auto", "fp32"):
            raise ModelError(
                f"precision {precision} is for the OpenVINO provider; {chosen} runs a model in the "
                "types of its file. Remedy: precision: auto, or provider: openvino"
            )
        return Choice(chosen, "fp32", why)
    if precision != "auto":
        return Choice(chosen, precision, f"{why}, precision as configured")
    if not ours:
        return Choice(
            chosen, "fp32", f"{why}, exact because `tridetr models fuse` did not make the model"
        )
    found = next((flag for flag in _BF16_FLAGS if flag in flags), None)
    if found:
        return Choice(chosen, "bf16", f"{why}, the CPU has {found}")
    return Choice(chosen, "fp32", f"{why}, the CPU does not multiply bf16 in hardware")
