"""Runs one command in a virtual machine that sees the host's files and has cameras of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vm.rig import initramfs
from vm.rig.initramfs import Module
from vm.rig.kernel import UnavailableError, cached_kernel

SYSTEM_MODULES = [Module("virtio_pci"), Module("9pnet_virtio"), Module("9p"), Module("overlay")]
MEMORY = "2G"
# no_timer_check: on a busy host the kernel's check of the emulated timer fails, and it hangs
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1 reboot=t mitigations=off no_timer_check nowatchdog"


@dataclass(frozen=True)
class Result:
    """What came of a command in the virtual machine.

    Attributes:
        exit_code: The command's, or None where it did not come to its end.
        output: Its stdout and stderr.
        console: The kernel's messages, for when the machine itself fails.
        seconds: Wall-clock time from start to power-off.
    """

    exit_code: int | None
    output: str
    console: str
    seconds: float


def run_in_vm(
    command: list[str],
    exchange: Path,
    *,
    modules: list[Module],
    environment: Mapping[str, str],
    cwd: Path,
    timeout_s: float,
) -> Result:
    """Boot, run the command as root in a view of the host's file system, power off.

    The command sees all files of the host; what it writes is gone afterwards, except under
    /exchange, which is the folder `exchange` of the host.

    Args:
        command: Program and arguments, with paths as on the host.
        exchange: An empty folder of the host.
        modules: Kernel modules to load (those they need come by themselves).
        environment: All variables that the command gets.
        cwd: Folder the command starts in.
        timeout_s: The machine is killed after this time.

    Raises:
        UnavailableError: QEMU, a kernel or busybox is missing.
    """
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu:
        raise UnavailableError("no QEMU: apt-get install qemu-system-x86")
    kernel = cached_kernel()
    archive = exchange.with_name(exchange.name + ".initramfs")
    archive.write_bytes(initramfs.build(kernel, SYSTEM_MODULES + modules))
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    (exchange / "run.sh").write_text(
        f"cd {shlex.quote(str(cwd))} && exec env -i {variables} {shlex.join(command)}\n"
    )
    console = exchange / "console"
    arguments = [
        *(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []),
        qemu,
        *(
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-smp",
            str(min(os.cpu_count() or 1, 2)),
        ),
        *("-m", MEMORY, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-serial", f"file:{console}", "-kernel", str(kernel.image), "-initrd", str(archive)),
        *("-append", KERNEL_ARGUMENTS),
        *_share("hostroot", Path("/"), "readonly=on,multidevs=remap"),
        *_share("exchange", exchange, "multidevs=remap"),
    ]
    started = time.monotonic()
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        messages, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        messages = b"killed: it took over %d s" % timeout_s
    finally:
        process.kill()
        process.wait()
        archive.unlink()
    seconds = time.monotonic() - started
    exit_code = _read(exchange / "exit_code").strip()
    return Result(
        exit_code=int(exit_code) if exit_code else None,
        output=_read(exchange / "output"),
        console=_read(console) + messages.decode(errors="replace"),
        seconds=seconds,
    )


def _share(tag: str, folder: Path, options: str) -> list[str]:
    return [
        "-fsdev",
        f"local,id={tag},path={folder},security_model=none,{options}",
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
