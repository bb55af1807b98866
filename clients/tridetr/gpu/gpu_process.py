"""The gpu process: one thread for each camera, one CUDA context for all of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tridetr.config import Config
from tridetr.errors import CudaError, GpuMemoryError, ShmError
from tridetr.gpu.cameras import CameraWork, Decoder, Uploader
from tridetr.machine import find_machine
from tridetr.plan import place_frames
from tridetr.telemetry import heartbeat

_log = logging.getLogger("tridetr.gpu")

_TURN_S = 0.2
_HUNG_S = 5.0  # without progress for this long, a camera's thread hangs
_OPEN_S = 60.0  # time to open a GPU: a machine with many of them needs a while
_RETRY_S = 1.0
MakeWork = Callable[[str], CameraWork]


def run(config: Config, stop: threading.Event) -> None:
    """Upload and decode for all cameras until `stop` is set.

    Raises:
        CudaError: There is no GPU, or it failed, so that the process must be restarted.
    """
    frames = place_frames(config, find_machine(config))
    if not frames.gpu:
        raise CudaError(f"the gpu process has nothing to do: {frames.why_not}")
    cameras = [
        name for name, camera in config.cameras.items() if camera.decode == "gpu" or frames.cuda
    ]
    serve(cameras, lambda camera: make_work(config, camera), stop)


def make_work(config: Config, camera: str) -> CameraWork:
    """Open the GPU for the calling thread, and the camera's rings."""
    if config.cameras[camera].decode == "gpu":
        from tridetr.gpu.cuda_gpu import CudaDecoders

        return Decoder(CudaDecoders(), config, camera)
    from tridetr.cuda.driver import DriverCuda

    return Uploader(DriverCuda(), config.instance, camera)


def serve(cameras: list[str], make: MakeWork, stop: threading.Event) -> None:
    """Run the work of all cameras until `stop` is set or one of them fails.

    Args:
        cameras: Their names.
        make: Creates the work of a camera; called in its thread.
        stop: Ends the work once it is set.

    Raises:
        CudaError: The GPU failed, or does not respond.
    """
    threads = [_CameraThread(camera, make, stop) for camera in cameras]
    for thread in threads:
        thread.start()
    try:
        while not stop.wait(_TURN_S):
            for thread in threads:
                if thread.failure is not None:
                    raise thread.failure
            oldest = min((thread.turned_s for thread in threads), default=time.monotonic())
            if time.monotonic() - oldest < _HUNG_S:
                heartbeat.beat()
    finally:
        stop.set()
        for thread in threads:
            thread.join(_HUNG_S)


class _CameraThread(threading.Thread):
    """Runs the work of one camera.

    Attributes:
        turned_s: When it last made progress (monotonic time [s]); while it opens the GPU, the deadline for that.
        failure: The error that ended it; None if there is none.
    """

    def __init__(self, camera: str, make: MakeWork, stop: threading.Event) -> None:
        super().__init__(name=f"gpu {camera}", daemon=True)
        self._camera = camera
        self._make = make
        self._stopping = stop
        self.turned_s = time.monotonic() + _OPEN_S
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._work()
                except (ShmError, GpuMemoryError) as error:
                    _log.warning("camera %s: %s; trying again", self._camera, error)
                    self.turned_s = time.monotonic() + _OPEN_S
                    self._stopping.wait(_RETRY_S)
        except Exception as error:  # `serve` raises it
            self.failure = error

    def _work(self) -> None:
        work = self._make(self._camera)
        try:
            while not self._stopping.is_set():
                work.step(_TURN_S)
                self.turned_s = time.monotonic()
        finally:
            work.close()
