"""The server or its stub dies, hangs or is stopped: it serves again within ten seconds and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import onnx
import psutil
import pytest
import yaml
from onnx import TensorProto, helper

from support.data import ORACLE, shared
from support.triton import SHM, SharedFrame, TritonThread, gone, running_triton, triton_config
from support.waiting import wait_for
from tridetr.errors import InferenceFailed, ModelUnavailable, RegionNotRegistered
from tridetr.telemetry import metrics
from tridetr.triton import start
from tridetr.triton.client import TritonClient
from tridetr.triton.endpoint import read_endpoint

RECOVERY_S = 10.0
QUIET_START_S = 4.0  # duration of a start on two idle cores


def restarts(reason: str) -> float:
    return float(metrics.SERVER_RESTARTS.labels(reason=reason)._value.get())


async def infer_until_it_works(client: TritonClient, slot: SharedFrame, within_s: float) -> float:
    """Infer like the detector; return the seconds until an inference succeeded."""
    began = time.monotonic()
    while True:
        try:
            await client.infer(slot.frame)
            return time.monotonic() - began
        except RegionNotRegistered:
            with contextlib.suppress(ModelUnavailable):
                await client.register(slot.frame.region)
        except (ModelUnavailable, InferenceFailed):
            await asyncio.sleep(0.05)
        assert time.monotonic() - began < within_s, "does not serve again"


def slowness(start_s: float) -> float:
    """Return the factor by which a loaded machine extends the time limits."""
    return max(1.0, start_s / QUIET_START_S)


def kill_server(triton: TritonThread) -> None:
    os.kill(triton.endpoint().pid or 0, signal.SIGKILL)


def kill_stub(triton: TritonThread) -> None:
    triton.stub().kill()


def stop_stub(triton: TritonThread) -> None:
    triton.stub().suspend()


def stop_server(triton: TritonThread) -> None:
    os.kill(triton.endpoint().pid or 0, signal.SIGSTOP)


def remove_socket(triton: TritonThread) -> None:
    Path(unquote(triton.endpoint().address.removeprefix("unix:"))).unlink()


def remove_folder(triton: TritonThread) -> None:
    shutil.rmtree(triton.config.run_dir / "triton")


@pytest.mark.parametrize(
    ("fault", "reason", "within_s"),
    [
        # Connected clients continue, but a restarted detector would not find the socket.
        (remove_socket, "file_lost", RECOVERY_S),
        (remove_folder, "file_lost", RECOVERY_S),
        (kill_server, "died", RECOVERY_S),
        (kill_stub, "stub_died", RECOVERY_S),
        # A hang is detected after PROBE_AFTER_S + infer_timeout_s (2 s here).
        (stop_stub, "stub_unhealthy", RECOVERY_S + 7),
        (stop_server, "hung", RECOVERY_S + 7),
    ],
)
async def test_failed_server_serves_again(
    tmp_path: Path, fault: Callable[[TritonThread], None], reason: str, within_s: float
) -> None:
    config = triton_config(tmp_path, shared(*ORACLE), infer_timeout_s=2)
    began = time.monotonic()
    with running_triton(config) as triton:
        before = triton.endpoint()
        within_s *= slowness(time.monotonic() - began)
        counted = restarts(reason)
        async with TritonClient(config) as client:
            with SharedFrame(config.instance, 320, 240) as slot:
                await client.register(slot.frame.region)
                await client.infer(slot.frame)
                await asyncio.to_thread(fault, triton)
                took = await infer_until_it_works(client, slot, within_s)
        after = await asyncio.to_thread(triton.endpoint, before.pid)
        assert after.pid != before.pid
        assert restarts(reason) == counted + 1
        print(f"{fault.__name__}: serving again after {took:.1f} s")
        regions = list(SHM.glob(f"tridetr-{config.instance}-triton-*"))
        assert len(regions) == 1, regions  # the killed backend's was removed


class Role:
    """`tridetr triton` as a separate process."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.config = triton_config(folder, model)
        self.file = folder / "node.yaml"
        self.file.write_text(yaml.safe_dump(self.config.model_dump(mode="json")))
        self.start()

    def start(self) -> None:
        line = [sys.executable, "-m", "tridetr", "triton", "--config", str(self.file)]
        self.process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)

    def serving(self, not_pid: int | None = None) -> list[psutil.Process]:
        """Wait until the server is ready; return the server and its stub."""

        def there() -> int | None:
            assert self.process.poll() is None
            endpoint = read_endpoint(self.config.run_dir)
            return endpoint.pid if endpoint and endpoint.pid != not_pid else None

        server = psutil.Process(wait_for(there, 60))
        return [server, *server.children()]

    def end(self) -> str:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.communicate(timeout=40)[1]

    def regions(self) -> list[Path]:
        return list(SHM.glob(f"tridetr-{self.config.instance}-*"))


