"""Run the embedded Triton from this process, and provide frames in shared memory for it."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from support.waiting import wait_for
from tridetr.config import Config
from tridetr.errors import TridetrError
from tridetr.shm.lease import Region
from tridetr.triton.endpoint import Endpoint, read_endpoint
from tridetr.triton.installation import find_server

SHM = Path("/dev/shm")


def triton_config(folder: Path, model: Path, **triton: Any) -> Config:
    try:
        find_server()
    except TridetrError as error:
        pytest.skip(str(error))
    return Config.model_validate({
        "instance": "t" + uuid.uuid4().hex[:10],
        "cameras": {"cam": {"source": "synthetic"}},
        "model": {"file": str(model)},
        "triton": triton,
        "run_dir": str(folder / "run"),
        "state_dir": str(folder / "state"),
    })  # fmt: skip


class TritonThread:
    """`tridetr.triton.triton_process.run` in a thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        from tridetr.triton.triton_process import run

        try:
            run(self.config, self.stop)
        except BaseException as error:  # shown by `endpoint`
            self.error = error

    def endpoint(self, not_pid: int | None = None, within_s: float = 60) -> Endpoint:
        def there() -> Endpoint | None:
            if not self._thread.is_alive():
                raise AssertionError(f"the service ended: {self.error!r}")
            endpoint = read_endpoint(self.config.run_dir)
            return endpoint if endpoint and endpoint.pid != not_pid else None

        found = wait_for(there, within_s, "triton.json")
        assert found
        return found

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the service does not stop"

    def stub(self) -> psutil.Process:
        server = psutil.Process(self.endpoint().pid)
        (stub,) = server.children()
        return stub


@contextlib.contextmanager
def running_triton(config: Config) -> Iterator[TritonThread]:
    service = TritonThread(config)
    pids: list[psutil.Process] = []
    try:
        yield service
    finally:
        with contextlib.suppress(psutil.Error):
            endpoint = read_endpoint(config.run_dir)
            if endpoint:
                server = psutil.Process(endpoint.pid)
                pids = [server, *server.children(recursive=True)]
        service.stop.set()
        service.join(40)
    left = [path.name for path in SHM.glob(f"tridetr-{config.instance}-*")]
    assert not left, left
    wait_for(lambda: gone(pids), 20, f"alive: {pids}")


def gone(processes: list[psutil.Process]) -> bool:
    """Return whether all processes have ended, reaped or not."""

    def alive(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    return not any(map(alive, processes))


def region(name: str, size: int) -> Region:
    """Register a file in `/dev/shm` with the server."""
    return Region(name, size, generation=1, inode=0)


@dataclass(frozen=True)
class Frame:
    region: Region
    width: int
    height: int
    pixels_offset: int
    pixels_nbytes: int


class SharedFrame:
    """A region with space for one I420 frame, which starts one page after its beginning."""

    OFFSET = 4096

    def __init__(self, instance: str, width: int, height: int, name: str = "cam-frames-1") -> None:
        nbytes = width * height * 3 // 2
        self.path = SHM / f"tridetr-{instance}-{name}"
        size = self.OFFSET + nbytes
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self.planes = np.frombuffer(self._map, np.uint8, nbytes, self.OFFSET).reshape(-1, width)
        self.frame = Frame(region(self.path.name, size), width, height, self.OFFSET, nbytes)

    def __enter__(self) -> SharedFrame:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)
