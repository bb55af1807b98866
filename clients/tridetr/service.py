"""Run one role of the pipeline as a process: logging, metrics, signals, then the role itself."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import errno
import io
import logging
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from tridetr.config import Config
from tridetr.errors import TridetrError
from tridetr.paths import private_folder
from tridetr.shm.instance_lock import InstanceLock
from tridetr.telemetry import heartbeat, tracing
from tridetr.telemetry.logs import configure_logging
from tridetr.telemetry.process_files import use_process_files
from tridetr.telemetry.stderr import never_block_on_stderr
from tridetr.write_check import disk_remedy

logger = logging.getLogger("tridetr.service")

AsyncRole = Callable[[Config, asyncio.Event], Awaitable[None]]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
SUPERVISED = "TRIDETR_SUPERVISED"  # environment: the supervisor's pid


def prepare(config: Config, role: str) -> None:
    """Set up logging, heartbeat, metrics and traces of this process, and lock the instance.

    Must be called before the role's modules are imported: these use the metrics.
    """
    never_block_on_stderr()
    configure_logging(config.log.level, config.log.format, role)
    # A process that is restarted runs on without the files: the supervisor reports it
    private_folder(config.run_dir, may_be_read_only=bool(os.environ.get(SUPERVISED)))
    heartbeat.start(config.run_dir, role)
    use_process_files(config.run_dir / "metrics", role.replace(" ", "_"))
    tracing.configure(config.otel, role)
    if os.environ.get(SUPERVISED):
        die_with_parent()
    else:  # a supervisor holds the instance lock for its processes
        lock = InstanceLock(config.instance, config.run_dir, [role])
        atexit.register(lock.close)


@contextlib.contextmanager
def explaining_unwritable_disks(config: Config) -> Iterator[None]:
    """Explain an ``OSError`` of a full or read-only disk; that of a full one often does not name a file.

    Raises:
        TridetrError: A disk is full or read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EROFS:
            raise TridetrError(
                f"cannot write {error.filename or 'a file'}: {error.strerror}; {disk_remedy(error)}"
            ) from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = []
        for key, folder in (("run_dir", config.run_dir), ("state_dir", config.state_dir)):
            with contextlib.suppress(OSError):
                free.append(f"{key} {folder} ({shutil.disk_usage(folder).free >> 10:,} KiB free)")
        raise TridetrError(
            f"cannot write {error.filename or 'a file'}: {error.strerror}. Free some space in {' or '.join(free)}"
        ) from None


def prepare_streams() -> None:
    """Let stdout and stderr print the names of files in any encoding, with escapes; closed ones print nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def keep_private() -> None:
    """Turn core dumps off, and create files and folders that only their owner can change; also in child processes.

    A core dump would write pictures and passwords to disk. With a limit of 1 the kernel writes no file, as with 0, and
    starts no program of ``core_pattern`` either, which it does with 0. If the hard limit is 0, such a program gets a
    dump without any memory.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))
    with contextlib.suppress(OSError):  # /proc is not mounted, or read-only
        Path("/proc/self/coredump_filter").write_text("0")
    os.umask(os.umask(0o077) | 0o022)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that request a graceful stop: SIGTERM, SIGINT, and SIGHUP unless it is ignored (`nohup`)."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def die_with_parent() -> None:
    """Make the kernel send SIGTERM to this process when the supervisor exits, even if it is killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(os.environ[SUPERVISED]):
        raise SystemExit("the supervisor died before this process was ready")


def run_blocking(work: Callable[[threading.Event], None]) -> None:
    """Run a blocking role; the signals of `stop_signals` set the event that is passed to it."""
    stop = threading.Event()
    for number in stop_signals():
        signal.signal(number, lambda *_: stop.set())
    work(stop)


def run_async(role: AsyncRole, config: Config) -> None:
    """Run an asyncio role; the signals of `stop_signals` set the event that is passed to it."""

    async def beat() -> None:
        while True:
            heartbeat.beat()
            await asyncio.sleep(1)

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, stop.set)
        beating = asyncio.create_task(beat())
        try:
            await role(config, stop)
        finally:
            beating.cancel()

    asyncio.run(main())
