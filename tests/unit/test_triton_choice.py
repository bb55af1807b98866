from __future__ import annotations

from pathlib import Path

import pytest

from tridetr.errors import ModelError
from tridetr.triton.engine.choice import (
    CPU,
    CUDA,
    OPENVINO,
    TENSORRT,
    choose,
    cpu_flags,
)

BF16 = frozenset({"avx512f", "avx512_bf16"})
AVX2 = frozenset({"avx2"})
OV = (OPENVINO, CPU)
GPU = (CUDA, CPU)


@pytest.mark.parametrize(
    ("provider", "precision", "available", "flags", "gpu", "ours", "wanted"),
    [
        ("auto", "auto", OV, BF16, False, True, (OPENVINO, "bf16")),
        ("auto", "auto", OV, frozenset({"amx_bf16"}), False, True, (OPENVINO, "bf16")),
        ("auto", "auto", OV, AVX2, False, True, (OPENVINO, "fp32")),
        ("auto", "auto", OV, BF16, False, False, (OPENVINO, "fp32")),
        ("auto", "bf16", OV, AVX2, False, False, (OPENVINO, "bf16")),
        ("auto", "fp32", OV, BF16, False, True, (OPENVINO, "fp32")),
        ("auto", "auto", (CPU,), BF16, False, True, (CPU, "fp32")),
        ("cpu", "auto", OV, BF16, False, True, (CPU, "fp32")),
        ("auto", "auto", GPU, BF16, True, True, (CUDA, "fp32")),
        ("auto", "auto", GPU, BF16, False, True, (CPU, "fp32")),
        ("auto-cpu", "auto", GPU, BF16, True, True, (CPU, "fp32")),
        ("auto-cuda", "auto", GPU, BF16, False, True, (CUDA, "fp32")),
        ("tensorrt", "auto", (TENSORRT, *GPU), AVX2, True, True, (TENSORRT, "fp32")),
    ],
)
def test_provider_and_precision_are_chosen_for_the_machine(
    provider: str,
    precision: str,
    available: tuple[str, ...],
    flags: frozenset[str],
    gpu: bool,
    ours: bool,
    wanted: tuple[str, str],
) -> None:
    choice = choose(provider, precision, available=available, flags=flags, gpu=gpu, ours=ours)
    assert (choice.provider, choice.precision) == wanted
    assert choice.reason


@pytest.mark.parametrize(
    ("provider", "precision", "available", "said"),
    [
        ("openvino", "auto", (CPU,), "pip install onnxruntime-openvino"),
        ("auto-cuda", "auto", OV, "pip install onnxruntime-gpu"),
        ("cpu", "bf16", OV, "precision bf16 is for the OpenVINO provider"),
    ],
)
def test_impossible_settings_are_refused(
    provider: str, precision: str, available: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        choose(provider, precision, available=available, flags=BF16, gpu=False, ours=True)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16\nflags : none\n", {"fpu", "avx512_bf16"}),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("", set()),
    ],
)
def test_cpu_flags_are_read_from_cpuinfo(tmp_path: Path, text: str, wanted: set[str]) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert cpu_flags(file) == wanted
    assert cpu_flags(tmp_path / "missing") == frozenset()
