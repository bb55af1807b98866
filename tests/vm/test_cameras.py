"""Real V4L2 drivers in a virtual machine: each test of `guest/` is one test here.

The machine boots once; it needs QEMU, busybox and a Debian kernel, which is downloaded but not
installed (see rig/kernel.py).
"""

from __future__ import annotations

import pytest

from vm.rig.guest import GuestRun, guest_tests


@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", guest_tests())
def test_in_the_virtual_machine(guest_run: GuestRun, name: str) -> None:
    guest_run.check(name)
