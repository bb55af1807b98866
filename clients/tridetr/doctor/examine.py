"""All checks, in the order in which a person would look."""

from __future__ import annotations

from tridetr.config import Config
from tridetr.doctor import gpu, parts, system
from tridetr.doctor.configuration import check_configuration
from tridetr.doctor.finding import Finding
from tridetr.doctor.mqtt_broker import check_broker
from tridetr.doctor.streams import check_cameras


def examine(config: Config) -> list[Finding]:
    """Run every check for this configuration."""
    checks = (
        check_configuration(config),
        system.check_python(),
        system.check_cpu(),
        system.check_shm(config),
        system.check_queues(config),
        system.check_ports(config),
        parts.check_server(config),
        parts.check_provider(config),
        parts.check_model(config),
        gpu.check_gpu(config),
        check_broker(config),
        check_cameras(config),
    )
    return [finding for check in checks for finding in check]
