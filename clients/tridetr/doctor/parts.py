"""Check the inference server, ONNX Runtime and the model file."""

from __future__ import annotations

import difflib
import importlib.util
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from tridetr.config import Config
from tridetr.contract import COCO_91
from tridetr.doctor.finding import Finding, Level
from tridetr.errors import TridetrError
from tridetr.model_card import NAME_CLASSES
from tridetr.models.installed_models import configured_model
from tridetr.plan import BACKENDS, Placement, check_target, place_model
from tridetr.triton.trial import Trial, can_try

_SHOWN_CLASSES = 10


def check_server(config: Config) -> Iterator[Finding]:
    """Check the embedded server's installation, or that the external server's port is open."""
    if config.triton.url is not None:
        yield _reachable("Triton", config.triton.url, "start the server, or correct triton.url")
        return
    from tridetr.triton.installation import check_stub, find_server

    backend = BACKENDS[config.model.name]
    try:
        server = find_server(config.triton.server_dir)
        native = server.is_native(backend)
        if not native:
            check_stub(server, backend)
    except TridetrError as error:
        yield Finding("Triton", "fault", "no usable server is installed", str(error))
        return
    whose = "its own" if native else "tridetr's"
    version = f" {server.version}" if server.version else ""
    yield Finding("Triton", "ok", f"{server.binary}{version}, {whose} backend {backend}")


def _is_native(config: Config) -> bool:
    """Whether the server's own backend runs the model."""
    from tridetr.triton.installation import find_server

    try:
        return find_server(config.triton.server_dir).is_native(BACKENDS[config.model.name])
    except TridetrError:
        return False


def check_provider(config: Config) -> Iterator[Finding]:
    """Check ONNX Runtime and its providers: two of its packages in one environment break each other.

    Yields nothing if tridetr's Python-based backend is not used.
    """
    ours = BACKENDS[config.model.name] == "onnxruntime" and not _is_native(config)
    if config.triton.url is not None or not ours:
        return
    if importlib.util.find_spec("onnxruntime") is None:
        yield Finding("ONNX Runtime", "fault", "is not installed", "pip install 'tridetr[server]'")
        return
    from importlib.metadata import distributions

    names = {(dist.metadata["Name"] or "").lower() for dist in distributions()}
    packages = sorted(name for name in names if name.startswith("onnxruntime"))
    if len(packages) > 1:
        yield Finding(
            "ONNX Runtime",
            "fault",
            f"{' and '.join(packages)} share one folder and break each other",
            f"pip uninstall {' '.join(packages)}, then pip install 'tridetr[server]'",
        )
        return
    import onnxruntime

    providers = [str(name) for name in onnxruntime.get_available_providers()]
    yield Finding("ONNX Runtime", "ok", f"{onnxruntime.__version__}: {', '.join(providers)}")


def check_model(config: Config) -> Iterator[Finding]:
    """Check the model file, its target, and that it has the classes that the configuration names."""
    if config.triton.url is not None:
        yield Finding("model", "ok", f"{config.model.name} of the server at {config.triton.url}")
        return
    from tridetr.triton.model_file import read_model_file

    file = configured_model(config.model.file)
    try:
        card = read_model_file(file).card
        if (placement := _placement(config)) is not None:
            check_target(card, placement)
    except (TridetrError, ValueError) as error:
        why, _, remedy = str(error).partition(" Remedy: ")
        yield Finding("model", "fault", why, remedy or "correct model.file")
        return
    classes = card.classes or COCO_91
    if not card.classes:
        yield Finding(
            "model",
            "warning",
            f"{file} does not name its classes: COCO's ids 1 to 90 are assumed, with 1 for person",
            NAME_CLASSES,
        )
    size = f"{file.stat().st_size / 1e6:.1f} MB, {len(classes)} classes"
    yield Finding("model", "ok", f"{file} ({size})")
    for name in config.cameras:
        wanted = {
            "detect.classes": config.detect_for(name).classes,
            "alarm.classes": config.alarm_for(name).classes,
        }
        for key, names in wanted.items():
            for unknown in [wish for wish in names if wish not in classes]:
                nearest = difflib.get_close_matches(unknown, classes, n=1)
                shown = ", ".join(list(classes)[:_SHOWN_CLASSES])
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"its classes are {shown} …"
                text = f"{unknown!r} is not a class of the model, so it is never detected"
                yield Finding(f"camera {name} {key}", "fault", text, hint)


def check_model_runs(config: Config) -> Iterator[Finding]:
    """Load the model with ONNX Runtime and run it once, for `LOADING_S` seconds at most; costs seconds of CPU time.

    Yields nothing if the model file has another fault (see `check_model`) or ONNX Runtime is not installed.
    """
    if config.triton.url is not None or not can_try():
        return
    from tridetr.triton.model_file import read_model_file

    try:
        model = read_model_file(configured_model(config.model.file))
    except (TridetrError, ValueError):
        return
    if -1 not in model.frame.shape[1:] and _is_native(config):
        return  # runs with one size of frame, which only the server's own backend supports
    with closing(Trial(config, model.path)) as trial:
        trial.wait()
        fault, is_doubtful = trial.fault, trial.proves_nothing
    if fault:
        # A GPU may run what the CPU cannot, and a slow machine may take longer.
        level: Level = "warning" if is_doubtful or _on_gpu(config) else "fault"
        why, _, remedy = fault.partition(" Remedy: ")
        yield Finding("model", level, why, remedy)


def _on_gpu(config: Config) -> bool:
    placement = _placement(config)
    return placement is not None and placement.gpu


def _placement(config: Config) -> Placement | None:
    """Return where the model runs; None if it cannot run here as configured, which other checks report."""
    from tridetr.machine import find_machine

    try:
        return place_model(config, replace(find_machine(config), native=_is_native(config)))
    except TridetrError:
        return None


def _reachable(subject: str, address: str, remedy: str) -> Finding:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
            return Finding(subject, "ok", f"{address} answers")
    except (OSError, ValueError) as error:
        return Finding(subject, "fault", f"{address}: {error}", remedy)
