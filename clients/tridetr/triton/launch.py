"""What one run of the server needs: its folders, backend directory, environment and command line.

Where the server lacks a native backend, our own Python-based one stands in for it under the same name, so that the
model repository is the same everywhere.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.shm.names import triton_region_prefix
from tridetr.triton.endpoint import SECRET_KEY
from tridetr.triton.server import STUB, Server, check_stub

SOCKET_PATH_LIMIT = 107  # sizeof(sockaddr_un.sun_path) - 1
# The backend's pool in /dev/shm, taken at start; it holds the frame in work, and 4K I420 is 12.4 MB.
_POOL_BYTES = 16 << 20


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
        """The private backend directory, where ours serve."""
        return self.root / "backends"

    @property
    def engine_report(self) -> Path:
        """What the engine says about itself."""
        return self.root / "engine.json"

    @property
    def engine_cache(self) -> Path:
        """Where an engine may keep what it compiled."""
        return self.root / "engine-cache"

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


def prepare_backends(server: Server, backend: str, target: Path) -> Path:
    """Return the backend directory to serve from: the server's own where it has the backend, else a private one.

    The private one holds the server's Python backend with its stub, and ours. Copies, not links: the server refuses a
    backend library that lies outside its directory.

    Raises:
        TritonError: there is no Python backend for ours.
    """
    if server.is_native(backend):
        return server.backends
    stub = check_stub(server, backend)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        server.backends / "python", target / "python", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy2(stub, target / "python" / STUB)
    ours = Path(__file__).resolve().parent / "backends"
    for model in sorted(ours.glob("*/model.py")):
        (target / model.parent.name).mkdir()
        shutil.copy2(model, target / model.parent.name / "model.py")
    return target


def environment(server: Server, base: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment: its libraries, and this Python for the backend's stub."""
    package_parent = str(Path(__file__).resolve().parents[2])
    variables = dict(base)
    if server.library_path:
        variables["LD_LIBRARY_PATH"] = _prepend(server.library_path, base.get("LD_LIBRARY_PATH"))
    # The stub takes the first python3 on the PATH, and finds tridetr by PYTHONPATH where it is not installed.
    variables["PATH"] = _prepend(str(Path(sys.executable).parent), base.get("PATH"))
    variables["PYTHONPATH"] = _prepend(package_parent, base.get("PYTHONPATH"))
    return variables


def _prepend(first: str, rest: str | None) -> str:
    return os.pathsep.join((first, rest)) if rest else first


def command(
    config: Config, server: Server, files: Layout, backends: Path, secret: str
) -> list[str]:
    """Return the server's command line.

    Args:
        config: the node's configuration.
        server: the installed server.
        files: its folders.
        backends: the backend directory (`prepare_backends`).
        secret: key of the restricted APIs (shared memory, model repository, trace, logging).
    """
    restricted = f"shared-memory,model-repository,trace,logging:{SECRET_KEY}={secret}"
    metrics_port = config.triton.metrics_port
    # A server that does not load its Python backend would only warn of options for it.
    python_options = (
        {}
        if backends == server.backends
        else {
            "shm-region-prefix-name": triton_region_prefix(config.instance),
            "shm-default-byte-size": str(_POOL_BYTES),
            "shm-growth-byte-size": str(8 << 20),
            "stub-timeout-seconds": "60",
        }
    )
    line = [
        str(server.binary),
        f"--model-repository={files.repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        f"--load-model={config.model.name}",
        "--strict-readiness=true",
        "--disable-auto-complete-config",  # the rendered one is complete; saves a load of the model
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
