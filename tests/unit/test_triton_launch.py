from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.triton import installation, launch
from tridetr.triton.endpoint import Endpoint, read_endpoint, remove_endpoint, write_endpoint

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def config(tmp_path: Path, **sections: object) -> Config:
    cameras = {"a": {"source": "synthetic"}}
    return Config.model_validate(
        {"instance": "x1", "cameras": cameras, "run_dir": str(tmp_path), **sections}
    )


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of an installed wheel."""
    root = tmp_path / "site" / "pytriton" / "tritonserver"
    for file in ("bin/tritonserver", "backends/python/libtriton_python.so"):
        (root / file).parent.mkdir(parents=True)
        (root / file).write_text("the server")
    stub = root / "python_backend_stubs" / PYTHON / installation.STUB
    stub.parent.mkdir(parents=True)
    stub.write_text("the stub")
    spec = SimpleNamespace(submodule_search_locations=[str(root.parent)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    for module in (installation, launch):
        monkeypatch.setattr(module, "libpython_dir", lambda: Path("/opt/python/lib"))
    monkeypatch.setattr(installation, "NVIDIA_HOME", tmp_path / "no-such-server")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return root


@pytest.fixture
def nvidia(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of NVIDIA's container; the wheel is installed as well, but not used."""
    home = tmp_path / "opt" / "tritonserver"
    monkeypatch.setattr(installation, "NVIDIA_HOME", home)
    for file in (
        "bin/tritonserver",
        "lib/libtritonserver.so",
        "backends/onnxruntime/libtriton_onnxruntime.so",
        "backends/tensorrt/libtriton_tensorrt.so",
        "backends/python/libtriton_python.so",
    ):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text("allow-client-shm")
    (home / "backends" / "python" / installation.STUB).write_bytes(
        f"libpython{PYTHON}.so.1.0".encode()
    )
    (home / "TRITON_VERSION").write_text("2.68.0\n")
    return home


def command(tmp_path: Path, backend: str = "onnxruntime", **sections: object) -> list[str]:
    found, files = installation.find_server(), launch.Layout(tmp_path, tmp_path)
    backends = launch.prepare_backends(found, backend, files)
    made = config(tmp_path, **sections)
    port = made.triton.metrics_port
    return launch.command(made, found, files, backends, "s3cret", port)


def test_the_wheel_is_found(wheel: Path) -> None:
    found = installation.find_server()
    assert found.binary == wheel / "bin" / "tritonserver"
    assert found.version == "2.51.0"
    assert found.library_path.split(os.pathsep) == [
        "/opt/python/lib",
        str(wheel.parent.parent / "nvidia_pytriton.libs"),
    ]
    assert not found.is_native("onnxruntime")


def test_a_missing_part_is_reported_with_the_remedy(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wheel / "python_backend_stubs" / PYTHON / installation.STUB).unlink()
    with pytest.raises(TritonError, match=f"{installation.STUB}.* Remedy: pip install"):
        installation.find_server()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TritonError, match=r"pip install --no-deps nvidia-pytriton==0\.7\.0"):
        installation.find_server()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(TritonError, match=r"aarch64.*triton\.url"):
        installation.find_server()


