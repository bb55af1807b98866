"""Choices that the command line offers, apart so that listing them imports nothing heavy."""

from __future__ import annotations

from enum import Enum


class Engine(str, Enum):
    """Execution provider and arithmetic of a check."""

    CPU = "cpu"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"
    CUDA = "cuda"


class Target(str, Enum):
    """Which engines a quantised file is for."""

    CPU = "cpu"
    TENSORRT = "tensorrt"


class Form(str, Enum):
    """Which engines a fused graph is written for: any, or OpenVINO on a CPU."""

    PORTABLE = "portable"
    OPENVINO = "openvino"


class EnginePrecision(str, Enum):
    """What a TensorRT engine computes in: FP16 products, or the types that the ONNX file has."""

    FP16 = "fp16"
    KEEP = "keep"


class Variant(str, Enum):
    """The sizes of RF-DETR."""

    NANO = "nano"
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class FrameColor(str, Enum):
    """Matrix and range of a frame, as written into a model's metadata."""

    BT601_LIMITED = "bt601-limited"
    BT601_FULL = "bt601-full"
    BT709_LIMITED = "bt709-limited"
    BT709_FULL = "bt709-full"

    @property
    def matrix(self) -> str:
        """``bt601`` or ``bt709``."""
        return self.value.split("-")[0]

    @property
    def is_full_range(self) -> bool:
        """Whether the bytes use 0..255 (JPEG) instead of 16..235 and 16..240 (video)."""
        return self.value.endswith("full")
