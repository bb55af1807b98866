"""The CUDA driver calls through the real cuda-bindings, with a driver library that simulates a GPU.

This checks that every call has the right name, arguments and results, not what a GPU does with them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tridetr.cuda.driver import explain
from tridetr.machine import has_bindings

_SOURCE = Path(__file__).parents[1] / "support" / "strict_cuda.c"
_PROGRAM = """
import json, mmap, sys
import numpy as np
from tridetr.cuda.driver import DriverCuda
from tridetr.errors import CudaError

def work():
    gpu = DriverCuda()
    page = np.frombuffer(mmap.mmap(-1, 3 * 4096), np.uint8)
    page[:] = 0
    page[:4096] = 7
    address = page.ctypes.data
    gpu.pin(address, page.nbytes)
    pointer, stream, event = gpu.allocate(8192), gpu.make_stream(), gpu.make_event()
    handle = gpu.ipc_handle(pointer)
    gpu.upload(pointer + 4096, address, 4096, stream)
    gpu.download(address + 8192, pointer + 4096, 4096, stream)
    gpu.record(event, stream)
    before = int(page[8192:].max())
    complete = [gpu.is_complete(event), gpu.is_complete(event)]
    gpu.unpin(address)
    gpu.free_event(event)
    gpu.free_stream(stream)
    gpu.free(pointer)
    gpu.close()
    return {
        "name": gpu.name, "uuid": gpu.uuid.hex(), "device_id": gpu.device_id, "handle": handle.hex(),
        "before": before, "after": int(page[8192:].min()), "between": int(page[4096:8192].max()),
        "complete": complete,
    }

try:
    print(json.dumps(work()))
except CudaError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the driver that simulates a GPU, and return its folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    if not has_bindings():
        pytest.skip("cuda-bindings is not installed (pip install -e '.[dev]')")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(_SOURCE)]
    subprocess.run(command, check=True)
    return folder


def run(library: Path, **environment: str) -> dict[str, Any]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library)} | environment
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_call_reaches_the_driver(library: Path) -> None:
    assert run(library) == {
        "name": "C GPU",
        "uuid": bytes(range(1, 17)).hex(),
        "device_id": 0,
        "handle": bytes(range(200, 136, -1)).hex(),
        "before": 0,  # nothing is copied before the event has completed
        "after": 7,
        "between": 0,
        "complete": [False, True],
    }


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("cuInit", 100, ["CUDA_ERROR_NO_DEVICE", "nvidia-smi"]),
        ("cuDevicePrimaryCtxRetain", 46, ["DEVICE_UNAVAILABLE", "nvidia-smi -c DEFAULT"]),
        ("cuMemAlloc", 2, ["CUDA_ERROR_OUT_OF_MEMORY", "slots"]),
        ("cuMemHostRegister", 800, ["CUDA_ERROR_NOT_PERMITTED", "ulimit -l"]),
        ("cuIpcGetMemHandle", 801, ["CUDA_ERROR_NOT_SUPPORTED", "device: auto"]),
        ("cuMemcpyHtoDAsync", 700, ["CUDA_ERROR_ILLEGAL_ADDRESS", "dmesg"]),
        ("cuEventRecord", 999, ["CUDA_ERROR_UNKNOWN", "dmesg"]),
        ("cuEventQuery", 214, ["CUDA_ERROR_ECC_UNCORRECTABLE", "dmesg"]),
    ],
)
def test_errors_contain_cause_and_remedy(
    library: Path, call: str, code: int, words: list[str]
) -> None:
    message = run(library, TRIDETR_FAKE_FAILS=f"{call}:{code}")["error"]
    for word in (call, "the fake fails", "Remedy", *words):
        assert word in message


def test_a_gpu_without_ipc(library: Path) -> None:
    message = run(library, TRIDETR_FAKE_NO_IPC="1")["error"]
    assert "C GPU cannot share memory between processes" in message


def test_missing_driver_is_reported_with_its_remedy(library: Path, tmp_path: Path) -> None:
    found = run(tmp_path)
    if "name" in found:
        pytest.skip("this machine has a driver")
    message = found["error"]
    assert "NVIDIA's driver cannot be used" in message
    assert "Remedy: install it" in message


def test_a_driver_that_lacks_a_function(library: Path, tmp_path: Path) -> None:
    """A driver older than cuda-bindings expects must give the same kind of error."""
    text = _SOURCE.read_text().replace("CUresult cuIpcGetMemHandle", "CUresult cuGone")
    (tmp_path / "old.c").write_text(text)
    target = str(tmp_path / "libcuda.so.1")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", target, str(tmp_path / "old.c")], check=True)
    message = run(tmp_path)["error"]
    assert "a newer one" in message
    assert "cuIpcGetMemHandle" in message


def test_unknown_failures_have_a_remedy_too() -> None:
    assert "must be restarted" in explain("cuX", "CUDA_ERROR_LAUNCH_FAILED", "launch failed")
