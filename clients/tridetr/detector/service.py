"""The detector's process: one task for each camera over one connection."""

from __future__ import annotations

import asyncio

from tridetr.config import Config
from tridetr.detector.camera import CameraDetector
from tridetr.detector.session import Session
from tridetr.triton.client import TritonClient


async def run(config: Config, stop: asyncio.Event) -> None:
    """Serve all cameras until ``stop`` is set.

    Raises:
        ModelError: the model does not keep the contract or lacks a wanted class.
        ShmError: a limit of the system, or another detector runs.
    """
    async with TritonClient(config) as client:
        session = Session(config, client)
        cameras = [CameraDetector(config, name, session) for name in config.cameras]
        tasks = [asyncio.create_task(camera.run()) for camera in cameras]
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                await task  # a camera's task ends only by an error
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)
            for camera in cameras:
                camera.close()