def test_a_missing_libpython_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(TritonError, match=rf"libpython{PYTHON}\.so.*apt-get install"):
        installation._needed_libpython_dir()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_nvidias_server_is_preferred_to_the_wheel(
    nvidia: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    found = installation.find_server()
    assert found.binary == nvidia / "bin" / "tritonserver"
    assert found.version == "2.68.0"
    assert found.is_native("onnxruntime")
    assert found.is_native("tensorrt")
    assert found.library_path.split(os.pathsep) == [str(nvidia / "lib"), "/opt/python/lib"]


def test_the_version_can_come_from_the_environment(
    nvidia: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nvidia / "TRITON_VERSION").unlink()
    monkeypatch.setenv("TRITON_SERVER_VERSION", "2.62.0")
    assert installation.find_server().version == "2.62.0"


def test_a_configured_folder_without_a_server_is_refused(nvidia: Path, tmp_path: Path) -> None:
    with pytest.raises(TritonError, match=r"not contain a Triton server .*triton\.server_dir"):
        installation.find_server(tmp_path)


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_a_native_backend_is_used_directly(nvidia: Path, tmp_path: Path, backend: str) -> None:
    line = command(tmp_path, backend)
    assert f"--backend-directory={nvidia / 'backends'}" in line
    assert not [word for word in line if word.startswith("--backend-config=python")]
    assert "--allow-client-shm=true" in line
    assert not launch.Layout(tmp_path, tmp_path).backends.exists()


def test_our_backend_replaces_a_missing_native_one(nvidia: Path, tmp_path: Path) -> None:
    (nvidia / "backends" / "onnxruntime" / "libtriton_onnxruntime.so").unlink()
    line = command(tmp_path)
    assert "--backend-directory=server/tritonserver/backends" in line
    ours = launch.Layout(tmp_path, tmp_path).backends
    assert [word for word in line if word.startswith("--backend-config=python,stub-timeout")]
    assert (ours / "onnxruntime" / "model.py").is_file()
    assert (ours / "python" / installation.STUB).is_file()


@pytest.mark.parametrize(
    ("stub", "said"),
    [
        (None, "nor a Python backend to replace it"),
        (b"libpython2.7.so.1.0", "is for Python 2.7"),
    ],
)
def test_our_backend_needs_a_python_backend_for_this_python(
    nvidia: Path, tmp_path: Path, stub: bytes | None, said: str
) -> None:
    (nvidia / "backends" / "tensorrt" / "libtriton_tensorrt.so").unlink()
    path = nvidia / "backends" / "python" / installation.STUB
    path.unlink() if stub is None else path.write_bytes(stub)
    with pytest.raises(TritonError, match=f"{said}.*Remedy"):
        command(tmp_path, "tensorrt")


def test_the_server_is_closed_to_other_users(wheel: Path, tmp_path: Path) -> None:
    line = command(tmp_path)
    assert "--allow-http=false" in line
    assert "--grpc-address=unix:grpc" in line  # relative to its working directory
    assert "--metrics-address=unix:stats" in line
    ported = command(tmp_path, triton={"metrics_port": 8002})
    assert {"--metrics-address=127.0.0.1", "--metrics-port=8002"} <= set(ported)
    (restricted,) = [word for word in line if word.startswith("--grpc-restricted-protocol=")]
    assert restricted.endswith("=shared-memory,model-repository,trace,logging:tridetr=s3cret")
    assert "--backend-config=python,shm-region-prefix-name=tridetr-x1-triton-" in line
    assert not [word for word in line if "client-shm" in word or "trace-config" in word]


def test_options_that_only_some_servers_have(wheel: Path, tmp_path: Path) -> None:
    (wheel / "bin" / "tritonserver").write_text("... allow-client-shm ...")
    sections: dict[str, Any] = {
        "otel": {"endpoint": "http://127.0.0.1:4318/"},
    }
    line = command(tmp_path, **sections)
    assert "--allow-client-shm=true" in line
    assert "--trace-config=opentelemetry,url=http://127.0.0.1:4318/v1/traces" in line


def test_the_backends_are_copied_with_the_stub(wheel: Path, tmp_path: Path) -> None:
    files = launch.Layout(tmp_path, tmp_path)
    target = files.backends
    for _ in range(2):  # the second time over the first
        assert launch.prepare_backends(installation.find_server(), "onnxruntime", files) == target
    assert (target / "python" / installation.STUB).read_text() == "the stub"
    text = (target / "onnxruntime" / "model.py").read_text()
    assert text.isascii()
    assert str(Path(launch.__file__).parents[2]) in text
    assert not [path for path in target.rglob("*") if path.is_symlink()]


def test_a_stub_that_bundles_libpython_uses_the_systems(wheel: Path, tmp_path: Path) -> None:
    stub = wheel / "python_backend_stubs" / PYTHON / installation.STUB
    stub.write_bytes(b"...\0libpython3-419a3a08.13.so.1.0\0...")
    files = launch.Layout(tmp_path, tmp_path)
    for _ in range(2):
        launch.prepare_backends(installation.find_server(), "onnxruntime", files)
    (link,) = files.libraries.iterdir()
    assert link.name == "libpython3-419a3a08.13.so.1.0"
    assert link.readlink() == Path("/opt/python/lib") / installation.LIBPYTHON
    stub.write_bytes(f"...\0libpython{PYTHON}.so.1.0\0...".encode())
    launch.prepare_backends(installation.find_server(), "onnxruntime", files)
    assert not files.libraries.exists()


def test_copied_programs_search_libraries_only_in_the_private_folder(tmp_path: Path) -> None:
    """Their RPATH leads four folders up: with a `run_dir` in /tmp, that was once a folder open to all users."""
    try:
        found = installation.find_server()
    except TritonError as error:
        pytest.skip(str(error))
    files = launch.Layout(tmp_path, tmp_path)
    backends = launch.prepare_backends(found, "onnxruntime", files)
    programs = [
        path for path in backends.rglob("*") if path.name.startswith(("lib", installation.STUB))
    ]
    assert len(programs) == 2
    for program in programs:
        searched = re.findall(rb"\$ORIGIN(/[^\0:]+)", program.read_bytes())
        assert searched, program
        for folder in searched:
            path = os.path.normpath(f"{program.parent}{folder.decode()}")
            assert Path(path) == files.libraries


def test_the_environment_finds_libraries_and_python(wheel: Path, tmp_path: Path) -> None:
    base = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/x", "HOME": "/root"}
    files = launch.Layout(tmp_path, tmp_path)
    made = launch.environment(installation.find_server(), files, base)
    assert made["LD_LIBRARY_PATH"].endswith("nvidia_pytriton.libs:/x")
    assert made["PATH"] == f"{sys.base_prefix}/bin:/usr/bin"
    assert made["TMPDIR"] == str(files.temporary)
    assert made["HOME"] == "/root"


def test_a_run_dir_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TritonError, match="run_dir to a shorter path"):
        launch.Layout(tmp_path / ("x" * 120), tmp_path)


