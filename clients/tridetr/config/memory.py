"""Estimate how much of ``/dev/shm`` and of the disk a node needs. The chart uses the same formulas."""

from __future__ import annotations

import math

from tridetr.config.camera_sections import CameraSection
from tridetr.config.schema import Config

MIB = 1 << 20
ASSUMED_SIZE = (1920, 1080)  # of a camera whose size is not configured
SMALL_RINGS_MIB = 2  # results, states, and header pages
SLACK_MIB = 192  # the Python backend's own regions, and headroom
STATE_MIB = 256  # outbox, sentry state, and what evidence leaves free for them
GENERATIONS = 2  # while the picture size changes, the old and the new ring exist together


def ring_mib(config: Config, camera: CameraSection) -> int:
    """Return the size of one generation of a camera's rings [MiB].

    A slot counts 3 bytes per pixel: 1.5 for the I420 frame, 0.75 for the camera's own JPEG, and a reserve.

    Example:
        >>> from pathlib import Path
        >>> from tridetr.config.load import parse_config
        >>> text = "cameras: {hall: {source: rtsp://192.0.2.1/s}}"
        >>> config = parse_config(text, origin=Path("tridetr.yaml"))
        >>> ring_mib(config, config.cameras["hall"])
        61
    """
    width, height = camera.width or ASSUMED_SIZE[0], camera.height or ASSUMED_SIZE[1]
    packets = 0 if camera.source.kind == "synthetic" else int(config.packets.max_mib)
    view = 0 if camera.view is None else int(config.packets.max_mib)
    return camera.slots * width * height * 3 // MIB + packets + view + SMALL_RINGS_MIB


def node_mib(config: Config) -> int:
    """Return the space in ``/dev/shm`` that a node needs [MiB]: two generations of all rings, and Triton's regions.

    Example:
        >>> from pathlib import Path
        >>> from tridetr.config.load import parse_config
        >>> text = "cameras: {hall: {source: rtsp://192.0.2.1/s}}"
        >>> node_mib(parse_config(text, origin=Path("tridetr.yaml")))
        314
    """
    rings = sum(ring_mib(config, camera) for camera in config.cameras.values())
    return GENERATIONS * rings + SLACK_MIB


def state_mib(config: Config) -> int:
    """Return the disk space that a node needs in ``state_dir`` [MiB], including pictures and clips of visits.

    A clip that is being written takes up to a quarter of ``evidence.max_mib`` in addition to that limit.
    """
    evidence, folder = config.evidence, config.evidence_dir
    if evidence is None or folder is None or not folder.is_relative_to(config.state_dir):
        return STATE_MIB
    return STATE_MIB + math.ceil(evidence.max_mib * 5 / 4)
