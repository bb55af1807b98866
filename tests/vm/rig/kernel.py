"""Finds a kernel with camera drivers: a Debian package, unpacked into a cache folder, never installed."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# The cloud flavour has no media drivers, so the generic one it is.
META_PACKAGE = "linux-image-amd64"
DOWNLOAD_TIMEOUT_S = 300


class UnavailableError(Exception):
    """The machine lacks something that the virtual machine needs; the text names the remedy."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: its image and the folder with its modules."""

    image: Path
    modules: Path

    def module_files(self, names: list[str]) -> list[Path]:
        """Return the files of these modules and of all they need, in an order that loads."""
        files = {_module_name(path): path for path in self.modules.rglob("*.ko*")}
        builtin_list = self.modules / "modules.builtin"
        builtin = {_module_name(Path(line)) for line in builtin_list.read_text().splitlines()}
        ordered: dict[str, Path] = {}

        def add(name: str) -> None:
            name = name.replace("-", "_")
            if name in ordered or name in builtin:
                return
            if name not in files:
                raise UnavailableError(f"the kernel in {self.modules} has no module {name!r}")
            for needed in _needed_modules(module_bytes(files[name])):
                add(needed)
            ordered[name] = files[name]

        for name in names:
            add(name)
        return list(ordered.values())


def module_bytes(path: Path) -> bytes:
    """Return a module as insmod wants it: later Debian releases compress them."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def cached_kernel() -> Kernel:
    """Return the kernel in the cache, fetched there first where it is missing.

    Raises:
        UnavailableError: No kernel and no way to fetch one; the text says which.
    """
    cache = Path(
        os.environ.get("TRIDETR_VM_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tridetr" / "vm"
    )
    return _unpacked(cache) or _fetch(cache)


def _unpacked(cache: Path) -> Kernel | None:
    for image in sorted(cache.glob("*/boot/vmlinuz-*"), reverse=True):
        version = image.name.removeprefix("vmlinuz-")
        for lib in ("lib", "usr/lib"):
            modules = image.parents[1] / lib / "modules" / version
            if modules.is_dir():
                return Kernel(image, modules)
    return None


def _fetch(cache: Path) -> Kernel:
    for tool in ("apt-get", "apt-cache", "dpkg"):
        if not shutil.which(tool):
            raise UnavailableError(
                f"no kernel under {cache} and no {tool} to fetch one: unpack Debian's "
                f"{META_PACKAGE} into {cache}/<any name>/"
            )
    depends = _output(["apt-cache", "depends", META_PACKAGE])
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        raise UnavailableError(
            f"apt knows no {META_PACKAGE}: run `apt-get update` on Debian (amd64)"
        )
    package = found.group(1)
    partial = cache / f".{package}.{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        _output(["apt-get", "download", package], cwd=partial)
        archive = next(partial.glob("*.deb"))
        _output(["dpkg", "-x", str(archive), str(partial / "root")])
        try:
            (partial / "root").rename(cache / package)
        except OSError:  # another run was faster
            if _unpacked(cache) is None:
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    kernel = _unpacked(cache)
    if kernel is None:
        raise UnavailableError(
            f"{package} was unpacked into {cache}, but holds no kernel with modules"
        )
    return kernel


def _output(command: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"`{' '.join(command)}` took over {DOWNLOAD_TIMEOUT_S} s") from None
    if done.returncode:
        raise UnavailableError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _needed_modules(module: bytes) -> list[str]:
    # The package brings no modules.dep (depmod writes it at installation); the modules say it too.
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return found.group(1).decode().split(",") if found and found.group(1) else []
