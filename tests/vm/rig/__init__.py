"""A virtual machine with camera drivers: QEMU, a Debian kernel, the host's files read-only."""

from __future__ import annotations

from vm.rig.initramfs import Module
from vm.rig.kernel import Kernel, UnavailableError
from vm.rig.machine import Result, run_in_vm

__all__ = ["Kernel", "Module", "Result", "UnavailableError", "run_in_vm"]
