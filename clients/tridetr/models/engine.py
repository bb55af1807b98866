"""TensorRT engines: built on the GPU that will run them, cached by what they depend on.

An engine serves one GPU model and one TensorRT version, so it is built on the target, in the
container that has Triton (same TensorRT) or as a Kubernetes Job, from the very ONNX file that ONNX
Runtime serves. Networks are strongly typed: precision is what the graph says (``half.py``, Q/DQ).
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from tridetr.errors import ModelError
from tridetr.model_card import Form, ModelCard
from tridetr.models.choices import EnginePrecision
from tridetr.models.engine_files import (
    EngineFacts,
    checksum_of,
    engines_dir,
    link_engine,
    write_facts,
)
from tridetr.models.half import engine_precision, halve_products
from tridetr.models.installed_models import replacing
from tridetr.models.onnx_file import load_model, metadata_of
from tridetr.models.tensorrt_module import import_tensorrt

PROBE_SIZE = (64, 48)
"""Width and height of the frame of `tridetr.triton.server_probe`."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine depends on."""

    gpu: str
    tensorrt: str
    checksum: str
    precision: EnginePrecision
    profile: Profile

    @property
    def file_name(self) -> str:
        """A readable file name that differs where the engine would."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        digest = hashlib.sha256(f"{self.checksum} {self.profile}".encode()).hexdigest()[:12]
        return f"{gpu}_trt{self.tensorrt}_{self.precision.value}_{digest}.plan"

    @property
    def facts(self) -> EngineFacts:
        """What stands beside the engine for those who cannot read it."""
        shapes = self.profile
        return EngineFacts(
            self.gpu, self.tensorrt, self.precision.value,
            shapes.least, shapes.usual, shapes.largest,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Profile:
    """Least, usual and largest shape of the input ``frame`` [B, 3H/2, W]."""

    least: tuple[int, int, int]
    usual: tuple[int, int, int]
    largest: tuple[int, int, int]

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]], max_batch: int) -> Profile:
        """Return the profile that spans all sizes (width, height); the first is the usual one.

        It also takes the tiny frame with which the watcher asks whether the engine still computes.

        Raises:
            ModelError: no size, an odd one, or no good batch.
        """
        if not sizes:
            raise ModelError("give at least one frame size, such as --size 1920x1080")
        if max_batch < 1:
            raise ModelError("the largest batch must be at least 1")
        for width, height in sizes:
            if width < 2 or height < 2 or width % 2 or height % 2:
                raise ModelError(f"{width}x{height} is no I420 frame: both sides must be even")
        widths, rows = [w for w, _ in sizes], [h * 3 // 2 for _, h in sizes]
        return cls(
            (1, min(*rows, PROBE_SIZE[1] * 3 // 2), min(*widths, PROBE_SIZE[0])),
            (1, rows[0], widths[0]),
            (max_batch, max(rows), max(widths)),
        )


def parse_size(text: str) -> tuple[int, int]:
    """Parse ``1920x1080``.

    Raises:
        ModelError: it is no size.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ModelError(f"{text!r} is no frame size; write it like 1920x1080")
    return int(match[1]), int(match[2])


def gpu_name() -> str:
    """Return the name of the first GPU.

    Raises:
        ModelError: this machine has none, or no driver.
    """
    remedy = (
        "An engine can only be built on the GPU that will run it: run this on the target, in the "
        "container (docker run --gpus all …) or as the chart's Job. Without a GPU, use the model "
        "entry rfdetr_ort."
    )
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        raise ModelError(f"no NVIDIA GPU here: nvidia-smi is missing. {remedy}") from None
    except subprocess.TimeoutExpired:
        raise ModelError(f"nvidia-smi does not answer within 30 s. {remedy}") from None
    names = done.stdout.strip().splitlines()
    if done.returncode or not names:
        cause = (done.stderr or done.stdout).strip() or "it names none"
        raise ModelError(f"no NVIDIA GPU here: nvidia-smi says: {cause}. {remedy}")
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
    """Build an engine, or return the one there is.

    Args:
        model: a contract model.
        profile: the frames it shall take.
        precision: FP16 products of a float32 file, or as the file is.
        output: where it goes; None: the cache, under a name that tells what it depends on, with a
            link by which ``rfdetr_trt`` finds it.
        cache: the folder of the cache; None: this machine's.
        workspace_mib: scratch memory for TensorRT on the GPU.
        force: build even if it is cached.
        step: called with what is being done.

    Raises:
        ModelError: no GPU, no TensorRT, or TensorRT refuses the graph (with its reasons).
    """
    gpu = gpu_name()
    trt = import_tensorrt()
    checksum = checksum_of(model)
    graph = load_model(model)
    precision = engine_precision(graph, precision)
    key = EngineKey(gpu, trt.__version__, checksum, precision, profile)
    cached = (cache or engines_dir()) / key.file_name
    target = output or cached
    if target == cached and cached.is_file() and not force:
        step(f"{cached.name} is built already")
        write_facts(cached, key.facts)
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
    write_facts(target, key.facts)
    if output is None:
        link_engine(target, checksum)
    return target


def check_profile(graph: onnx.ModelProto, profile: Profile) -> None:
    """Refuse a profile that the graph cannot take.

    Raises:
        ModelError: no contract model, or a fixed batch.
    """
    card = ModelCard.from_metadata(metadata_of(graph))
    if card.form is not Form.PORTABLE:
        raise ModelError(
            f"the model was written for {card.form.value}, which TensorRT does not take. Remedy: fuse the export "
            "with --target portable"
        )
    frame = graph.graph.input[0]
    if frame.name != "frame":
        raise ModelError("this is no contract model (its input is no `frame`): fuse it first")
    first = frame.type.tensor_type.shape.dim[0]
    if first.HasField("dim_value") and profile.largest[0] != first.dim_value:
        raise ModelError(
            f"the model is fixed to batches of {first.dim_value}, --max-batch is "
            f"{profile.largest[0]}: export with a dynamic batch (`tridetr models export` does)"
        )


def network_flags(trt: Any) -> int:
    """Return the flags of a strongly typed network; from TensorRT 11 on there is no other kind."""
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
        raise ModelError(f"TensorRT {trt.__version__} does not take this graph:\n  {reasons}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    shapes = builder.create_optimization_profile()
    shapes.set_shape("frame", profile.least, profile.usual, profile.largest)
    config.add_optimization_profile(shapes)
    step("TensorRT is trying its kernels")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ModelError(
            f"TensorRT {trt.__version__} could not build the engine; its messages above say why (too "
            f"little GPU memory? the workspace is {workspace_mib} MiB)"
        )
    return bytes(plan)
