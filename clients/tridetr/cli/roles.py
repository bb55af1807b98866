"""The single processes: ``tridetr up`` starts them, and so does each container of the chart."""

from __future__ import annotations

from typing import Annotated

import typer

from tridetr import service
from tridetr.cli.config_option import DEFAULT_CONFIG, ConfigFile
from tridetr.config import load_config
from tridetr.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (capture, gpu, detect, control, record, serve, triton):
        app.command()(command)


def capture(
    camera: Annotated[str, typer.Argument(help="Name of the camera in the configuration.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write the frames of one camera into its ring."""
    config = load_config(config_file)
    if camera not in config.cameras:
        raise ConfigError(f"no camera {camera!r} in the configuration: {', '.join(config.cameras)}")
    service.prepare(config, f"capture {camera}")
    from tridetr.capture.capture_process import run

    service.run_blocking(lambda stop: run(config, camera, stop))


def gpu(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Upload frames to the GPU, decode there, and lend its memory to the inference server."""
    config = load_config(config_file)
    service.prepare(config, "gpu")
    from tridetr.gpu.gpu_process import run

    service.run_blocking(lambda stop: run(config, stop))


def detect(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Name each camera's newest frame to Triton and publish what comes back."""
    config = load_config(config_file)
    service.prepare(config, "detector")
    from tridetr.detector.detector_process import run

    service.run_async(run, config)


def control(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Decide on detections, publish events over MQTT, set the sentry mode."""
    config = load_config(config_file)
    service.prepare(config, "controller")
    from tridetr.controller.controller_process import run

    service.run_async(run, config)


def record(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Keep pictures and clips of visits on disk, as `evidence` asks for."""
    config = load_config(config_file)
    service.prepare(config, "recorder")
    from tridetr.recorder.recorder_process import run

    service.run_blocking(lambda stop: run(config, stop))


def serve(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Serve the viewer, snapshots, health and metrics."""
    config = load_config(config_file)
    service.prepare(config, "gateway")
    from tridetr.gateway.gateway_process import run

    service.run_async(run, config)


def triton(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run the embedded Triton Inference Server and keep it healthy."""
    config = load_config(config_file)
    service.prepare(config, "triton")
    from tridetr.triton.triton_process import run

    service.run_blocking(lambda stop: run(config, stop))
