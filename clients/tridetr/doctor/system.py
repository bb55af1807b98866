"""Check the machine: Python, shared memory, disk, message queues, CPU, ports."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tridetr.config import Config
from tridetr.config.memory import MIB, node_mib, state_mib
from tridetr.doctor.finding import Finding
from tridetr.errors import TritonError
from tridetr.ports import bind_fault
from tridetr.shm.names import CONSUMERS, SHM_DIR, VIEW
from tridetr.triton.launch import code_folder
from tridetr.write_check import check_writable, disk_remedy

_QUEUE_FOLDER = Path("/proc/sys/fs/mqueue")


def check_python() -> Iterator[Finding]:
    """Check Python, and that libpython is a shared library: the stub of Triton's Python backend links to it."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "ok", f"{version} at {sys.executable}")
    name = sysconfig.get_config_var("INSTSONAME") or ""
    for folder in (sysconfig.get_config_var("LIBDIR") or "", ""):
        try:
            ctypes.CDLL(str(Path(folder) / name))
        except OSError:
            continue
        yield Finding("libpython", "ok", name)
        return
    short = ".".join(map(str, sys.version_info[:2]))
    yield Finding(
        "libpython",
        "fault",
        f"{name or 'libpython'} is not installed as a shared library; the embedded Triton needs it",
        f"sudo apt-get install libpython{short} (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)",
    )


def check_shm(config: Config) -> Iterator[Finding]:
    """Check the space in /dev/shm for the rings."""
    subject = str(SHM_DIR)
    if not os.access(SHM_DIR, os.W_OK):
        yield Finding(subject, "fault", "not writable", "mount a writable tmpfs at /dev/shm")
        return
    free, needed = shutil.disk_usage(SHM_DIR).free // MIB, node_mib(config)
    text = f"{free} MiB free, {needed} MiB needed"
    if free < needed:
        remedy = f"sudo mount -o remount,size={2 * needed}M /dev/shm, or configure fewer slots"
        yield Finding(subject, "fault", text, f"{remedy} (container: --shm-size or an emptyDir)")
    else:
        yield Finding(subject, "ok", text)


def check_disk(config: Config) -> Iterator[Finding]:
    """Check the disk space for state and evidence; space that evidence takes already counts as available."""
    subject, evidence = str(config.state_dir), config.evidence_dir
    try:
        folder = next(
            path for path in (config.state_dir, *config.state_dir.parents) if path.exists()
        )
        room = shutil.disk_usage(folder).free
        if evidence is not None and evidence.is_relative_to(config.state_dir):
            for file in evidence.rglob("*"):
                # A running recorder renames and removes files
                with contextlib.suppress(FileNotFoundError):
                    room += file.stat().st_size
    except OSError as error:
        remedy = "run tridetr doctor as the user that runs the node"
        yield Finding(subject, "warning", f"cannot be examined: {error}", remedy)
        return
    needed = state_mib(config)
    text = f"{room // MIB} MiB for state and evidence, {needed} MiB needed"
    if room < needed * MIB:
        remedy = f"free space in {folder}, or lower evidence.max_mib (chart: raise state.size)"
        yield Finding(subject, "warning", text, remedy)
    else:
        yield Finding(subject, "ok", text)


def check_run_folder(config: Config) -> Iterator[Finding]:
    """Check that the run folder, if there is one, is neither full nor on a disk that refuses writes."""
    try:
        check_writable(config.run_dir)
    except (PermissionError, FileNotFoundError):  # another user's; the node creates it
        return
    except OSError as error:
        text = f"run_dir cannot be written: {error.strerror or error}"
        yield Finding(str(config.run_dir), "fault", text, disk_remedy(error))


def check_code(config: Config) -> Iterator[Finding]:
    """Check that the embedded server's code can be loaded from one of the node's folders."""
    if config.triton.url is not None:
        return
    try:
        folder = code_folder(config.run_dir, config.state_dir)
    except TritonError as error:
        text, _, remedy = str(error).partition(" Remedy: ")
        yield Finding("Triton's code", "fault", text, remedy)
    else:
        yield Finding("Triton's code", "ok", f"can be loaded from {folder}")


def check_queues(config: Config) -> Iterator[Finding]:
    """Check the limits of POSIX message queues."""
    needed = sum(
        len(consumers)
        for camera in config.cameras.values()
        for kind, consumers in CONSUMERS.items()
        if kind != VIEW or camera.view is not None
    )
    try:
        limit = int((_QUEUE_FOLDER / "queues_max").read_text())
    except (OSError, ValueError):
        yield Finding(
            "message queues",
            "fault",
            "this kernel has no POSIX message queues",
            "use a kernel with CONFIG_POSIX_MQUEUE",
        )
        return
    byte_limit = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[0]
    # The kernel charges a queue of one 16-byte message with these bytes and two small structures
    bytes_needed = needed * (16 + 48 + 8)
    text = f"{needed} needed, at most {limit}"
    if needed > limit:
        yield Finding(
            "message queues", "fault", text, f"sudo sysctl fs.mqueue.queues_max={2 * needed}"
        )
    elif byte_limit not in (-1, resource.RLIM_INFINITY) and bytes_needed > byte_limit:
        yield Finding(
            "message queues",
            "fault",
            f"{bytes_needed} bytes needed, RLIMIT_MSGQUEUE is {byte_limit}",
            "raise it with ulimit -q, or LimitMSGQUEUE= in the systemd unit",
        )
    else:
        yield Finding("message queues", "ok", text)


def check_cpu() -> Iterator[Finding]:
    """Report the CPU's cores and the instruction sets that make inference fast."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    fast = [name for name in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx2") if name in flags]
    cores = len(os.sched_getaffinity(0))
    yield Finding(
        "CPU", "ok", f"{cores} core(s); {', '.join(fast) or 'no AVX2: inference is slow'}"
    )


def check_ports(config: Config) -> Iterator[Finding]:
    """Check that the ports that the node listens on are free."""
    wanted = [("viewer port", config.gateway.host, config.gateway.port)]
    if config.triton.url is None and config.triton.metrics_port:
        wanted.append(("Triton metrics port", "127.0.0.1", config.triton.metrics_port))
    for subject, host, port in wanted:
        why = bind_fault(host, port)
        if why is not None:
            yield Finding(
                subject,
                "warning",
                f"{host}:{port}: {why}",
                "stop the program that uses it (unless it is this node), or choose another port",
            )
        else:
            yield Finding(subject, "ok", f"{host}:{port} is free")
