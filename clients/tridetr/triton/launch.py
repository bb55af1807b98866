"""What one run of the server needs: its folders, backend directory, environment and command line.

Where the server lacks a native backend, our own Python-based one stands in for it under the same name, so that the
model repository is the same everywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.shm.names import triton_region_prefix
from tridetr.triton.endpoint import SECRET_KEY
from tridetr.triton.installation import LIBPYTHON, STUB, Server, check_stub, libpython_dir

SOCKET_PATH_LIMIT = 107  # sizeof(sockaddr_un.sun_path) - 1
_OURS = Path(__file__).resolve().parent / "backends"
# The backend's pool in /dev/shm, taken at start; it holds the frame in work, and 4K I420 is 12.4 MB.
_POOL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one embedded server keeps its files, all below `run_dir/triton`.

    The server runs in `root` and is given relative paths (`relative`): it starts the Python backend by a line for bash,
    in which it quotes nothing, and that Python cannot use paths with letters beyond ASCII.
    """

    root: Path
    socket: Path

    def relative(self, path: Path) -> Path:
        """Return a path as the server, running in `root`, is given it."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else path

    @property
    def repository(self) -> Path:
        """The rendered model repository."""
        return self.root / "models"

    @property
    def backends(self) -> Path:
        """The private backend directory, where ours serve.

        As deep as in the wheel, whose libraries are linked to look for others in the folder `libraries`.
        """
        return self.root / "server" / "tritonserver" / "backends"

    @property
    def libraries(self) -> Path:
        """Where the copied backend looks for libraries first; so it must not be outside the private folder."""
        return self.root / "nvidia_pytriton.libs"

    @property
    def packages(self) -> Path:
        """Links to folders of Python packages whose names the backend's stub cannot use."""
        return self.root / "packages"

    @property
    def temporary(self) -> Path:
        """The server's folder for temporary files."""
        return self.root / "tmp"

    @property
    def engine_report(self) -> Path:
        """What the engine says about itself."""
        return self.root / "engine.json"

    @property
    def engine_cache(self) -> Path:
        """Where an engine may keep what it compiled."""
        return self.root / "engine-cache"

    @property
    def secret(self) -> Path:
        """The key of the restricted APIs, where none is configured."""
        return self.root / "secret"

    @property
    def address(self) -> str:
        """The gRPC target of clients, a URI."""
        return "unix:" + urllib.parse.quote(str(self.socket_file))

    @property
    def socket_file(self) -> Path:
        """The socket as the server makes it: it appends a port to the name."""
        return self.socket.with_name(f"{self.socket.name}:1")


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


def prepare_backends(server: Server, backend: str, files: Layout) -> Path:
    """Return the backend directory to serve from: the server's own where it has the backend, else a private one.

    The private one holds the server's Python backend with its stub, and ours. Copies, not links: the server refuses a
    backend library that lies outside its directory.

    Raises:
        TritonError: there is no Python backend for ours.
    """
    if server.is_native(backend):
        return server.backends
    stub = check_stub(server, backend)
    target = files.backends
    for folder in (target, files.libraries):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        server.backends / "python", target / "python", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy2(stub, target / "python" / STUB)
    _use_own_libpython(stub, files.libraries)
    for model in sorted(_OURS.glob("*/model.py")):
        name = model.parent.name
        (target / name).mkdir()
        (target / name / "model.py").write_text(backend_module(name, files.packages))
    return target


def backend_module(name: str, links: Path) -> str:
    """Return the `model.py` that leads the stub to our backend of this name; it prints why an import fails.

    Args:
        name: the backend.
        links: folder for links to the folders of packages (`_import_path`).

    Raises:
        TritonError: the stub could load nothing from these folders.
    """
    return (
        f"import sys\nimport traceback\n\nsys.path[:0] = {_import_path(links)}\n"
        f"try:\n    from {__package__}.backends.{name}.model import TritonPythonModel  # noqa: F401\n"
        "except BaseException:\n    print(ascii(traceback.format_exc()), flush=True)\n    raise\n"
    )


def _import_path(links: Path) -> str:
    """Return, as a literal, where the stub finds tridetr and the packages that it imports.

    The stub's Python heeds neither PYTHONPATH nor, in a folder with letters beyond ASCII, the `.pth` files of a virtual
    environment. It knows names as ASCII, with escaped bytes for the rest, and from 3.13 on loads no extension module
    by such a name: so those folders get links.
    """
    folders = [str(_OURS.parents[2]), *(path for path in sys.path if path.endswith("-packages"))]
    for number, folder in enumerate(folders):
        if not folder.isascii():
            links.mkdir(parents=True, exist_ok=True)
            link = links / str(number)
            link.unlink(missing_ok=True)
            link.symlink_to(folder)
            folders[number] = str(link)
            if sys.version_info >= (3, 13) and not folders[number].isascii():
                raise TritonError(
                    f"neither {folder} nor run_dir {links.parent.parent} has a name of ASCII letters only, and "
                    "Python 3.13 in Triton's backend loads nothing from such folders. Remedy: set run_dir to one "
                    "of ASCII letters"
                )
    return ascii([os.fsencode(folder).decode("ascii", "surrogateescape") for folder in folders])


def _use_own_libpython(stub: Path, libraries: Path) -> None:
    """Give the stub this Python's library where it was built with one of its own.

    The wheel's stub for Python 3.13 brings a library that has other built-in modules than most systems' Python, so that
    it finds no module for, say, `_datetime`.
    """
    bundled = re.search(rb"libpython3-[0-9a-f]+[0-9.]*\.so\.1\.0", stub.read_bytes())
    folder = libpython_dir()
    if bundled and folder is not None:
        libraries.mkdir(parents=True)
        (libraries / bundled[0].decode()).symlink_to(folder / LIBPYTHON)


def environment(server: Server, files: Layout, base: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment: its libraries, and this Python for the backend's stub."""
    variables = dict(base)
    if server.library_path:
        variables["LD_LIBRARY_PATH"] = _prepend(server.library_path, base.get("LD_LIBRARY_PATH"))
    # The stub takes the first python3 on the PATH; not that of a virtual environment (see `_import_path`).
    variables["PATH"] = _prepend(str(Path(sys.base_prefix) / "bin"), base.get("PATH"))
    variables["TMPDIR"] = str(files.temporary)
    return variables


def _prepend(first: str, rest: str | None) -> str:
    return os.pathsep.join((first, rest)) if rest else first


def command(
    config: Config,
    server: Server,
    files: Layout,
    backends: Path,
    secret: str,
    metrics_port: int,
) -> list[str]:
    """Return the server's command line.

    Args:
        config: the node's configuration.
        server: the installed server.
        files: its folders.
        backends: the backend directory (`prepare_backends`).
        secret: key of the restricted APIs (shared memory, model repository, trace, logging).
        metrics_port: port of its metrics on loopback; 0 = none.
    """
    restricted = f"shared-memory,model-repository,trace,logging:{SECRET_KEY}={secret}"
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
        f"--model-repository={files.relative(files.repository)}",
        f"--backend-directory={files.relative(backends)}",
        "--model-control-mode=explicit",
        f"--load-model={config.model.name}",
        "--strict-readiness=true",
        "--disable-auto-complete-config",  # the rendered one is complete; saves a load of the model
        "--exit-timeout-secs=5",
        "--log-format=ISO8601",
        "--allow-http=false",
        f"--grpc-address=unix:{files.relative(files.socket)}",
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