def test_sigterm_stops_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    role = Role(tmp_path, shared(*ORACLE))
    try:
        family = role.serving()
        within_s = 2.5 * slowness(time.monotonic() - began)
        role.process.terminate()
        assert role.process.wait(within_s) == 0
        assert gone(family)
        assert not role.regions()
        assert read_endpoint(role.config.run_dir) is None
    finally:
        role.end()


def test_the_server_does_not_outlive_its_watcher(tmp_path: Path) -> None:
    role = Role(tmp_path, shared(*ORACLE))
    try:
        family = role.serving()
        role.process.kill()
        role.process.wait()
        wait_for(lambda: gone(family), 20, f"{family}")
        role.start()
        role.serving(not_pid=family[0].pid)
        assert len(role.regions()) == 1  # the earlier one was removed
    finally:
        role.end()
    assert not role.regions()


def test_model_with_other_shapes_is_refused_with_both_shapes(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 384, 384])]
    outputs = [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 3, 384, 384])]
    node = helper.make_node("Identity", ["image"], ["boxes"])
    model = helper.make_model(helper.make_graph([node], "wrong", inputs, outputs))
    path = tmp_path / "wrong.onnx"
    onnx.save(model, path)
    role = Role(tmp_path, path)
    assert role.process.wait(60) != 0
    said = role.end()
    assert "frame: expected UINT8 [B, 3H/2, W], found nothing" in said
    assert "boxes: expected FP32 [B, K, 4], found FP32 [1, 3, 384, 384]" in said
    assert "image: not part of the contract, found FP32 [1, 3, 384, 384]" in said
    assert "tridetr models fuse" in said
    assert "Traceback" not in said
    assert not role.regions()


async def test_replaced_model_is_loaded_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(shared(*ORACLE).read_bytes())
    config = triton_config(tmp_path, path)
    with running_triton(config) as triton:
        before = await asyncio.to_thread(triton.endpoint)
        (tmp_path / "next").write_bytes(b"not a model")
        (tmp_path / "next").rename(path)
        await asyncio.to_thread(wait_for, lambda: "not an ONNX model" in caplog.text)
        refusals = restarts("model_replaced")
        model = onnx.load(shared(*ORACLE))
        model.graph.node[-1].op_type = "Missing"  # conforms to the contract, but cannot be loaded
        onnx.save(model, tmp_path / "next")
        (tmp_path / "next").rename(path)
        await asyncio.to_thread(wait_for, lambda: "does not run: " in caplog.text, 60)
        assert triton.endpoint().pid == before.pid
        model = onnx.load(shared(*ORACLE))
        model.metadata_props.add(key="tridetr.classes", value='{"someone": 1}')
        onnx.save(model, tmp_path / "next")
        async with TritonClient(config) as client:
            assert not (await client.model()).classes  # the recorded model names none
            (tmp_path / "next").rename(path)
            after = await asyncio.to_thread(triton.endpoint, before.pid, 60)
            assert after.pid != before.pid
            assert (await client.model()).classes == {"someone": 1}
        assert restarts("model_replaced") == refusals + 1


def starting(triton: TritonThread, known: set[int]) -> psutil.Process | None:
    """Return the server process that is starting, if there is one."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            line = child.cmdline()  # empty while it is being executed
            ours = Path(child.cwd()) == triton.config.run_dir / "triton"
            if ours and line and line[0].endswith("bin/tritonserver") and child.pid not in known:
                return child
    return None


def test_hanging_start_is_aborted_and_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that never becomes ready must not be waited for until the start timeout."""
    monkeypatch.setattr(start, "STALLED_S", 3.0)
    config = triton_config(tmp_path, shared(*ORACLE))
    began = time.monotonic()
    with running_triton(config) as triton:
        first = triton.endpoint()
        slower = slowness(time.monotonic() - began)
        counted = restarts("start_timeout")
        os.kill(first.pid or 0, signal.SIGKILL)
        second = wait_for(lambda: starting(triton, {first.pid or 0}), 20 * slower)
        second.suspend()
        third = triton.endpoint(first.pid, round(30 * slower))
        assert third.pid != second.pid
        assert gone([second])
    assert restarts("start_timeout") == counted + 1
    assert "has made no progress for" in caplog.text
