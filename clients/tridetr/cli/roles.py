"""Commands that run a single process of a node."""

from __future__ import annotations

from typing import Annotated

import typer

from tridetr import role
from tridetr.cli.config_option import DEFAULT_CONFIG, ConfigFile


def capture(
    camera: Annotated[str, typer.Argument(help="Name of the camera in the configuration.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write the frames of one camera into its ring."""
    role.run_capture(camera, config_file)


def gpu(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Upload frames to the GPU, decode there, and lend its memory to the inference server."""
    role.run("gpu", config_file)


def detect(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run inference on each camera's newest frame and publish the detections."""
    role.run("detect", config_file)


def control(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Turn detections into sentry states and visits, and publish the events over MQTT."""
    role.run("control", config_file)


def record(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Save pictures and clips of visits to disk, as configured in `evidence`."""
    role.run("record", config_file)


def serve(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Serve the viewer, snapshots, health and metrics."""
    role.run("serve", config_file)


def triton(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run the embedded Triton Inference Server and keep it healthy."""
    role.run("triton", config_file)


COMMANDS = (capture, gpu, detect, control, record, serve, triton)
