"""Shared by the benchmarks: description of the machine, summaries, nodes to measure."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import yaml

if TYPE_CHECKING:
    from tridetr.triton.engine.choice import Choice

PACKAGES = (
    "tridetr", "numpy", "av", "flatbuffers", "grpcio", "onnxruntime-openvino", "onnxruntime", "tritonclient",
    "nvidia-pytriton", "quart", "hypercorn", "simplejpeg", "iceoryx2", "pyzmq", "playwright", "websockets",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Return a description of the machine and the software, on which the figures depend."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 1),
        "scheduling": scheduling(),
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        # Only the names of files in other folders, because reports are published
        "command": " ".join(
            ["python", *(Path(word).name if word.startswith("/") else word for word in sys.argv)]
        ),
        "versions": versions(),
    }


def cpu_name() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def scheduling() -> str:
    """Return the scheduling policy and niceness of this process, which its children inherit."""
    policy = os.sched_getscheduler(0)
    if policy == os.SCHED_FIFO:
        return f"SCHED_FIFO {os.sched_getparam(0).sched_priority}"
    return f"nice {os.nice(0)}"


def versions() -> dict[str, str]:
    """Return the versions of the relevant packages that are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def summary(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Return median, 95th percentile and minimum of a series."""
    array = np.asarray(values, float)
    p50, p95 = np.percentile(array, (50, 95))
    return {
        "p50": round(float(p50), digits),
        "p95": round(float(p95), digits),
        "min": round(float(array.min()), digits),
    }


def argument_parser(text: str) -> argparse.ArgumentParser:
    """Return a parser with the option that all benchmarks have; ``text`` is the help."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, help="also write the figures to this file")
    return made


def write_json(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the figures to the file of ``--json``, if given."""
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


@contextlib.contextmanager
def node(
    config: dict[str, Any], folder: Path, only: Sequence[str] = ()
) -> Iterator[psutil.Process]:
    """Run ``tridetr up`` with a configuration; its messages go to ``folder/log``."""
    file = folder / "node.yaml"
    file.write_text(yaml.safe_dump(config))
    line = [sys.executable, "-m", "tridetr", "up", "--config", str(file), "--json"]
    for name in only:
        line += ["--only", name]
    with (folder / "log").open("wb") as log, (folder / "summary").open("wb") as out:
        child = subprocess.Popen(line, stdout=out, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield psutil.Process(child.pid)
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(
    condition: Callable[[], object], process: psutil.Process, log: Path, within_s: float = 120.0
) -> None:
    """Wait until a node is as far as a condition; exit with the end of its log if it ends or takes too long."""
    deadline = time.monotonic() + within_s
    while not condition():
        if process.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
            raise SystemExit(log.read_text()[-3000:])
        time.sleep(0.02)


def answers(port: int) -> bool:
    """Return whether a server accepts connections to this port of the machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def role_of(process: psutil.Process) -> str | None:
    """Return the name of a node's process, derived from its command line."""
    words = process.cmdline()
    line = " ".join(words)
    for module in ("tridetr.role", "tridetr"):
        if module in words:
            return line.split(f" {module} ")[-1].split(" --config")[0]
    names = {"mosquitto": "broker", "backend_stub": "model", "bin/tritonserver": "tritonserver"}
    return next((role for part, role in names.items() if part in line), None)


def roles(of: psutil.Process) -> dict[str, psutil.Process]:
    """Return the processes of a node by name."""
    found: dict[str, psutil.Process] = {}
    for process in [of, *of.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            if role := role_of(process):
                found[role] = process
    return found


def fused_model(given: Path | None, folder: Path) -> tuple[Path, Path]:
    """Return a fused model and the bare network inside it, as files.

    Args:
        given: a fused model or an RF-DETR export; None: the bundled one.
        folder: where to write what has to be made.
    """
    import onnx

    from tridetr.contract import COCO_91
    from tridetr.models.fuse import fuse
    from tridetr.models.unwrap import network_of
    from tridetr.paths import model_repository_dir

    given = given or model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
    model = onnx.load(given)
    if [entry.name for entry in model.graph.input] == ["frame"]:
        bare = folder / "bare.onnx"
        onnx.save(network_of(model), bare)
        fused = folder / "fused.onnx"
        shutil.copy(given, fused)
        return fused, bare
    fused = folder / "fused.onnx"
    onnx.save(fuse(model, classes=COCO_91, source=given.name), fused)
    return fused, given


def as_served(fused: Path, choice: Choice, folder: Path) -> Path:
    """Return the fused model with the pre-processing that the node uses for this provider, as a file."""
    from tridetr.models.gathering import written_for_openvino
    from tridetr.triton.engine.choice import OPENVINO

    return written_for_openvino(fused, folder) if choice.provider == OPENVINO else fused


def bare_session(path: Path, choice: Choice, threads: int) -> Callable[[], object]:
    """Load the bare network as the node loads the fused one; return a run on a prepared input."""
    import onnxruntime

    from tridetr.triton.engine.session import BATCH, provider_options

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_free_dimension_override_by_name(BATCH, 1)
    providers = [(choice.provider, provider_options(choice, threads, None))]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    entry = session.get_inputs()[0]
    picture = np.random.default_rng(0).normal(size=(1, *entry.shape[1:])).astype(np.float32)
    return lambda: session.run(None, {entry.name: picture})
