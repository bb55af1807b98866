"""The detector with the real server: zero-copy frames, a killed server, a ring of the next generation."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from tritonclient.grpc import service_pb2

from support.data import FOOTAGE, ORACLE, shared
from support.rings import frame_stamp
from support.triton import running_triton, triton_config
from support.waiting import slack
from tridetr.detector.detector_process import run
from tridetr.shm.detections import DetectionReader
from tridetr.shm.frames import FrameWriter
from tridetr.shm.names import unlink_instance
from tridetr.triton.client import TritonClient
from tridetr.triton.endpoint import read_endpoint

FIRST, COUNT = 260, 14  # a person is there
KILLED_AT, RESIZED_AT = (4,), 9


def pictures(path: Path) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return the I420 planes of some frames of the footage."""
    kept = []
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= FIRST + COUNT:
                break
            if number >= FIRST:
                kept.append(frame.to_ndarray(format="yuv420p"))
    return kept


async def until(condition: Any, within_s: float = 40) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@contextmanager
def unlinked(instance: str) -> Iterator[None]:
    """Remove the segments of an instance at the end, after their writers have stopped."""
    yield
    unlink_instance(instance)


async def registered(client: TritonClient) -> list[str]:
    """Return the names of the regions that the server knows."""
    request = service_pb2.SystemSharedMemoryStatusRequest()
    return sorted((await client._ask("SystemSharedMemoryStatus", request, 5.0)).regions)


async def test_no_lossless_frame_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    frames = pictures(shared(*FOOTAGE))
    height, width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]
    config = triton_config(tmp_path, shared(*ORACLE))
    stop = asyncio.Event()
    found: dict[int, tuple[int, np.ndarray[Any, Any]]] = {}
    detector = asyncio.create_task(run(config, stop))  # before the server has started
    try:
        with (
            running_triton(config) as triton,
            unlinked(config.instance),
            FrameWriter(config.instance, "cam", width=width, height=height) as writer,
            DetectionReader(config.instance, "cam", None) as results,
        ):
            after = 0

            def take() -> None:
                nonlocal after
                while (lease := results.lease_next(after)) is not None:
                    with lease:
                        after = lease.sequence
                        number = lease.stamp.frame_number
                        assert number not in found, "a frame arrived twice"
                        found[number] = (lease.stamp.width, lease.detections.copy())

            def done(number: int) -> bool:
                take()
                assert not detector.done()
                return number in found

            await asyncio.to_thread(triton.endpoint)
            for number, planes in enumerate(frames):
                slot = writer.begin()
                assert slot is not None
                slot.planes[:] = planes
                writer.publish(slot, frame_stamp(number, lossless=True))
                if number in KILLED_AT:
                    endpoint = read_endpoint(config.run_dir)
                    assert endpoint
                    os.kill(endpoint.pid or 0, signal.SIGKILL)
                await until(lambda: done(number))
                if number == RESIZED_AT:
                    writer.resize(width // 2 & ~1, height // 2 & ~1)
                    frames[number + 1 :] = [
                        np.full((writer.height * 3 // 2, writer.width), 128, np.uint8)
                    ] * (COUNT - number - 1)

            async with TritonClient(config) as client:
                deadline = time.monotonic() + 40
                while await registered(client) != [f"tridetr-{config.instance}-cam-frames-2"]:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                stop.set()
                await asyncio.wait_for(detector, slack(3))
                assert await registered(client) == []  # no region is left on the server
    finally:
        stop.set()
        await asyncio.gather(detector, return_exceptions=True)
        unlink_instance(config.instance, ["cam"])

    assert sorted(found) == list(range(COUNT))
    assert found[COUNT - 1][0] == width // 2 & ~1
    people = [rows for number, (_, rows) in found.items() if number <= RESIZED_AT]
    assert all((rows["class_id"] == 1).any() and rows["score"].max() > 0.5 for rows in people)
    moved = [float(rows["x1"][0]) for rows in people]
    assert len(set(moved)) > len(moved) // 2  # each frame has its own result