def test_a_written_endpoint_can_be_read_and_is_private(tmp_path: Path) -> None:
    assert read_endpoint(tmp_path) is None
    endpoint = Endpoint("unix:/x", str(tmp_path / "secret"), 12, None)
    write_endpoint(tmp_path, endpoint)
    assert read_endpoint(tmp_path) == endpoint
    assert (tmp_path / "triton.json").stat().st_mode & 0o777 == 0o600
    assert endpoint.metadata() == ()  # no such file: the server reports the error
    (tmp_path / "secret").write_text("s3cret\n")
    assert endpoint.metadata() == (("triton-grpc-protocol-tridetr", "s3cret"),)
    (tmp_path / "triton.json").write_text('{"address": "unix:/x", "unknown": 1}')
    assert read_endpoint(tmp_path) is None
    remove_endpoint(tmp_path)
    remove_endpoint(tmp_path)


def test_folders_of_packages_that_the_stub_cannot_use_get_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "Projekte ü" / "tridetr" / "triton" / "backends"
    monkeypatch.setattr(launch, "_OURS", ours)
    for _ in range(2):
        assert f"'{tmp_path}/packages/0'" in launch.backend_module("x", tmp_path / "packages")
    assert (tmp_path / "packages" / "0").readlink() == tmp_path / "Projekte ü"
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(TritonError, match="Remedy: set run_dir"):
        launch.backend_module("x", tmp_path / "ü" / "packages")
