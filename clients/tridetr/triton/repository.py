"""Render the model repository that the server loads, from the shipped repository and the model file.

The shipped `config.pbtxt` contains the settings that are the same for all models; batch size, classes and so on come
from the model file's metadata. Triton does not pass ONNX metadata on to its clients, so they are copied to the
configuration's `parameters`.
"""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tridetr.config import Config
from tridetr.errors import ModelError, TridetrError
from tridetr.model_card import Form
from tridetr.models.engine_files import EngineFacts, find_engine, read_facts
from tridetr.models.installed_models import cache_dir, configured_model
from tridetr.paths import model_repository_dir
from tridetr.plan import Placement, check_target
from tridetr.shm.detections.detection_table import NAME_BYTES
from tridetr.telemetry import metrics
from tridetr.triton.model_file import ModelFile, read_model_file
from tridetr.triton.placement import place, profile_settings
from tridetr.triton.trial import Trial, can_try

log = logging.getLogger("tridetr.triton")

Stamp = tuple[int, int, int]
CONFIG_FILE = "config.pbtxt"
MAX_BATCH_SIZE = 8
_KINDS = {"rfdetr_ort": "model.onnx", "rfdetr_trt": "model.plan"}


def read_entry(name: str) -> Any:
    """Return the shipped configuration of a model entry as Triton's `ModelConfig` message.

    Raises:
        ModelError: the file is missing or not a valid `config.pbtxt`.
    """
    path = model_repository_dir() / name / CONFIG_FILE
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        raise ModelError(f"{path}: {error}") from error


def own_name(config: Config) -> str:
    """Return the display name of the configured model: its installed name, its file's name, or `bundled`."""
    if config.model.file is None:
        return "bundled"
    return configured_model(config.model.file).stem.encode()[:NAME_BYTES].decode(errors="ignore")


def model_stamp(config: Config) -> Stamp | None:
    """Return an identity of the model file that changes when the file is replaced; None if the file is missing."""
    try:
        status = configured_model(config.model.file).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def rendered_config(entry: Any, model: ModelFile, extra: Mapping[str, str]) -> Any:
    """Return a copy of a shipped configuration with the values of the model file.

    If the graph has a fixed batch size of 1, its batch dimension becomes part of `dims`, because Triton's batching
    needs a dynamic one.

    Args:
        entry: the shipped configuration.
        model: the model file.
        extra: further parameters.

    Raises:
        ModelError: the graph has a fixed batch size other than 1.
    """
    rendered = copy.deepcopy(entry)
    if model.batch not in (-1, 1):
        raise ModelError(
            f"{model.path} has a fixed batch size of {model.batch}. Remedy: export it with a dynamic batch "
            "(`tridetr models export` does)"
        )
    batched = model.batch == -1
    rendered.max_batch_size = MAX_BATCH_SIZE if batched else 0
    if not batched:
        rendered.ClearField("dynamic_batching")
    shapes = {spec.name: spec.shape for spec in (model.frame, *model.outputs)}
    for tensor in (*rendered.input, *rendered.output):
        shape = shapes[tensor.name]
        tensor.dims[:] = shape[1:] if batched else shape
    for key, value in {**model.card.to_metadata(prefix=""), **extra}.items():
        rendered.parameters[key].string_value = value
    return rendered


def read_configured(config: Config, placement: Placement) -> ModelFile:
    """Read the file of `config.model`, and check that it can be served where the model runs.

    Raises:
        ModelError: the file is missing, does not conform to the contract, or was quantised for other engines.
    """
    model = read_model_file(configured_model(config.model.file))
    check_target(model.card, placement)
    return model


def model_in(repository: Path, name: str) -> Path:
    """Return the path of the model file of an entry."""
    return repository / name / "1" / _KINDS[name]


def render(
    config: Config, target: Path, placement: Placement, *, engine_report: Path, cache: Path
) -> ModelFile:
    """Write the entry of `config.model` to `target`, an empty or previously rendered repository.

    Args:
        config: the node's configuration.
        target: the repository folder for `--model-repository`.
        placement: where the model runs.
        engine_report: path of the report file that our Python-based backend writes.
        cache: folder in which an engine can cache compiled code.

    Returns:
        The model file.

    Raises:
        ModelError: the model file cannot be used (see `read_configured`), or there is no engine for it.
    """
    name = config.model.name
    model = read_configured(config, placement)
    if placement.gpu and model.batch == 1 and len(config.cameras) > 1:
        log.warning(
            "%s has a fixed batch size of 1, so the frames of several cameras cannot be batched. Remedy: export it "
            "with a dynamic batch (`tridetr models export` does)",
            model.path,
        )
    served, facts = model.path, None
    if placement.backend == "tensorrt":
        served, facts = _engine_of(model.path)
    elif placement.graph is Form.OPENVINO:
        served = _for_openvino(model.path, target.parent)
    rendered = rendered_config(
        read_entry(name), model, _extra(config, placement, engine_report, cache)
    )
    place(rendered, placement, config, facts=facts, cache=cache)
    folder = target / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1").mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(text_format.MessageToString(rendered))
    model_in(target, name).symlink_to(served)
    return model


