"""Finds the server that the `nvidia-pytriton` wheel carries and lays out what it needs to run.

The wheel brings `tritonserver` and its Python backend, no others. Our own Python-based backends stand in for the
missing ones under their names, so that the model repository is the same as for NVIDIA's container.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.triton.endpoint import SECRET_KEY

INSTALL = "pip install --no-deps nvidia-pytriton==0.7.0"
STUB = "triton_python_backend_stub"
SOCKET_PATH_LIMIT = 107  # sizeof(sockaddr_un.sun_path) - 1
# The backend's pool in /dev/shm, taken at start; it holds the frame in work, and 4K I420 is 12.4 MB.
_POOL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Server:
    """An installed server."""

    binary: Path
    backends: Path
    stub: Path
    library_path: str

    def knows(self, option: str) -> bool:
        """Whether this server has a command-line option (its name stands in the binary)."""
        return option.encode() in self.binary.read_bytes()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one embedded server keeps its files, all below `run_dir/triton`."""

    root: Path
    socket: Path

    @property
    def repository(self) -> Path:
        """The rendered model repository."""
        return self.root / "models"

    @property
    def backends(self) -> Path:
        """The backend directory."""
        return self.root / "backends"

    @property
    def engine_report(self) -> Path:
        """What the engine says about itself."""
        return self.root / "engine.json"

    @property
    def address(self) -> str:
        """The gRPC target of clients (Triton appends a port to the socket's name)."""
        return f"unix:{self.socket}:1"


def layout(run_dir: Path) -> Layout:
    """Return the files of the server of this run directory.

    Raises:
        TritonError: the run directory's name is too long for a Unix socket.
    """
    root = run_dir.resolve() / "triton"
    made = Layout(root, root / "grpc")
    longest = SOCKET_PATH_LIMIT - len(":1")
    if len(str(made.socket).encode()) > longest:
        raise TritonError(
            f"run_dir {run_dir} is too long for a Unix socket ({made.socket} has more than "
            f"{longest} bytes). Remedy: set run_dir to a shorter path"
        )
    return made


def find_server() -> Server:
    """Return the installed server.

    Raises:
        TritonError: it, or something it needs, is missing; says how to install it.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise TritonError(
            f"the embedded Triton exists for Linux on x86_64 only (this is {sys.platform} on "
            f"{platform.machine()}). Remedy: run NVIDIA's container and set triton.url"
        )
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise TritonError(f"the Triton server is not installed. Remedy: {INSTALL}")
    package = Path(spec.submodule_search_locations[0])
    root = package / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = Server(
        binary=root / "bin" / "tritonserver",
        backends=root / "backends",
        stub=root / "python_backend_stubs" / python / STUB,
        library_path=os.pathsep.join((
            str(_libpython_dir()), str(package.parent / "nvidia_pytriton.libs")
        )),
    )  # fmt: skip
    for needed in (server.binary, server.backends / "python", server.stub):
        if not needed.exists():
            raise TritonError(
                f"the Triton server is incomplete ({needed} is missing; Python {python}). "
                f"Remedy: pip install --force-reinstall --no-deps nvidia-pytriton==0.7.0"
            )
    return server


def _libpython_dir() -> Path:
    """Return the folder of the shared libpython, which the backend's stub links."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    library_dir = sysconfig.get_config_var("LIBDIR") or "/usr/lib"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = (
        library_dir, f"{sys.base_prefix}/lib", f"/usr/lib/{multiarch}", "/usr/lib", "/usr/lib64",
    )  # fmt: skip
    for folder in map(Path, folders):
        if (folder / name).exists():
            return folder
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise TritonError(
        f"{name} is missing (Triton's Python backend needs it). Remedy: apt-get install "
        f"libpython{version}, or for pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {version}"
    )


def prepare_backends(server: Server, target: Path) -> None:
    """Lay out a private backend directory: the wheel's Python backend with its stub, and ours.

    Copies, not links: the server refuses a backend library that lies outside its directory.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        server.backends / "python", target / "python", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy2(server.stub, target / "python" / STUB)
    ours = Path(__file__).resolve().parent / "backends"
    for backend in sorted(ours.glob("*/model.py")):
        (target / backend.parent.name).mkdir()
        shutil.copy2(backend, target / backend.parent.name / "model.py")


def environment(server: Server, base: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment: its libraries, and this Python for the backend's stub."""
    package_parent = str(Path(__file__).resolve().parents[2])
    variables = dict(base)
    variables["LD_LIBRARY_PATH"] = _prepend(server.library_path, base.get("LD_LIBRARY_PATH"))
    # The stub takes the first python3 on the PATH, and finds tridetr by PYTHONPATH where it is not installed.
    variables["PATH"] = _prepend(str(Path(sys.executable).parent), base.get("PATH"))
    variables["PYTHONPATH"] = _prepend(package_parent, base.get("PYTHONPATH"))
    return variables


def _prepend(first: str, rest: str | None) -> str:
    return os.pathsep.join((first, rest)) if rest else first


def command(config: Config, server: Server, files: Layout, secret: str) -> list[str]:
    """Return the server's command line.

    Args:
        config: the node's configuration.
        server: the installed server.
        files: its folders.
        secret: key of the restricted APIs (shared memory, model repository, trace, logging).
    """
    restricted = f"shared-memory,model-repository,trace,logging:{SECRET_KEY}={secret}"
    metrics_port = config.triton.metrics_port
    python_options = {
        "shm-region-prefix-name": region_prefix(config.instance),
        "shm-default-byte-size": str(_POOL_BYTES),
        "shm-growth-byte-size": str(8 << 20),
        "stub-timeout-seconds": "60",
    }
    line = [
        str(server.binary),
        f"--model-repository={files.repository}",
        f"--backend-directory={files.backends}",
        "--model-control-mode=explicit",
        f"--load-model={config.model.name}",
        "--strict-readiness=true",
        "--disable-auto-complete-config",  # the rendered one is complete; saves a start of the stub
        "--exit-timeout-secs=5",
        "--log-format=ISO8601",
        "--allow-http=false",
        f"--grpc-address=unix:{files.socket}",
        "--grpc-port=1",
        f"--grpc-restricted-protocol={restricted}",
        f"--allow-metrics={'true' if metrics_port else 'false'}",
        *(f"--backend-config=python,{key}={value}" for key, value in python_options.items()),
        *(f"--trace-config={setting}" for setting in trace_settings(config)),
    ]
    if metrics_port:
        line += [
            "--metrics-address=127.0.0.1", f"--metrics-port={metrics_port}",
            "--metrics-config=summary_latencies=true",
        ]  # fmt: skip
    if server.knows("allow-client-shm"):  # from 2.68 on, and off unless it is given
        line.append("--allow-client-shm=true")
    return line


def region_prefix(instance: str) -> str:
    """Return the prefix of the Python backend's own shared-memory regions."""
    return f"tridetr-{instance}-triton-"


def trace_settings(config: Config) -> list[str]:
    """Return the `--trace-config` values: requests that carry a `traceparent` become spans of their trace."""
    if config.otel.endpoint is None:
        return []
    return [
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=0",  # none but those that a sampled frame asks for
        f"opentelemetry,url={config.otel.endpoint.rstrip('/')}/v1/traces",
        "opentelemetry,resource=service.name=tridetr-triton",
    ]
