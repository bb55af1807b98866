"""Find the installed Triton server: NVIDIA's distribution, or the one in the `nvidia-pytriton` wheel.

NVIDIA's distribution (`/opt/tritonserver` in the container, or an unpacked release for Jetson) contains native
backends. The wheel contains only `tritonserver` and its Python backend.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tridetr.errors import TritonError

INSTALL = "pip install --no-deps nvidia-pytriton==0.7.0"
NVIDIA_HOME = Path("/opt/tritonserver")
STUB = "triton_python_backend_stub"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON = f"libpython{_PYTHON}.so.1.0"


@dataclass(frozen=True, slots=True)
class Server:
    """An installed server.

    Attributes:
        binary: the `tritonserver` executable.
        backends: its backend directory.
        library_path: folders to prepend to `LD_LIBRARY_PATH`; empty = none.
        version: version of the server; empty if unknown.
        stub: stub executable of the Python backend; None if the server has no Python backend.
    """

    binary: Path
    backends: Path
    library_path: str
    version: str
    stub: Path | None

    def knows(self, option: str) -> bool:
        """Return whether this server has a command-line option: whether the binary contains its name."""
        return option.encode() in self.binary.read_bytes()

    def is_native(self, backend: str) -> bool:
        """Return whether the server has a native library for this backend."""
        return (self.backends / backend / f"libtriton_{backend}.so").is_file()


def find_server(server_dir: Path | None = None) -> Server:
    """Return the installed server: the given one, otherwise NVIDIA's, otherwise the wheel's.

    Args:
        server_dir: folder of a server (`bin/tritonserver`, `backends/`); None = search the usual places.

    Raises:
        TritonError: the server or one of its dependencies is missing; the message explains how to install it.
    """
    home = server_dir or NVIDIA_HOME
    if server_dir is not None or (home / "bin" / "tritonserver").is_file():
        return _installed(home)
    return _of_wheel()


def _installed(home: Path) -> Server:
    binary, backends = home / "bin" / "tritonserver", home / "backends"
    for needed in (binary, backends):
        if not needed.exists():
            raise TritonError(
                f"{home} does not contain a Triton server ({needed} is missing). Remedy: correct triton.server_dir "
                "(in NVIDIA's container it is /opt/tritonserver)"
            )
    stub = backends / "python" / STUB
    libraries = [home / "lib"] if (home / "lib").is_dir() else []
    if stub.is_file():
        libraries += [folder for folder in [libpython_dir()] if folder is not None]
    file = home / "TRITON_VERSION"
    version = file.read_text() if file.is_file() else os.environ.get("TRITON_SERVER_VERSION", "")
    return Server(
        binary=binary,
        backends=backends,
        library_path=os.pathsep.join(map(str, libraries)),
        version=version.strip(),
        stub=stub if stub.is_file() else None,
    )


def _of_wheel() -> Server:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise TritonError(
            "no Triton server is installed. The wheel that contains one exists only for Linux on x86_64 (this is "
            f"{sys.platform} on {platform.machine()}). Remedy: run this in NVIDIA's container "
            "(docker/triton-gpu.Dockerfile), or set triton.server_dir to an unpacked release or triton.url to a "
            "running server"
        )
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise TritonError(f"the Triton server is not installed. Remedy: {INSTALL}")
    package = Path(spec.submodule_search_locations[0])
    root = package / "tritonserver"
    stub = root / "python_backend_stubs" / _PYTHON / STUB
    server = Server(
        binary=root / "bin" / "tritonserver",
        backends=root / "backends",
        library_path=os.pathsep.join((
            str(_needed_libpython_dir()), str(package.parent / "nvidia_pytriton.libs")
        )),
        version="2.51.0",  # of the wheel in INSTALL, which has no version file
        stub=stub,
    )  # fmt: skip
    for needed in (server.binary, server.backends / "python", stub):
        if not needed.exists():
            raise TritonError(
                f"the Triton server is incomplete ({needed} is missing; Python {_PYTHON}). "
                f"Remedy: pip install --force-reinstall --no-deps nvidia-pytriton==0.7.0"
            )
    return server


def check_stub(server: Server, backend: str) -> Path:
    """Return the Python backend's stub, which runs our Python-based backend.

    Raises:
        TritonError: the server has no Python backend for this Python version.
    """
    if server.stub is None:
        raise TritonError(
            f"{server.binary.parent.parent} has neither the backend {backend!r} nor a Python backend to replace it. "
            "Remedy: use an image that has one (NVIDIA's `-py3` images have all backends, `-py3-min` images none)"
        )
    linked = re.search(rb"libpython(\d+\.\d+)\.so", server.stub.read_bytes())
    if linked and linked[1].decode() != _PYTHON:
        raise TritonError(
            f"the Python backend of {server.binary.parent.parent} is for Python {linked[1].decode()}, but tridetr runs "
            f"on {_PYTHON}. Remedy: install tridetr with that Python (in NVIDIA's container: its python3)"
        )
    return server.stub


def libpython_dir() -> Path | None:
    """Return the folder of the shared libpython that the backend's stub needs; None if it is not installed."""
    library_dir = sysconfig.get_config_var("LIBDIR") or "/usr/lib"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = (
        library_dir, f"{sys.base_prefix}/lib", f"/usr/lib/{multiarch}", "/usr/lib", "/usr/lib64",
    )  # fmt: skip
    return next((folder for folder in map(Path, folders) if (folder / LIBPYTHON).exists()), None)


def _needed_libpython_dir() -> Path:
    folder = libpython_dir()
    if folder is None:
        raise TritonError(
            f"{LIBPYTHON} is missing, which Triton's Python backend needs. Remedy: apt-get install "
            f"libpython{_PYTHON}, or with pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {_PYTHON}"
        )
    return folder