def _extra(
    config: Config, placement: Placement, engine_report: Path, cache: Path
) -> dict[str, str]:
    extra = {"model_name": own_name(config)}
    if config.model.threads:
        extra["intra_op_thread_count"] = str(config.model.threads)
    if not placement.native:  # parameters of our Python-based backend
        extra |= {
            "provider": placement.provider,
            "engine_precision": config.model.precision,
            "engine_report": str(engine_report),
            "cache_dir": str(cache),
        }
        if config.model.provider == "tensorrt":
            extra |= profile_settings(config, MAX_BATCH_SIZE)
    return extra


def _for_openvino(model: Path, run_folder: Path) -> Path:
    """Return the OpenVINO form of a model (`tridetr models fuse --target openvino`), cached if possible."""
    from tridetr.models.gathering import written_for_openvino  # imports onnx

    try:
        return written_for_openvino(model, cache_dir() / "graphs")
    except (OSError, RuntimeError) as error:  # read-only or full; no home folder
        log.debug("cannot cache the OpenVINO form of %s: %s", model, error)
        return written_for_openvino(model, run_folder)


def engine_precision(model: ModelFile) -> str:
    """Return the precision of a model file's TensorRT engine, or `unknown`."""
    _, facts = _engine_of(model.path)
    if facts is None:
        return "unknown"
    return "fp16" if facts.precision == "fp16" else model.card.precision


def _engine_of(model: Path) -> tuple[Path, EngineFacts | None]:
    served = find_engine(model) or model_repository_dir() / "rfdetr_trt" / "1" / "model.plan"
    if not served.is_file():
        raise ModelError(
            f"there is no TensorRT engine for {model}. Remedy: build it on this GPU with `tridetr models build-engine`"
        )
    return served, read_facts(served)


class Replacement:
    """Detects that the model file was replaced after the repository was rendered, and tries the new one."""

    def __init__(self, config: Config, placement: Placement) -> None:
        self._config = config
        self._placement = placement
        self._rendered: Stamp | None = None
        self._seen: Stamp | None = None
        self._refused: Stamp | None = None
        self._accepted: Stamp | None = None
        self._trial: Trial | None = None
        self._is_refused = metrics.MODEL_REFUSED.labels(config.model.name)
        self._is_refused.set(0)

    def is_rendered(self) -> bool:
        """Return whether the rendered repository uses the current model file."""
        return self.was_rendered() and self._rendered == model_stamp(self._config)

    def was_rendered(self) -> bool:
        """Return whether this process has rendered the repository."""
        return self._rendered is not None

    def is_barred(self, *, untried: bool) -> bool:
        """Return whether the current model file must not be served: it was refused, or not tried if ``untried``."""
        stamp = model_stamp(self._config)
        if stamp is None or stamp == self._refused:
            return True
        return untried and stamp != self._accepted

    def rendered(self, stamp: Stamp | None) -> None:
        """Record the identity of the file that was rendered."""
        self._rendered = stamp
        self._is_refused.set(0)

    def refuse(self, stamp: Stamp | None) -> None:
        """Record the identity of a file that cannot be used; None = the file is missing."""
        self._refused = stamp
        self._accepted = None
        self._is_refused.set(1)

    def is_due(self) -> bool:
        """Return whether a new, complete and valid model file exists that runs; logs once why one is rejected."""
        stamp = model_stamp(self._config)
        if stamp in (None, self._rendered, self._refused):
            self._is_refused.set(stamp != self._rendered)
            self._seen = None
            self.close()
            return False
        if stamp != self._seen:
            self._seen = stamp  # it may still be being written: check it at the next call
            self.close()
            return False
        try:
            is_tried = self._is_tried()
        except TridetrError as error:
            self.refuse(stamp)
            log.error("the new model file is rejected, the old model continues to serve: %s", error)
            return False
        if is_tried:
            self._accepted = stamp
        return is_tried

    def close(self) -> None:
        """End a trial that is under way."""
        if self._trial is not None:
            self._trial.close()
            self._trial = None

    def _is_tried(self) -> bool:
        """Return whether the trial of the new model file is over, or impossible here; start it if necessary.

        Raises:
            ModelError: the file cannot be used (see `read_configured`), or does not run.
        """
        if self._trial is None:
            model = read_configured(self._config, self._placement)
            if not self._can_try(model):
                return True
            log.info("trying the new model file before it replaces the model that is served")
            try:
                self._trial = Trial(self._config, model.path)
            except OSError as error:  # no memory, processes or descriptors are left
                log.warning("the new model file cannot be tried: %s", error)
                return True
        if not self._trial.is_over:
            return False
        fault = "" if self._trial.proves_nothing else self._trial.fault
        self.close()
        # A GPU has implementations that the CPU lacks, for example of operators in half precision.
        if fault and not (self._placement.gpu and "NOT_IMPLEMENTED" in fault):
            raise ModelError(fault)
        return True

    def _can_try(self, model: ModelFile) -> bool:
        if self._placement.backend != "onnxruntime" or not can_try():
            return False
        # Only the server's own backend supports one fixed size of frames.
        return not (self._placement.native and -1 not in model.frame.shape[1:])
