"""Reading metric files that other processes are creating, have damaged, or lost."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tridetr.gateway.node_metrics import Broker
from tridetr.supervisor.counters import Counters


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 7, b"\xff" * 64, b"\0" * 64])
def test_a_file_that_is_being_created_does_not_end_the_supervisor(
    tmp_path: Path, content: bytes
) -> None:
    """A file that was still empty used to end `tridetr up`, and with it the node."""
    (tmp_path / "counter_detector.db").write_bytes(content)
    assert Counters.read(tmp_path).total("tridetr_frames_published_total") == 0


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<iiii48x", 64, 0, 9999, 0),  # "read beyond file size"
        struct.pack("<iii12sdd", 40, 0, 4, b"null", 1.0, 0.0),
    ],
)
def test_a_damaged_file_ends_neither_the_supervisor_nor_the_gateway(
    tmp_path: Path, content: bytes
) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "gauge_mostrecent_controller_1.db").write_bytes(content)
    assert Counters.read(folder).total("tridetr_outbox_depth") == 0
    broker = Broker(tmp_path)
    asyncio.run(broker.refresh())
    assert broker.facts["broker"] == "unknown"


def test_removed_metric_files_are_recreated_with_their_values(tmp_path: Path) -> None:
    """After a cleaner removed them, the metrics page used to stay empty until each process was restarted."""
    code = f"""
import shutil, sys
import subprocess
import sys
from pathlib import Path
from tridetr.telemetry import process_files
folder = Path({str(tmp_path / "metrics")!r})
process_files._LOOK_NS = 0
process_files.use_process_files(folder, "capture_hall")
from tridetr.telemetry import metrics
metrics.FRAMES_PUBLISHED.labels("hall").inc(5)
metrics.CAMERA_STATE.labels("hall").set(1)
for _ in range(2):
    shutil.rmtree(folder)
    process_files.keep_process_files()
    metrics.FRAMES_PUBLISHED.labels("hall").inc()
    process_files.keep_process_files()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    counters = Counters.read(tmp_path / "metrics")
    assert counters.count("tridetr_frames_published_total", camera="hall") == 7
    assert counters.total("tridetr_camera_state", camera="hall") == 1
    assert len(list((tmp_path / "metrics").glob("counter_*"))) == 1


def test_metrics_on_a_full_disk_end_no_process_and_are_written_once_there_is_space(
    tmp_path: Path,
) -> None:
    """A new sample in a sparse file used to end the process with SIGBUS, and its event was lost."""
    code = """
import os, subprocess, sys
from pathlib import Path
folder = Path(sys.argv[1])
assert subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder]).returncode == 0
from tridetr.supervisor.counters import Counters
from tridetr.telemetry import process_files
process_files._LOOK_NS = 0
filler = folder / "filler"

def fill():
    with filler.open("ab", 0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass

def inferred():
    return Counters.read(folder / "metrics").count("tridetr_frames_inferred_total")

process_files.use_process_files(folder / "metrics", "detector")
fill()
from tridetr.telemetry import metrics  # opens its files without any space
metrics.FRAMES_INFERRED.labels("hall").inc()
process_files.keep_process_files()
assert inferred() == 0
filler.unlink()
process_files.keep_process_files()
metrics.FRAMES_INFERRED.labels("hall").inc()
assert inferred() == 2
fill()
for number in range(1000):  # more than the space of its file
    metrics.FRAMES_INFERRED.labels(f"camera{number}").inc()
    process_files.keep_process_files()
assert not [name for name in os.listdir(folder / "metrics") if name.startswith(".")]
filler.unlink()
process_files.keep_process_files()
metrics.FRAMES_INFERRED.labels("hall").inc()
assert inferred() == 1003
fill()
metrics.FRAMES_INFERRED.labels("hall").inc()
assert inferred() == 1004
"""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("no permission to create namespaces")
    subprocess.run(["unshare", "-rm", sys.executable, "-c", code, tmp_path], check=True)
