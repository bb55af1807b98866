"""The detector process: infers the frames of all cameras of a node on one inference server."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tridetr.config import Config
from tridetr.contract import COCO_91
from tridetr.detector.camera import CameraDetector
from tridetr.detector.server import Client, Server
from tridetr.errors import ModelUnavailable
from tridetr.model_card import NAME_CLASSES, ModelInfo
from tridetr.served_model import ServedModelReader, keep_served_model, write_served_model
from tridetr.telemetry import metrics
from tridetr.triton.client import TritonClient
from tridetr.write_check import disk_remedy

log = logging.getLogger("tridetr.detector")

# Give up a request after this many times infer_timeout_s: longer than the watcher of the embedded server waits.
_PATIENCE = 7.0
_LOOK_S = 2.0  # interval at which an external server is asked for its model
_GRACE_S = 1.5  # for requests in flight when the process is stopped


async def run(config: Config, stop: asyncio.Event) -> None:
    """Infer the frames of all cameras until `stop` is set.

    Raises:
        ConfigError: A camera wants classes that the model does not know.
        ModelError: The model does not conform to the contract.
        ShmError: Another detector runs, or a limit of the system is reached.
        CudaError: ``device`` is `cuda`, and the server cannot open GPU memory.
    """
    async with TritonClient(config) as client:
        await Detector(config, client).run(stop)


class Detector:
    """Runs the inference loops of all cameras of a node."""

    def __init__(self, config: Config, client: Client) -> None:
        """Open the rings of all cameras.

        Args:
            config: The configuration of the node.
            client: The connection to the inference server.

        Raises:
            ShmError: Another detector runs, or a limit of the system is reached.
        """
        self._config = config
        self._served: ModelInfo | None = None
        self._is_shared = True  # whether the other processes have its description
        give_up_s = _PATIENCE * config.triton.infer_timeout_s
        self._server = Server(client, self._use_model, give_up_s, config.device)
        self._cameras: list[CameraDetector] = []
        try:
            for camera in config.cameras:
                self._cameras.append(
                    CameraDetector(
                        config.instance,
                        camera,
                        config.detect_for(camera),
                        self._server,
                        config.triton.infer_timeout_s,
                        config.alarm_for(camera).classes,
                    )
                )
        except BaseException:
            self._close()
            raise

    async def run(self, stop: asyncio.Event) -> None:
        """Infer until `stop` is set; raises the same errors as :func:`run`."""
        tasks = {asyncio.create_task(camera.run()): camera for camera in self._cameras}
        helpers: set[asyncio.Task[Any]] = {
            asyncio.create_task(self._tick()),
            asyncio.create_task(self._look_at_model()),
            asyncio.create_task(stop.wait()),
        }
        try:
            done, _ = await asyncio.wait({*tasks, *helpers}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises the error that ended a camera's loop
        finally:
            for task in helpers:
                task.cancel()
            await self._finish(tasks)
            await self._server.regions.close()
            self._close()

    async def _finish(self, tasks: dict[asyncio.Task[None], CameraDetector]) -> None:
        """Stop the cameras; wait for those with a request in flight, whose frames Triton still reads."""
        for task, camera in tasks.items():
            if not camera.in_flight:
                task.cancel()
        for camera in tasks.values():
            camera.stop()
        _, pending = await asyncio.wait(tasks, timeout=_GRACE_S)
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            for camera in self._cameras:
                camera.tick()
            if self._served is not None:
                if not self._is_shared:
                    with suppress(ModelUnavailable):
                        self._share(self._served)
                keep_served_model(self._config.run_dir, self._served)

    async def _look_at_model(self) -> None:
        """Notice another model on an external server; the embedded one is restarted with it."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._config.triton.url is not None:
                await self._server.look_again()

    def _use_model(self, info: ModelInfo) -> None:
        if is_nameless := not info.classes:
            info = replace(info, classes=COCO_91)
        if info == self._served:
            return
        self._share(info)  # first: if that fails, the cameras keep the classes of the model before
        for camera in self._cameras:
            camera.use_model(info)
        log.info(
            "model %s version %s: %s, %s, %s",
            info.name,
            info.version,
            info.engine,
            info.provider,
            info.precision,
        )
        if is_nameless:
            log.warning(
                "the model %s does not name its classes: COCO's ids 1 to 90 are assumed, with 1 for person. Remedy: %s",
                info.name,
                NAME_CLASSES,
            )
        before, self._served = self._served, info
        if before is not None:
            _model_metric(before, 0)
        _model_metric(info, 1)

    def _share(self, info: ModelInfo) -> None:
        """Write the model's description for the other processes; if that fails, it is tried again every second.

        Raises:
            ModelUnavailable: It cannot be written, and the others would take the class ids of results for other
                classes.
        """
        run_dir = self._config.run_dir
        was_shared, self._is_shared = self._is_shared, True
        try:
            write_served_model(run_dir, info)
        except OSError as error:  # such as a full disk
            self._is_shared = False
            why = (
                f"cannot write the model's description to {run_dir} ({error.strerror or error}); "
                f"{disk_remedy(error)}"
            )
            if not info.classes.items() <= ServedModelReader(run_dir).classes().items():
                raise ModelUnavailable(why) from None
            if was_shared:
                log.warning("%s; trying again", why)

    def _close(self) -> None:
        for camera in self._cameras:
            camera.close()


def _model_metric(info: ModelInfo, value: int) -> None:
    metrics.MODEL_INFO.labels(info.name, info.engine, info.provider, info.precision).set(value)
