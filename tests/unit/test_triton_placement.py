"""Placement and rendered configuration of the model, for every kind of machine and server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2

from tridetr.config import Config
from tridetr.errors import ModelError
from tridetr.machine import Gpus, Machine, find_gpus
from tridetr.models.engine_files import EngineFacts, Profile
from tridetr.plan import Placement, place_model
from tridetr.triton import placement
from tridetr.triton.placement import place, provider_name
from tridetr.triton.repository import read_entry

NONE, ONE = Gpus(0, "the NVIDIA driver is not installed"), Gpus(1)
HD, VGA = {"width": 1920, "height": 1080}, {"width": 640, "height": 480}
KIND = model_config_pb2.ModelInstanceGroup
FACTS = EngineFacts("GPU", "11.4", "fp16", Profile((1, 72, 64), (1, 1620, 1920), (4, 1620, 1920)))


def config(*cameras: dict[str, int], device: str = "auto", **model: Any) -> Config:
    sizes = cameras or (HD,)
    return Config.model_validate({
        "cameras": {f"c{i}": {"source": "synthetic", **size} for i, size in enumerate(sizes)},
        "device": device,
        "model": model,
    })  # fmt: skip


def decided(settings: Config, gpus: Gpus, *, native: bool, cuda_wheel: bool = False) -> Placement:
    return place_model(settings, Machine(gpus, cuda_wheel, native=native))


@pytest.mark.parametrize(
    ("device", "model", "gpus", "native", "cuda_wheel", "gpu", "other_gpus", "provider"),
    [
        # `auto`: the GPU, if there is one that the engine can use.
        ("auto", {}, NONE, False, False, False, False, "CPUExecutionProvider"),
        ("auto", {}, NONE, True, False, False, False, "CPUExecutionProvider"),
        ("auto", {}, ONE, True, False, True, False, "CUDAExecutionProvider"),
        ("auto", {}, ONE, False, True, True, False, "CUDAExecutionProvider"),
        ("auto", {}, ONE, False, False, False, True, "CPUExecutionProvider"),
        ("auto", {"name": "rfdetr_trt"}, ONE, True, False, True, False, "TensorRT"),
        ("auto", {"name": "rfdetr_trt"}, ONE, False, False, True, False, "TensorRT"),
        # Explicit settings.
        ("cpu", {}, ONE, True, False, False, True, "CPUExecutionProvider"),
        ("auto", {"provider": "openvino"}, ONE, True, False, False, True, "OpenVINOExecutionProvider"),
        ("auto", {"provider": "tensorrt"}, ONE, True, False, True, False, "TensorrtExecutionProvider"),
        ("cuda", {}, ONE, True, False, True, False, "CUDAExecutionProvider"),
    ],
)  # fmt: skip
def test_where_the_model_runs(
    device: str, model: dict[str, str], gpus: Gpus, native: bool, cuda_wheel: bool,
    gpu: bool, other_gpus: bool, provider: str,
) -> None:  # fmt: skip
    settings = config(device=device, **model)
    found = decided(settings, gpus, native=native, cuda_wheel=cuda_wheel)
    assert (found.gpu, found.other_gpus) == (gpu, other_gpus)
    assert provider_name(found, settings) == provider


@pytest.mark.parametrize(
    ("device", "provider", "machine", "native", "told", "graph"),
    [
        ("auto", "auto", Machine(NONE, openvino_wheel=True), False, "auto", "openvino"),
        ("auto", "auto", Machine(NONE), False, "auto", "portable"),
        ("auto", "openvino", Machine(NONE), False, "openvino", "openvino"),
        ("auto", "cpu", Machine(NONE, openvino_wheel=True), False, "cpu", "portable"),
        ("cpu", "auto", Machine(ONE, openvino_wheel=True), False, "auto-cpu", "openvino"),
        ("auto", "auto", Machine(ONE, openvino_wheel=True), False, "auto-cpu", "openvino"),
        ("auto", "auto", Machine(ONE, cuda_wheel=True), False, "auto-cuda", "portable"),
        ("auto", "cuda", Machine(ONE, cuda_wheel=True), False, "cuda", "portable"),
        ("auto", "auto", Machine(NONE, openvino_wheel=True), True, "auto", "portable"),
    ],
)  # fmt: skip
def test_the_provider_and_the_graph_of_the_backend(
    device: str, provider: str, machine: Machine, native: bool, told: str, graph: str
) -> None:
    found = place_model(config(device=device, provider=provider), replace(machine, native=native))
    assert (found.provider, found.graph) == (told, graph)


@pytest.mark.parametrize(
    ("device", "model", "gpus", "said"),
    [
        ("auto", {"name": "rfdetr_trt"}, NONE, "rfdetr_trt needs an NVIDIA GPU: .*not installed.*rfdetr_ort"),
        ("cuda", {}, NONE, "device: cuda needs an NVIDIA GPU"),
        ("auto", {"provider": "cuda"}, NONE, "model.provider: cuda needs"),
        ("auto", {"precision": "bf16"}, ONE, "precision bf16.*types of its file.*precision: auto"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_with_cause_and_remedy(
    device: str, model: dict[str, str], gpus: Gpus, said: str
) -> None:
    with pytest.raises(ModelError, match=f"{said}"):
        decided(config(device=device, **model), gpus, native=True)


def placed(settings: Config, where: Placement, **more: Any) -> Any:
    rendered = read_entry(settings.model.name)
    place(rendered, where, settings, **more)
    return model_config_pb2.ModelConfig.FromString(rendered.SerializeToString())


@pytest.mark.parametrize(
    ("where", "kind", "gpus"),
    [
        (Placement("onnxruntime", True, gpu=False), KIND.KIND_AUTO, []),
        (Placement("onnxruntime", True, gpu=False, other_gpus=True), KIND.KIND_CPU, []),
        (Placement("onnxruntime", True, gpu=True), KIND.KIND_GPU, [0]),
        (Placement("onnxruntime", False, gpu=True), KIND.KIND_GPU, [0]),
    ],
)
def test_the_instance_is_where_the_frames_are(where: Placement, kind: int, gpus: list[int]) -> None:
    (group,) = placed(config(), where).instance_group
    assert (group.kind, list(group.gpus), group.count) == (kind, gpus, 1)


def test_our_backend_gets_tensors_in_gpu_memory_only_on_a_gpu() -> None:
    key = "FORCE_CPU_ONLY_INPUT_TENSORS"
    ours = placed(config(), Placement("onnxruntime", False, gpu=True))
    assert ours.parameters[key].string_value == "no"
    for where in (Placement("onnxruntime", False, False), Placement("onnxruntime", True, True)):
        assert key not in placed(config(), where).parameters


def test_native_onnxruntime_on_a_gpu_uses_cuda_by_default() -> None:
    """Older servers reject an accelerator named `cuda`."""
    rendered = placed(config(), Placement("onnxruntime", True, gpu=True))
    assert not rendered.optimization.HasField("execution_accelerators")
    assert rendered.parameters["cudnn_conv_algo_search"].string_value == "1"


def test_native_onnxruntime_with_tensorrt_keeps_data_types_and_caches_engines(
    tmp_path: Path,
) -> None:
    settings = config(HD, VGA, provider="tensorrt")
    rendered = placed(settings, Placement("onnxruntime", True, gpu=True), cache=tmp_path)
    (accelerator,) = rendered.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP32",
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": str(tmp_path),
        "trt_profile_min_shapes": "frame:1x72x64",
        "trt_profile_opt_shapes": "frame:1x1620x1920",
        "trt_profile_max_shapes": "frame:8x1620x1920",
    }
    unknown = config(HD, {}, provider="tensorrt")
    rendered = placed(unknown, Placement("onnxruntime", True, gpu=True), cache=tmp_path)
    (accelerator,) = rendered.optimization.execution_accelerators.gpu_execution_accelerator
    assert not [key for key in accelerator.parameters if "profile" in key]


def test_native_onnxruntime_with_openvino() -> None:
    settings = config(provider="openvino")
    rendered = placed(settings, Placement("onnxruntime", True, gpu=False))
    (accelerator,) = rendered.optimization.execution_accelerators.cpu_execution_accelerator
    assert accelerator.name == "openvino"
    assert not rendered.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("cameras", "delay"),
    [
        ((HD,), 0),  # no other camera to wait for
        ((HD, VGA), 0),
        ((HD, HD), placement.BATCH_DELAY_US),
        ((HD, {}), placement.BATCH_DELAY_US),  # can be of one size
    ],
)
@pytest.mark.parametrize("name", ["rfdetr_ort", "rfdetr_trt"])
def test_requests_wait_only_if_others_of_their_size_can_come(
    name: str, cameras: tuple[dict[str, int], ...], delay: int
) -> None:
    settings = config(*cameras, name=name)
    where = Placement(read_entry(name).backend, True, gpu=True)
    rendered = placed(settings, where, facts=FACTS)
    assert rendered.HasField("dynamic_batching")
    assert rendered.dynamic_batching.max_queue_delay_microseconds == delay


def specs(rendered: Any) -> list[tuple[int, list[int]]]:
    cuda = rendered.optimization.cuda
    assert cuda.graphs == bool(cuda.graph_spec)
    return [(spec.batch_size, list(spec.input["frame"].dim)) for spec in cuda.graph_spec]


@pytest.mark.parametrize(
    ("cameras", "expected"),
    [
        ((HD,), [(1, [1620, 1920])]),
        ((HD, HD, HD, VGA), [(n, [1620, 1920]) for n in (1, 2, 3)] + [(1, [720, 640])]),
        ((HD,) * 6, [(n, [1620, 1920]) for n in (1, 2, 3, 4)]),  # the engine's largest batch is 4
        (({},), []),  # the size is unknown
        (({"width": 3840, "height": 2160},), []),  # larger than the engine supports
    ],
)
def test_cuda_graphs_for_the_configured_sizes(
    cameras: tuple[dict[str, int], ...], expected: list[tuple[int, list[int]]]
) -> None:
    where = Placement("tensorrt", True, gpu=True)
    rendered = placed(config(*cameras, name="rfdetr_trt"), where, facts=FACTS)
    assert rendered.max_batch_size == 4
    assert specs(rendered) == expected


def test_cuda_graphs_of_a_model_without_batches() -> None:
    """Triton requires batch size 0 and the whole shape in this case."""
    rendered, where = read_entry("rfdetr_trt"), Placement("tensorrt", True, gpu=True)
    rendered.max_batch_size = 0
    rendered.ClearField("dynamic_batching")
    place(rendered, where, config(name="rfdetr_trt"), facts=FACTS)
    assert specs(rendered) == [(0, [1, 1620, 1920])]
    assert rendered.max_batch_size == 0
    assert not rendered.HasField("dynamic_batching")


def test_a_missing_driver_means_no_gpu_and_has_a_reason() -> None:
    assert find_gpus("libtridetr-no-such-driver.so") == Gpus(
        0, "the NVIDIA driver is not installed (libtridetr-no-such-driver.so is missing)"
    )
