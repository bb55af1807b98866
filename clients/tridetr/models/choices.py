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
