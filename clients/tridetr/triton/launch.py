"""Prepare a run of the server: folders, backend directory, environment and command line.

If the server lacks a native backend, our Python-based backend replaces it under the same name, so the model repository
is the same for all servers.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import urllib.parse
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from tridetr.config import Config
from tridetr.errors import TridetrError, TritonError
from tridetr.paths import PUBLIC, private_folder, refuse_other_folder
from tridetr.shm.names import triton_region_prefix
from tridetr.triton.endpoint import SECRET_KEY
from tridetr.triton.installation import LIBPYTHON, STUB, Server, check_stub, libpython_dir

SOCKET_PATH_LIMIT = 107  # sizeof(sockaddr_un.sun_path) - 1
_OURS = Path(__file__).resolve().parent / "backends"
# Size of the Python backend's pool in /dev/shm, allocated at start. It holds the current frame; 4K I420 has 12.4 MB.
_POOL_BYTES = 16 << 20


class Layout:
    """The files of one embedded server, all below `run_dir/triton`.

    The server runs in `root` and gets relative paths (`relative`). It starts the Python backend with a bash command in
    which it does not quote paths, and that Python cannot use paths with non-ASCII characters.

    Attributes:
        root: the folder.
        repository: the rendered model repository.
        backends: the private backend directory, with our Python-based backends. It is nested as deeply as in the
            wheel, because the RPATH of the wheel's libraries leads from there to `libraries`.
        packages: links to folders of Python packages whose paths the backend's stub cannot use.
        temporary: the server's folder for temporary files.
        engine_report: the report file of the engine.
        engine_cache: the folder in which an engine can cache compiled code.
        secret: the file with the key of the restricted APIs, used if none is configured.
        socket: the socket's path as the server gets it.
        socket_file: the socket that the server creates: it appends a port to the name.
        metrics: the socket of its metrics: a port can be used, and filled with requests, by every user.
    """

    def __init__(self, run_dir: Path, state_dir: Path) -> None:
        """Choose the paths in a run folder; those of the code elsewhere, if the run folder is mounted `noexec`.

        Raises:
            TritonError: the path of the run folder is too long for a Unix socket.
        """
        root = self.root = run_dir.resolve() / "triton"
        self._folders = run_dir, state_dir
        self.repository = root / "models"
        self.backends = root / "server" / "tritonserver" / "backends"
        self.packages = root / "packages"
        self.temporary = root / "tmp"
        self.engine_report = root / "engine.json"
        self.engine_cache = root / "engine-cache"
        self.secret = root / "secret"
        self.socket = root / "grpc"
        self.socket_file = root / "grpc:1"
        self.metrics = root / "stats"
        if len(str(self.socket_file).encode()) > SOCKET_PATH_LIMIT:
            longest = SOCKET_PATH_LIMIT - len(":1")
            raise TritonError(
                f"run_dir {run_dir} is too long for a Unix socket ({self.socket} has more than "
                f"{longest} bytes). Remedy: set run_dir to a shorter path"
            )

    def check_private(self) -> None:
        """Create the folders of the server, or check that no other user has taken their names since they were created.

        Raises:
            TritonError: another user has, and could have replaced the code that the server runs.
        """
        folders = [self._folders[0], self.root]
        if (self.root / "server").is_symlink():
            folders.append(self.code.parent)
        try:
            for folder in folders:
                private_folder(folder)
        except TridetrError as error:
            raise TritonError(str(error)) from None

    @cached_property
    def code(self) -> Path:
        """The folder of `backends` and `libraries`: `root`, unless programs in it cannot be executed.

        Raises:
            TritonError: no folder can hold them. A server with native backends needs none.
        """
        return code_folder(*self._folders).resolve() / "triton"

    @property
    def libraries(self) -> Path:
        """The folder that the copied backend searches first for libraries; so it must be inside `code`."""
        return self.code / "nvidia_pytriton.libs"

    @property
    def address(self) -> str:
        """The gRPC target for clients, a `unix:` URI."""
        return "unix:" + urllib.parse.quote(str(self.socket_file))

    def relative(self, path: Path) -> Path:
        """Return a path relative to `root`, where the server runs; paths outside `root` stay as they are."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else path


def prepare_backends(server: Server, backend: str, files: Layout) -> Path:
    """Return the backend directory to use: the server's own if it has the backend, otherwise a private one.

    The private directory contains the server's Python backend with its stub, and our backends. These are copies,
    because the server rejects a backend library outside its backend directory.

    Raises:
        TritonError: the server has no Python backend that can run ours.
    """
    if server.is_native(backend):
        return server.backends
    stub = check_stub(server, backend)
    target = files.backends
    _link_code(files)
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


