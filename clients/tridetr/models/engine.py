"""Build TensorRT engines on the GPU that will run them, and cache them.

An engine works with one GPU model and one TensorRT version. So it is built on the target machine: in the container of
Triton, which has the same TensorRT, or as a Kubernetes Job. The source is the same ONNX file that ONNX Runtime serves.
Networks are strongly typed: the data types in the graph determine the precision (``half.py``, Q/DQ nodes).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from tridetr.errors import ModelError
from tridetr.files import checksum_of
from tridetr.model_card import Form, Target
from tridetr.models.choices import EnginePrecision
from tridetr.models.engine_files import (
    EngineFacts,
    Profile,
    engines_dir,
    link_engine,
    write_facts,
)
from tridetr.models.half import engine_precision, halve_products
from tridetr.models.installed_models import replacing
from tridetr.models.onnx_file import card_of, load_model
from tridetr.models.tensorrt_module import import_tensorrt


def parse_size(text: str) -> tuple[int, int]:
    """Parse a frame size such as ``1920x1080``.

    >>> parse_size("1920x1080")
    (1920, 1080)

    Raises:
        ModelError: the text is not a frame size.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ModelError(f"{text!r} is not a frame size such as 1920x1080")
    return int(match[1]), int(match[2])


def gpu_name() -> str:
    """Return the name of the first GPU.

    Raises:
        ModelError: this machine has no NVIDIA GPU or driver.
    """
    remedy = (
        "An engine can only be built on the GPU that will run it. Run this on the target machine, in "
        "the container (docker run --gpus all …) or as the chart's Job. Without a GPU, use the model "
        "entry rfdetr_ort."
    )
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        raise ModelError(f"no NVIDIA GPU here: nvidia-smi is missing. {remedy}") from None
    except subprocess.TimeoutExpired:
        raise ModelError(f"nvidia-smi did not answer within 30 s. {remedy}") from None
    names = done.stdout.strip().splitlines()
    if done.returncode or not names:
        cause = (done.stderr or done.stdout).strip() or "it lists no GPU"
        raise ModelError(f"no NVIDIA GPU here: nvidia-smi reports: {cause}. {remedy}")
    return names[0].strip()


def build(
    model: Path,
    *,
    profile: Profile,
    precision: EnginePrecision = EnginePrecision.FP16,
    output: Path | None = None,
    cache: Path | None = None,
    workspace_mib: int = 4096,
    force: bool = False,
    step: Callable[[str], None] = lambda text: None,
) -> Path:
    """Build an engine, or return the cached one.

    Args:
        model: a contract model.
        profile: the frame sizes and batches that the engine must support.
        precision: FP16 products (for a float32 file), or the data types of the file.
        output: file to write; None = the cache (`EngineFacts.file_name`), with a link by which ``rfdetr_trt``
            finds it.
        cache: folder of the cache; None = this machine's.
        workspace_mib: scratch memory for TensorRT on the GPU, in MiB.
        force: build the engine even if it is cached.
        step: called with a description of each step.

    Returns:
        The engine file.

    Raises:
        ModelError: no GPU, no TensorRT, the profile does not fit the model, or TensorRT cannot build the graph; the
            message contains TensorRT's reasons.
    """
    gpu = gpu_name()
    trt = import_tensorrt()
    checksum = checksum_of(model)
    graph = load_model(model)
    precision = engine_precision(graph, precision)
    facts = EngineFacts(gpu, trt.__version__, precision.value, profile)
    cached = (cache or engines_dir()) / facts.file_name(checksum)
    target = output or cached
    if target == cached and cached.is_file() and not force:
        step(f"{cached.name} exists already")
        write_facts(cached, facts)
        link_engine(cached, checksum)
        return cached
    check_profile(graph, profile)
    if precision is EnginePrecision.FP16:
        step("casting the products to float16")
        graph = halve_products(graph)
    step(f"building for {gpu} with TensorRT {trt.__version__} (minutes)")
    plan = _serialise(trt, graph.SerializeToString(), profile, workspace_mib, step)
    with replacing(target) as path:
        path.write_bytes(plan)
    write_facts(target, facts)
    if output is None:
        link_engine(target, checksum)
    return target


def check_profile(graph: onnx.ModelProto, profile: Profile) -> None:
    """Check that a profile fits a graph.

    Raises:
        ModelError: the model is not a portable contract model, was quantised for CPUs, or has a fixed batch size that
            differs from the profile's.
    """
    card = card_of(graph)
    if card.form is not Form.PORTABLE:
        raise ModelError(
            f"the model was written for {card.form.value}, which TensorRT does not support. Remedy: fuse the export "
            "with --target portable"
        )
    if card.quantized_for is Target.CPU:
        raise ModelError(
            "the model was quantised for CPUs, and TensorRT supports only signed activations without a zero point. "
            "Remedy: quantise the original again with `tridetr models quantize … --target tensorrt`"
        )
    frame = graph.graph.input[0]
    if frame.name != "frame":
        raise ModelError(
            f"this is not a contract model (its input is {frame.name!r} instead of 'frame'): fuse it first"
        )
    first = frame.type.tensor_type.shape.dim[0]
    if first.HasField("dim_value") and profile.largest[0] != first.dim_value:
        raise ModelError(
            f"the model has a fixed batch size of {first.dim_value}, but --max-batch is {profile.largest[0]}. "
            "Remedy: export it with a dynamic batch (`tridetr models export` does)"
        )


def network_flags(trt: Any) -> int:
    """Return the creation flags of a strongly typed network; TensorRT 11 and newer have no other kind."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if flag is None or int(trt.__version__.split(".")[0]) >= 11:
        return 0
    return 1 << int(flag)


def _serialise(
    trt: Any, onnx_bytes: bytes, profile: Profile, workspace_mib: int, step: Callable[[str], None]
) -> bytes:
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_bytes):
        reasons = "\n  ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ModelError(f"TensorRT {trt.__version__} cannot parse this graph:\n  {reasons}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    shapes = builder.create_optimization_profile()
    shapes.set_shape("frame", profile.least, profile.usual, profile.largest)
    config.add_optimization_profile(shapes)
    step("TensorRT is trying its kernels")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ModelError(
            f"TensorRT {trt.__version__} could not build the engine; see its messages above (too little "
            f"GPU memory? the workspace has {workspace_mib} MiB)"
        )
    return bytes(plan)
