"""Run a capture process without enough shared memory or message queues, inside a separate mount and IPC namespace.

    unshare -m --ipc python namespace.py shm|queues NODE.yaml

Prints `refused: …` with the message that the process logged, raises the limit, and prints `recovered` when frames
arrive. Nothing of the machine's own /dev/shm or queue limits is touched.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from tridetr.config import load_config
from tridetr.shm.frames import FrameReader

SHM = Path("/dev/shm")
QUEUES_MAX = Path("/proc/sys/fs/mqueue/queues_max")
MESSAGE = {"shm": r"bytes.*|/dev/shm.*", "queues": r".*queues_max.*"}


def main() -> None:
    """Take the resource away, start the process, and give the resource back."""
    what, file = sys.argv[1:]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", SHM], check=True)
    if what == "queues":
        subprocess.run(["mount", "-o", "remount,size=64m", SHM], check=True)
        QUEUES_MAX.write_text("0")
    # Root may exceed the limits of message queues, unless this capability is dropped
    line = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    line += [sys.executable, "-m", "tridetr", "up", "--only", "capture cam", "--config", file]
    node = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    try:
        assert node.stderr
        for text in node.stderr:
            if re.search(MESSAGE[what], text):
                print("refused:", text.strip(), flush=True)
                break
        began = time.monotonic()
        if what == "queues":
            QUEUES_MAX.write_text("256")
        else:
            subprocess.run(["mount", "-o", "remount,size=64m", SHM], check=True)
        with FrameReader(load_config(Path(file)).instance, "cam", "detector") as reader:
            while (lease := reader.lease_newest()) is None:
                assert time.monotonic() - began < 120
                time.sleep(0.05)
            lease.release()
        print(f"recovered: {time.monotonic() - began:.1f}", flush=True)
    finally:
        node.terminate()
        node.wait(30)


main()