def code_folder(run_dir: Path, state_dir: Path) -> Path:
    """Return the folder for the server's code: the run folder, or the first other one that can hold it.

    Debian and Ubuntu mount /run `noexec`, and a worn memory card becomes read-only.

    Raises:
        TritonError: all are mounted `noexec` or read-only.
    """
    name = f"tridetr-{os.geteuid()}-code-{sha256(os.fsencode(run_dir.absolute())).hexdigest()[:12]}"
    candidates = (run_dir, state_dir, *(folder / name for folder in PUBLIC))
    folder = next(filter(_can_hold_code, candidates), None)
    if folder is None:
        raise TritonError(
            f"run_dir {run_dir}, state_dir {state_dir} and the temporary folders are mounted `noexec` or read-only, so "
            "Triton's backend cannot be loaded from there. Remedy: set one of them to a folder on another file system, "
            "or mount it with `exec`"
        )
    return folder


def _can_hold_code(folder: Path) -> bool:
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return not os.statvfs(existing).f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    except OSError:  # its disk fails
        return False


def _link_code(files: Layout) -> None:
    """Make the folder of the code part of the server's folder."""
    link = files.root / "server"
    if link.is_symlink():
        link.unlink()
    if files.code == files.root:
        return
    private_folder(files.code.parent, "state_dir")
    refuse_other_folder(files.code, ("server",), "state_dir")
    (files.code / "server").mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(link, ignore_errors=True)
    link.symlink_to(files.code / "server")


def backend_module(name: str, links: Path) -> str:
    """Return a `model.py` that imports our backend of this name in the stub and prints import errors.

    Args:
        name: the backend.
        links: folder for links to the folders of packages (`_import_path`).

    Raises:
        TritonError: the stub could not load packages from these folders.
    """
    return (
        f"import sys\nimport traceback\n\nsys.path[:0] = {_import_path(links)}\n"
        f"try:\n    from {__package__}.backends.{name}.model import TritonPythonModel  # noqa: F401\n"
        "except BaseException:\n    print(ascii(traceback.format_exc()), flush=True)\n    raise\n"
    )


def _import_path(links: Path) -> str:
    """Return the `sys.path` entries for tridetr and its packages in the stub, as a Python literal.

    The stub's Python ignores PYTHONPATH, and in a folder with non-ASCII characters also the `.pth` files of a virtual
    environment. It decodes paths as ASCII with surrogate escapes, and since Python 3.13 it cannot load extension
    modules from such paths. So these folders are replaced by links with ASCII names.
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
                    f"the paths {folder} and run_dir {links.parent.parent} both contain non-ASCII characters, and "
                    "Python 3.13 in Triton's backend cannot load modules from such folders. Remedy: set run_dir "
                    "to a path with ASCII characters only"
                )
    return ascii([os.fsencode(folder).decode("ascii", "surrogateescape") for folder in folders])


def _use_own_libpython(stub: Path, libraries: Path) -> None:
    """Make a stub that bundles its own libpython use this Python's library instead.

    The wheel's stub for Python 3.13 bundles a library whose set of built-in modules differs from most systems'
    Python, so that it fails to import, for example, `_datetime`.
    """
    bundled = re.search(rb"libpython3-[0-9a-f]+[0-9.]*\.so\.1\.0", stub.read_bytes())
    folder = libpython_dir()
    if bundled and folder is not None:
        libraries.mkdir(parents=True)
        (libraries / bundled[0].decode()).symlink_to(folder / LIBPYTHON)


def environment(server: Server, files: Layout, base: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment variables: library path, temporary folder, and this Python for the stub."""
    variables = dict(base)
    if server.library_path:
        variables["LD_LIBRARY_PATH"] = _prepend(server.library_path, base.get("LD_LIBRARY_PATH"))
    # The stub uses the first python3 in PATH, which must not be that of a virtual environment (see `_import_path`).
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

    ``secret`` is the key of the restricted APIs (shared memory, model repository, trace, logging), ``metrics_port`` the
    loopback port of the metrics, 0 = the socket.
    """
    restricted = f"shared-memory,model-repository,trace,logging:{SECRET_KEY}={secret}"
    # A server that does not load its Python backend would log a warning about options for it.
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
        "--disable-auto-complete-config",  # the rendered one is complete; saves loading the model twice
        "--exit-timeout-secs=5",
        "--log-format=ISO8601",
        "--allow-http=false",
        f"--grpc-address=unix:{files.relative(files.socket)}",
        "--grpc-port=1",
        f"--grpc-restricted-protocol={restricted}",
        *(
            ("--metrics-address=127.0.0.1", f"--metrics-port={metrics_port}")
            if metrics_port
            else (f"--metrics-address=unix:{files.relative(files.metrics)}",)
        ),
        "--metrics-config=summary_latencies=true",
        *(f"--backend-config=python,{key}={value}" for key, value in python_options.items()),
        *(f"--trace-config={setting}" for setting in trace_settings(config)),
    ]
    if server.knows("allow-client-shm"):  # since 2.68, off by default
        line.append("--allow-client-shm=true")
    return line


def trace_settings(config: Config) -> list[str]:
    """Return the `--trace-config` values: only requests with a sampled `traceparent` are traced."""
    if config.otel.endpoint is None:
        return []
    return [
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=0",  # no requests except those of sampled frames
        f"opentelemetry,url={config.otel.endpoint.rstrip('/')}/v1/traces",
        "opentelemetry,resource=service.name=tridetr-triton",
    ]
