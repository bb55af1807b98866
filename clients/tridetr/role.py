"""Run one process of the pipeline: ``python -m tridetr.role COMMAND [CAMERA] --config FILE``.

`tridetr up` starts its processes this way. The commands `tridetr capture`, `tridetr detect` and so on run the same
code, but the imports of the command line would delay each process by a tenth of a second.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

from tridetr import service
from tridetr.config import load_config
from tridetr.errors import ConfigError, TridetrError

# command: (name of the process, module)
ROLES: Final = {
    "gpu": ("gpu", "tridetr.gpu.gpu_process"),
    "detect": ("detector", "tridetr.detector.detector_process"),
    "control": ("controller", "tridetr.controller.controller_process"),
    "record": ("recorder", "tridetr.recorder.recorder_process"),
    "serve": ("gateway", "tridetr.gateway.gateway_process"),
    "triton": ("triton", "tridetr.triton.triton_process"),
}


def run(command: str, config_file: Path) -> None:
    """Run the process of a command until a signal stops it."""
    config = load_config(config_file)
    name, module = ROLES[command]
    with service.explaining_unwritable_disks(config):
        service.prepare(config, name)
        work = import_module(module).run  # imports the metrics, which `prepare` has set up
        if inspect.iscoroutinefunction(work):
            service.run_async(work, config)
        else:
            service.run_blocking(lambda stop: work(config, stop))


def run_capture(camera: str, config_file: Path) -> None:
    """Run the capture process of a camera until a signal stops it or its video file ends.

    Raises:
        ConfigError: the configuration has no such camera.
    """
    config = load_config(config_file)
    if camera not in config.cameras:
        raise ConfigError(f"no camera {camera!r} in the configuration: {', '.join(config.cameras)}")
    with service.explaining_unwritable_disks(config):
        service.prepare(config, f"capture {camera}")
        from tridetr.capture.capture_process import run as work
        from tridetr.capture.memory_limit import limit_memory

        limit_memory(config.cameras[camera].max_pixels)
        service.run_blocking(lambda stop: work(config, camera, stop))


def main() -> None:
    """Entry point of ``python -m tridetr.role``."""
    service.keep_private()
    service.prepare_streams()
    command, *camera, _, file = sys.argv[1:]
    try:
        if camera:
            run_capture(camera[0], Path(file))
        else:
            run(command, Path(file))
    except TridetrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
