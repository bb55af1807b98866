"""Choices of the command-line options, in a module that imports nothing heavy."""

from __future__ import annotations

from enum import Enum


class Engine(str, Enum):
    """Execution provider and precision that a model is checked with."""

    CPU = "cpu"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"
    CUDA = "cuda"


class EnginePrecision(str, Enum):
    """Precision of a TensorRT engine: FP16 products, or the data types of the ONNX file."""

    FP16 = "fp16"
    KEEP = "keep"


class Variant(str, Enum):
    """The sizes of RF-DETR."""

    NANO = "nano"
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"
