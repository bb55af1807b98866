"""The containers' exec probe."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path

from tridetr.probe import fault
from tridetr.supervisor.pulse import SupervisorPulse
from tridetr.telemetry import heartbeat


def test_the_probe_reports_the_fault_of_a_process(tmp_path: Path) -> None:
    assert "has not started" in str(fault("triton", tmp_path, ready=False))
    heartbeat.start(tmp_path, "triton")
    assert fault("triton", tmp_path, ready=False) is None
    assert "has not started" in str(fault("triton", tmp_path, ready=True)), (
        "not in its main loop yet"
    )
    heartbeat.beat()
    assert "no inference" in str(fault("triton", tmp_path, ready=True))
    (tmp_path / "triton.json").touch()
    assert fault("triton", tmp_path, ready=True) is None
    time.sleep(0.02)
    assert "no progress" in str(fault("triton", tmp_path, ready=True, max_age_s=0.01))


def test_a_stalled_supervisor_fails_the_probe_of_its_container(tmp_path: Path) -> None:
    """Without this, a stopped supervisor would only be noticed when one of its processes dies."""
    SupervisorPulse(tmp_path, ["capture hall"])
    heartbeat.beat_for(tmp_path, "capture hall")
    assert fault("capture hall", tmp_path, ready=False) is None
    old = struct.pack("<QQ", time.monotonic_ns() - 31_000_000_000, 5)
    (tmp_path / "heartbeats" / "supervisor_of_capture_hall").write_bytes(old)
    assert "supervisor of capture hall has made no progress" in str(
        fault("capture hall", tmp_path, ready=False)
    )


def test_the_command_prints_the_reason_and_imports_nothing_heavy(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "tridetr.probe",
        "detector",
        "--run-dir",
        str(tmp_path),
    ]
    answer = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert answer.returncode == 1
    assert "detector has not started" in answer.stderr
    for module in ("numpy", "pydantic", "grpc", "rich"):
        assert f" {module}\n" not in answer.stderr
