from __future__ import annotations

import importlib.util
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.triton import launch
from tridetr.triton.endpoint import Endpoint, read_endpoint, remove_endpoint, write_endpoint

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def config(tmp_path: Path, **sections: object) -> Config:
    cameras = {"a": {"source": "synthetic"}}
    return Config.model_validate(
        {"instance": "x1", "cameras": cameras, "run_dir": str(tmp_path), **sections}
    )


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed wheel, as far as files go."""
    root = tmp_path / "site" / "pytriton" / "tritonserver"
    for file in ("bin/tritonserver", "backends/python/libtriton_python.so"):
        (root / file).parent.mkdir(parents=True)
        (root / file).write_text("the server")
    stub = root / "python_backend_stubs" / PYTHON / launch.STUB
    stub.parent.mkdir(parents=True)
    stub.write_text("the stub")
    spec = SimpleNamespace(submodule_search_locations=[str(root.parent)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(launch, "_libpython_dir", lambda: Path("/opt/python/lib"))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return root


def test_the_wheel_is_found(wheel: Path) -> None:
    server = launch.find_server()
    assert server.binary == wheel / "bin" / "tritonserver"
    assert server.library_path.split(os.pathsep) == [
        "/opt/python/lib",
        str(wheel.parent.parent / "nvidia_pytriton.libs"),
    ]


def test_what_is_missing_is_named_with_the_remedy(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wheel / "python_backend_stubs" / PYTHON / launch.STUB).unlink()
    with pytest.raises(TritonError, match=f"{launch.STUB}.* Remedy: pip install"):
        launch.find_server()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TritonError, match=r"pip install --no-deps nvidia-pytriton==0\.7\.0"):
        launch.find_server()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(TritonError, match=r"aarch64.*triton\.url"):
        launch.find_server()


def test_a_missing_libpython_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(TritonError, match=rf"libpython{PYTHON}\.so.*apt-get install"):
        launch._libpython_dir()


def test_the_command_is_closed_to_others(wheel: Path, tmp_path: Path) -> None:
    files = launch.layout(tmp_path)
    line = launch.command(config(tmp_path), launch.find_server(), files, "s3cret")
    assert "--allow-http=false" in line
    assert f"--grpc-address=unix:{files.socket}" in line
    assert "--metrics-address=127.0.0.1" in line
    (restricted,) = [word for word in line if word.startswith("--grpc-restricted-protocol=")]
    assert restricted.endswith("=shared-memory,model-repository,trace,logging:tridetr=s3cret")
    assert "--backend-config=python,shm-region-prefix-name=tridetr-x1-triton-" in line
    assert not [word for word in line if "client-shm" in word or "trace-config" in word]


def test_options_that_only_some_servers_know(wheel: Path, tmp_path: Path) -> None:
    (wheel / "bin" / "tritonserver").write_text("... allow-client-shm ...")
    sections = {"triton": {"metrics_port": 0}, "otel": {"endpoint": "http://127.0.0.1:4318/"}}
    settings = config(tmp_path, **sections)
    line = launch.command(settings, launch.find_server(), launch.layout(tmp_path), "s")
    assert "--allow-client-shm=true" in line
    assert "--allow-metrics=false" in line
    assert "--trace-config=opentelemetry,url=http://127.0.0.1:4318/v1/traces" in line


def test_the_backends_are_copies_with_the_stub_beside(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "backends"
    for _ in range(2):  # again over the earlier ones
        launch.prepare_backends(launch.find_server(), target)
    assert (target / "python" / launch.STUB).read_text() == "the stub"
    assert (target / "onnxruntime" / "model.py").is_file()
    assert not [path for path in target.rglob("*") if path.is_symlink()]


def test_the_environment_finds_libraries_python_and_tridetr(wheel: Path) -> None:
    base = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/x", "HOME": "/root"}
    made = launch.environment(launch.find_server(), base)
    assert made["LD_LIBRARY_PATH"].endswith("nvidia_pytriton.libs:/x")
    assert made["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert (Path(made["PYTHONPATH"].split(":")[0]) / "tridetr").is_dir()
    assert made["HOME"] == "/root"


def test_a_run_dir_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TritonError, match="run_dir to a shorter path"):
        launch.layout(tmp_path / ("x" * 120))


def test_the_endpoint_file_comes_back_and_is_private(tmp_path: Path) -> None:
    assert read_endpoint(tmp_path) is None
    endpoint = Endpoint("unix:/x", str(tmp_path / "secret"), 12, None)
    write_endpoint(tmp_path, endpoint)
    assert read_endpoint(tmp_path) == endpoint
    assert (tmp_path / "triton.json").stat().st_mode & 0o777 == 0o600
    assert endpoint.metadata() == ()  # no such file: the server's refusal tells the rest
    (tmp_path / "secret").write_text("s3cret\n")
    assert endpoint.metadata() == (("triton-grpc-protocol-tridetr", "s3cret"),)
    (tmp_path / "triton.json").write_text('{"address": "unix:/x", "unknown": 1}')
    assert read_endpoint(tmp_path) is None
    remove_endpoint(tmp_path)
    remove_endpoint(tmp_path)
