"""Builds the first file system of the virtual machine: busybox, modules and an init script."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vm.rig.kernel import Kernel, UnavailableError, module_bytes

# The host's root, read-only, beneath a tmpfs that takes what is written; then the command, then out.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
{insmod}
mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=524288,ro hostroot /lower || echo "vm: no host root"
mount -t tmpfs -o size=1g tmpfs /upper
mkdir -p /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root || echo "vm: no overlay"
mkdir -p /root/proc /root/sys /root/dev /root/exchange /root/guest-tmp
mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/shm /root/dev/mqueue
mount -t tmpfs -o size=512m tmpfs /root/dev/shm
mount -t mqueue mqueue /root/dev/mqueue
mount -t tmpfs tmpfs /root/guest-tmp
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=524288 exchange /root/exchange || echo "vm: no exchange"
ip link set lo up
chroot /root /bin/sh /exchange/run.sh >/root/exchange/output 2>&1 </dev/null
echo $? >/root/exchange/exit_code
sync
reboot -f
"""


@dataclass(frozen=True)
class Module:
    """A kernel module and the parameters it is loaded with."""

    name: str
    parameters: str = ""


def build(kernel: Kernel, modules: list[Module]) -> bytes:
    """Return an initramfs (cpio, newc) that loads the modules and runs /exchange/run.sh.

    Raises:
        UnavailableError: No static busybox, or the kernel lacks one of the modules.
    """
    files = kernel.module_files([module.name for module in modules])
    parameters = {module.name.replace("-", "_"): module.parameters for module in modules}
    insmod = "\n".join(
        f"insmod /modules/{path.name} {parameters.get(_stem(path), '')}"
        f" || echo 'vm: no module {path.name}'"
        for path in files
    )
    archive = Cpio()
    for folder in ("bin", "dev", "proc", "sys", "modules", "lower", "upper", "root"):
        archive.folder(folder)
    archive.file("bin/busybox", _static_busybox().read_bytes(), 0o755)
    for path in files:
        archive.file(f"modules/{path.name}", module_bytes(path), 0o644)
    archive.file("init", INIT.format(insmod=insmod).encode(), 0o755)
    return archive.close()


def _static_busybox() -> Path:
    found = shutil.which("busybox")
    if not found or b"/ld-linux" in Path(found).read_bytes()[:4096]:
        raise UnavailableError("no static busybox: apt-get install busybox-static")
    return Path(found)


def _stem(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


class Cpio:
    """Writes the archive format that the kernel unpacks (Documentation/driver-api/early-userspace)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def folder(self, name: str) -> None:
        self._entry(name, b"", 0o040755)

    def file(self, name: str, data: bytes, mode: int) -> None:
        self._entry(name, data, 0o100000 | mode)

    def close(self) -> bytes:
        self._entry("TRAILER!!!", b"", 0)
        return b"".join(self._parts)

    def _entry(self, name: str, data: bytes, mode: int) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        # inode mode uid gid links mtime size device(4 numbers) name-length checksum
        numbers = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % number for number in numbers)
        self._parts += [header + path, _padding(len(header) + len(path)), data, _padding(len(data))]


def _padding(length: int) -> bytes:
    return b"\0" * (-length % 4)
