"""Set up the server: find it, place the model, write its files, and start it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from tridetr.config import Config
from tridetr.errors import ModelError, TritonError
from tridetr.files import write_text
from tridetr.machine import find_machine
from tridetr.models.engine_files import engines_dir
from tridetr.models.installed_models import configured_model
from tridetr.plan import BACKENDS, place_model
from tridetr.ports import bind_fault
from tridetr.shm.names import close_triton_regions, remove_triton_regions
from tridetr.triton import launch, placement, repository
from tridetr.triton.describe import write_report
from tridetr.triton.endpoint import Endpoint
from tridetr.triton.installation import find_server
from tridetr.triton.repository import Replacement
from tridetr.triton.server_process import ServerProcess
from tridetr.triton.start import TIMEOUT_S

log = logging.getLogger("tridetr.triton")
# ONNX Runtime's TensorRT provider builds its engine while the model is loaded.
ENGINE_BUILD_S = 1200.0
_ENVIRONMENTS = Path("/tmp")  # noqa: S108  (fixed in the server's Python backend)
_LEFT_OVER_S = 3600


class Setup:
    """The server, model and folders, which are the same for each restart of the server.

    Attributes:
        placement: where the model runs.
        replacement: detects that the model file was replaced.
    """

    def __init__(self, config: Config, files: launch.Layout, secret: tuple[Path, str]) -> None:
        """Find the server and decide where the model runs; nothing is written yet.

        Args:
            config: the node's configuration.
            files: the server's folders.
            secret: file and text of the key of its restricted APIs.

        Raises:
            TritonError: the server is not installed.
            ModelError: the model cannot run here.
        """
        self._config = config
        self._files = files
        self._secret_file, self._secret = secret
        self._server = find_server(config.triton.server_dir)
        native = self._server.is_native(BACKENDS[config.model.name])
        self.placement = place_model(config, replace(find_machine(config), native=native))
        self._backends = self._server.backends
        self._started_unix_s = math.inf
        self._precision = "unknown"
        self._has_served = False  # the server that was started last
        self.replacement = Replacement(config, self.placement)

    @property
    def start_timeout_s(self) -> float:
        """The longest time that a start may take while it makes progress, in seconds."""
        return ENGINE_BUILD_S if self._builds_engine else TIMEOUT_S

    @property
    def _builds_engine(self) -> bool:
        return self.placement.gpu and self._config.model.provider == "tensorrt"

    @property
    def way_out(self) -> str:
        """What to try if the server does not start, as text to append to an error; empty if there is no alternative."""
        if not self.placement.gpu or self._config.model.name == "rfdetr_trt":
            return ""
        return " (the model was placed on the GPU; if that is the cause, set device: cpu)"

    def lay_out(self) -> None:
        """Write the model repository and the backend directory, unless they are up to date.

        If it has a file of its own, a model that serves stays until a new file was tried (`Replacement`), and the
        previous model stays if the new file cannot be used.

        Raises:
            TritonError: the server cannot run the model, or there is not enough disk space for its files.
            ModelError: the model file is missing or does not conform to the contract.
        """
        self._files.check_private()
        if self.replacement.is_rendered() and self._is_laid_out():
            return
        stamp = repository.model_stamp(self._config)
        try:
            if self._keeps_previous() and self.replacement.is_barred(untried=self._has_served):
                repository.read_configured(self._config, self.placement)
                return  # a new file is tried while the previous model serves
            self._write()
        except ModelError as error:
            if not self._keeps_previous():
                raise
            self.replacement.refuse(stamp)
            log.error(
                "the model file cannot be used, the previous model is served again: %s", error
            )
        except OSError as error:
            root = self._files.root
            free_mib = shutil.disk_usage(root).free / 2**20
            raise TritonError(
                f"cannot write the server's files to {root}: {error} ({free_mib:.0f} MiB are free). Remedy: free some "
                "space there (Kubernetes: sizeLimit of the run volume), or set run_dir to a folder on a larger disk"
            ) from None

    def _is_laid_out(self) -> bool:
        """Return whether the files that were written, and the model that they link to, still exist."""
        served = repository.model_in(self._files.repository, self._config.model.name)
        return served.is_file() and self._backends.is_dir()

    def _keeps_previous(self) -> bool:
        """Return whether the model that was served last has a file of its own: a converted model, or an engine."""
        served = repository.model_in(self._files.repository, self._config.model.name)
        own = configured_model(self._config.model.file)
        return (
            self.replacement.was_rendered()
            and self._is_laid_out()
            and served.resolve() != own.resolve()
        )

    def _write(self) -> None:
        files, config = self._files, self._config
        stamp = repository.model_stamp(config)
        cache = files.engine_cache
        if self._builds_engine:
            # Takes minutes to build, so it is kept across runs.
            cache = engines_dir() / "onnxruntime"
            cache.mkdir(parents=True, exist_ok=True)
        model = repository.render(
            config,
            files.repository,
            self.placement,
            engine_report=files.relative(files.engine_report),
            cache=files.relative(cache),
        )
        self._precision = model.card.precision
        if self.placement.backend == "tensorrt":
            self._precision = repository.engine_precision(model)
        self._backends = launch.prepare_backends(self._server, self.placement.backend, files)
        self.replacement.rendered(stamp)

    def start(self) -> tuple[ServerProcess, Endpoint]:
        """Start the server and return its process and endpoint; the calling thread must outlive the server."""
        files = self._files
        self._has_served = False
        files.engine_report.unlink(missing_ok=True)
        self.clean()
        files.temporary.mkdir(mode=0o700, parents=True)
        if self._secret_file == files.secret:
            write_text(files.secret, self._secret)
        self._started_unix_s = time.time()
        port = _metrics_port(self._config.triton.metrics_port)
        process = ServerProcess(
            launch.command(self._config, self._server, files, self._backends, self._secret, port),
            launch.environment(self._server, files, os.environ),
            files.root,
        )
        report = str(files.engine_report)
        metrics = port or str(files.metrics)
        return process, Endpoint(
            files.address, str(self._secret_file), process.pid, report, metrics
        )

    def served(self) -> None:
        """Record that the server has answered."""
        self._has_served = True

    def lost_file(self) -> Path | None:
        """Return a missing file that clients need to reach the server; None if all exist."""
        own = [self._files.socket_file]
        if self._secret_file == self._files.secret:
            own.append(self._secret_file)
        return next((path for path in own if not path.exists()), None)

    def report(self, process: ServerProcess) -> None:
        """Write the engine report for a native backend; our Python-based backend writes its own."""
        self._remove_environments()
        where = self.placement
        if not where.native:
            return
        write_report(self._files.engine_report, {
            "engine": where.backend,
            "provider": placement.provider_name(where, self._config),
            "precision": self._precision,
            "reason": f"the server's native backend, on {process.device or 'an unknown device'}",
        })  # fmt: skip

    def keep_private(self) -> None:
        """Make sure, before the first frame, that other users cannot read the backend's shared memory."""
        for name in close_triton_regions(self._config.instance):
            log.warning(
                "other users of this machine could open the shared memory %s until now, because this kernel has no "
                "seccomp. Remedy: let no other users run programs on this machine",
                name,
            )

    def clean(self) -> None:
        """Remove the files and regions that a killed server left behind."""
        for name in remove_triton_regions(self._config.instance):
            log.debug("removed the left-over region %s", name)
        self._files.socket_file.unlink(missing_ok=True)
        self._files.metrics.unlink(missing_ok=True)
        shutil.rmtree(self._files.temporary, ignore_errors=True)
        self._remove_environments()

    def _remove_environments(self) -> None:
        """Remove the folder that the Python backend creates outside TMPDIR at each start, and that is not used here.

        Folders of killed runs are removed, too: a folder that is still empty after an hour is not used by any server.
        """
        old_unix_s = time.time() - _LEFT_OVER_S
        for path in _ENVIRONMENTS.glob("python_env_*"):
            with contextlib.suppress(OSError):  # not empty: not ours
                found = path.lstat()
                made = found.st_ctime
                is_ours = made >= self._started_unix_s or made < old_unix_s
                if found.st_uid == os.geteuid() and is_ours:
                    path.rmdir()


def _metrics_port(wanted: int) -> int:
    """Return the port for the server's metrics; 0 = the socket, also if the wanted port is in use."""
    why = bind_fault("127.0.0.1", wanted) if wanted else None
    if why is None:
        return wanted
    log.warning(
        "triton.metrics_port: cannot bind to port %d (%s; another instance?), so Triton's own metrics are only in the "
        "viewer's /metrics",
        wanted,
        why,
    )
    return 0
