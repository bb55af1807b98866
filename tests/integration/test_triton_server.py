"""The embedded Triton with a model that detects people."""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support.data import FOOTAGE, FOOTAGE_TRUTH, ORACLE, shared
from support.triton import Frame, SharedFrame, TritonThread, region, running_triton, triton_config
from tridetr.errors import InferenceFailed, ModelUnavailable, RegionNotRegistered, TritonError
from tridetr.gateway import node_metrics
from tridetr.paths import model_repository_dir
from tridetr.triton import launch, triton_process
from tridetr.triton.client import TritonClient
from tridetr.triton.endpoint import SECRET_HEADER
from tridetr.triton.server_probe import Probe

PERSON = 1


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonThread]:
    folder = tmp_path_factory.mktemp("triton")
    config = triton_config(folder, shared(*ORACLE))
    with running_triton(config) as running:
        running.endpoint()
        yield running


def person_frames(numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    with av.open(str(shared(*FOOTAGE))) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in numbers:
                yield number, frame.to_ndarray(format="yuv420p")
            if number >= max(numbers):
                return


async def test_detections_are_the_recorded_ones(triton: TritonThread) -> None:
    truth = json.loads(shared(*FOOTAGE_TRUTH).read_text())["detections"]
    numbers = [0, 1, 240, 300, 301, 400]
    async with TritonClient(triton.config) as client:
        info = await client.model()
        assert not info.classes  # it names none: the detector assumes COCO's
        assert (info.engine, info.precision) == ("onnxruntime", "fp32")
        with SharedFrame(triton.config.instance, 768, 432) as slot:
            await client.register(slot.frame.region)
            for number, planes in person_frames(numbers):
                slot.planes[:] = planes
                found = await client.infer(slot.frame, request_id=f"frame-{number}")
                keep = (found.scores >= 0.4) & (found.classes == PERSON)
                rows = np.column_stack([found.boxes[keep], found.scores[keep]])
                wanted = np.array(truth[number]).reshape(-1, 5)
                assert rows.shape == wanted.shape, number
                np.testing.assert_allclose(rows, wanted, atol=0.6)
            await client.unregister(slot.frame.region)


async def test_bad_request_fails_alone_and_sizes_may_be_mixed(triton: TritonThread) -> None:
    name = triton.config.instance
    async with TritonClient(triton.config) as client:
        with (
            SharedFrame(name, 320, 240) as small,
            SharedFrame(name, 3840, 2160, "b-frames-1") as big,
        ):
            for slot in (small, big):
                slot.planes[:] = 128
                await client.register(slot.frame.region)
            odd = Frame(small.frame.region, 319, 240, 4096, 319 * 360)
            with pytest.raises(InferenceFailed, match="even height and width"):
                await client.infer(odd)
            beyond = Frame(small.frame.region, 320, 480, 4096, 320 * 720)
            with pytest.raises(InferenceFailed):
                await client.infer(beyond)
            for slot in (small, big, small):
                assert (await client.infer(slot.frame)).boxes.shape == (300, 4)
            for slot in (small, big):
                await client.unregister(slot.frame.region)


async def test_a_stale_registration_of_the_same_name_is_replaced(triton: TritonThread) -> None:
    """The server keeps reading the pages of a removed file until the region is registered again."""
    planes = dict(person_frames([300]))[300]
    async with TritonClient(triton.config) as client:
        with SharedFrame(triton.config.instance, 768, 432) as old:
            old.planes[:] = 128
            await client.register(old.frame.region)
            assert (await client.infer(old.frame)).scores[0] < 0.4
        with SharedFrame(triton.config.instance, 768, 432) as new:
            new.planes[:] = planes
            await client.register(new.frame.region)
            assert (await client.infer(new.frame)).scores[0] > 0.8
            await client.unregister(new.frame.region)
            with pytest.raises(RegionNotRegistered):
                await client.infer(new.frame)
            await client.unregister(new.frame.region)  # again: no error


async def test_a_missing_region_is_a_clear_error(triton: TritonThread) -> None:
    async with TritonClient(triton.config) as client:
        with pytest.raises(TritonError, match="tridetr-nowhere"):
            await client.register(region("tridetr-nowhere", 4096))


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest()),
        (
            "SystemSharedMemoryRegister",
            service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=1),
        ),
        ("RepositoryIndex", service_pb2.RepositoryIndexRequest()),
        (
            "RepositoryModelUnload",
            service_pb2.RepositoryModelUnloadRequest(model_name="rfdetr_ort"),
        ),
        ("TraceSetting", service_pb2.TraceSettingRequest()),
        ("LogSettings", service_pb2.LogSettingsRequest()),
    ],
)
def test_secret_is_required(triton: TritonThread, method: str, request_: object) -> None:
    endpoint = triton.endpoint()
    assert endpoint.secret_file
    with grpc.insecure_channel(endpoint.address) as channel:
        call = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), method)
        for metadata in (None, ((SECRET_HEADER, "guess"),)):
            with pytest.raises(grpc.RpcError, match="restricted"):
                call(request_, timeout=5, metadata=metadata)
    status = service_pb2.SystemSharedMemoryStatusRequest()
    with grpc.insecure_channel(endpoint.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.SystemSharedMemoryStatus(status, timeout=5, metadata=endpoint.metadata())


def test_no_port_listens_and_files_are_private(triton: TritonThread) -> None:
    endpoint = triton.endpoint()
    server, stub = psutil.Process(endpoint.pid), triton.stub()
    listening = [
        c.laddr for p in (server, stub) for c in p.net_connections("inet") if c.status == "LISTEN"
    ]
    assert not listening
    assert b'nv_inference_request_success{model="rfdetr_ort"' in node_metrics._fetch(
        endpoint.metrics or ""
    )
    folder = triton.config.run_dir / "triton"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((triton.config.run_dir / "triton.json").stat().st_mode) == 0o600


async def test_an_external_server_is_used_and_none_is_started(
    triton: TritonThread, tmp_path: Path
) -> None:
    endpoint = triton.endpoint()
    url = {"url": endpoint.address, "secret_file": endpoint.secret_file}
    config = triton_config(tmp_path, shared(*ORACLE), **url)
    async with TritonClient(config) as client:
        info = await client.model()
        assert info.name == "person_oracle"
        assert info.checksum.startswith(info.version)
        assert len(info.version) == 12
        with SharedFrame(config.instance, 64, 48) as slot:
            await client.register(slot.frame.region)
            assert (await client.infer(slot.frame)).scores.shape == (300,)
            await client.unregister(slot.frame.region)
    with pytest.raises(TritonError, match="external"):
        triton_process.run(config, triton.stop)
    guess = tmp_path / "guess"
    guess.write_text("guess")
    config = triton_config(tmp_path, shared(*ORACLE), url=endpoint.address, secret_file=str(guess))
    async with TritonClient(config) as client:
        with pytest.raises(TritonError, match="secret_file"):
            await client.register(region("tridetr-x", 4096))


async def test_client_reports_a_missing_server(tmp_path: Path) -> None:
    async with TritonClient(triton_config(tmp_path, shared(*ORACLE))) as client:
        with pytest.raises(ModelUnavailable, match="not running"):
            await client.model()
    gone = triton_config(tmp_path, shared(*ORACLE), url=f"unix:{tmp_path}/nothing")
    async with TritonClient(gone) as client:
        with pytest.raises(ModelUnavailable):
            await client.model()


def test_two_servers_do_not_share_a_run_dir(triton: TritonThread) -> None:
    with pytest.raises(TritonError, match="another"):
        triton_process.run(triton.config, triton.stop)


@pytest.mark.parametrize("name", ["with space", "umläut", "a$(touch x);b&'c\"d"])
def test_run_folder_may_have_any_name(name: str) -> None:
    """The server starts its Python backend with a bash command line in which nothing is quoted."""
    # Names of Unix sockets are short, and so is this folder's
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / name
        folder.mkdir()
        model = model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
        with running_triton(triton_config(folder, model)) as triton:
            endpoint = triton.endpoint()
            info = Probe(endpoint, triton.config.model.name).model()
            assert info.engine == "onnxruntime"
            assert info.provider.endswith("ExecutionProvider")
        assert [path.name for path in Path(parent).iterdir()] == [name]


def test_checkout_in_a_folder_with_a_non_ascii_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stub's Python can represent such names as bytes only, and the server's logger rejects them."""
    package = tmp_path / "Projekte ü" / "tridetr"
    shutil.copytree(
        Path(launch.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(launch, "_OURS", package / "triton" / "backends")
    model = model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
    with running_triton(triton_config(tmp_path, model)) as triton:
        triton.endpoint()
        assert list(package.rglob("__pycache__/session.*.pyc")), "the copy was not imported"
        (link,) = (triton.config.run_dir / "triton" / "packages").iterdir()
        assert link.resolve() == package.parent
