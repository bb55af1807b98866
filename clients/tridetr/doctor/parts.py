"""Checks of the parts: server binary, model, broker, cameras."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from tridetr.config import Config
from tridetr.doctor.finding import Finding
from tridetr.errors import TridetrError
from tridetr.models.store import configured_model, missing_model
from tridetr.paths import model_repository_dir

BACKENDS = {"rfdetr_ort": "onnxruntime", "rfdetr_trt": "tensorrt"}


def check_server(config: Config) -> Iterator[Finding]:
    """The embedded server's binary, or the external server's port."""
    if config.triton.url is not None:
        yield _reachable("Triton", config.triton.url, "start the server, or correct triton.url")
        return
    from tridetr.triton.server import check_stub, find_server

    backend = BACKENDS[config.model.name]
    try:
        server = find_server(config.triton.server_dir)
        native = server.is_native(backend)
        if not native:
            check_stub(server, backend)
    except TridetrError as error:
        yield Finding("Triton", "fault", "there is no server that could serve", str(error))
        return
    whose = "its own" if native else "tridetr's"
    version = f" {server.version}" if server.version else ""
    yield Finding("Triton", "ok", f"{server.binary}{version}, {whose} backend {backend}")


def _is_native(config: Config) -> bool:
    """Whether the server's own backend runs the model."""
    from tridetr.triton.server import find_server

    try:
        return find_server(config.triton.server_dir).is_native(BACKENDS[config.model.name])
    except TridetrError:
        return False


def check_provider(config: Config) -> Iterator[Finding]:
    """ONNX Runtime and its providers (two of its packages in one environment break each other).

    Of no interest where tridetr's Python-based backend does not run.
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
    """The model file."""
    file = config.model.file
    if file is None:
        file = model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
    file = configured_model(file)
    if file.is_file():
        yield Finding("model", "ok", f"{file} ({file.stat().st_size / 1e6:.1f} MB)")
    else:
        why, remedy = missing_model(file).split(" Remedy: ")
        yield Finding("model", "fault", why, remedy)


def check_broker(config: Config) -> Iterator[Finding]:
    """The MQTT broker."""
    if config.mqtt.host != "embedded":
        address = f"{config.mqtt.host}:{config.mqtt.port}"
        yield _reachable("MQTT broker", address, "start it, or correct mqtt.host and mqtt.port")
        return
    if shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"):
        yield Finding("MQTT broker", "ok", "embedded mosquitto")
    elif importlib.util.find_spec("amqtt"):
        yield Finding("MQTT broker", "ok", "embedded amqtt (no mosquitto here)")
    else:
        yield Finding("MQTT broker", "fault", "none to embed", "sudo apt-get install mosquitto")


def check_cameras(config: Config) -> Iterator[Finding]:
    """Whether each source can be reached: files exist, devices open, hosts answer."""
    for name, camera in config.cameras.items():
        subject, source = f"camera {name}", camera.source.text
        if camera.source.kind == "synthetic":
            yield Finding(subject, "ok", "synthetic")
        elif camera.source.kind == "file":
            found = Path(source).is_file()
            yield Finding(
                subject,
                "ok" if found else "fault",
                source if found else f"{source}: no such file",
                "" if found else f"correct cameras.{name}.source",
            )
        elif camera.source.kind == "v4l2":
            yield from _check_device(subject, source)
        else:
            host, port = camera.source.address
            yield _reachable(subject, f"{host}:{port}", "is the camera on, and the address right?")


def _check_device(subject: str, source: str) -> Iterator[Finding]:
    from tridetr.capture.devices import list_cameras

    devices = {device.path: device for device in list_cameras()}
    device = devices.get(str(Path(source).resolve()))
    if device is None:
        there = "; ".join(map(str, devices.values())) or "no camera at all"
        yield Finding(
            subject, "fault", f"{source} is not there", f"plug it in, or choose from: {there}"
        )
    elif device.problem:
        yield Finding(subject, "fault", f"{source} cannot be used", device.problem)
    else:
        yield Finding(subject, "ok", f"{device}: {device.default_choice}")


def _reachable(subject: str, address: str, remedy: str) -> Finding:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
            return Finding(subject, "ok", f"{address} answers")
    except (OSError, ValueError) as error:
        return Finding(subject, "fault", f"{address}: {error}", remedy)
