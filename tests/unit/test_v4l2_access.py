"""Messages about V4L2 devices that cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tridetr.capture.v4l2.access import holders

HOLD = r"""
import sys
open("/proc/self/comm", "wb").write(b"cam\x1b[2J\xff")
device = open(sys.argv[1])
print(flush=True)
sys.stdin.read()
"""


def test_the_names_of_other_programs_are_shown_without_control_characters(tmp_path: Path) -> None:
    """A name that is not UTF-8 used to raise instead."""
    device = tmp_path / "video0"
    device.touch()
    command = [sys.executable, "-ISc", HOLD, str(device)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin
        assert program.stdout
        program.stdout.readline()
        found = holders(str(device))
        program.stdin.close()
    assert found == [f"pid {program.pid} (cam?[2J\N{REPLACEMENT CHARACTER})"]
