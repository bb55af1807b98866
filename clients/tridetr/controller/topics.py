"""The names of all MQTT topics, in one place (documented in docs/mqtt.md)."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from tridetr.config import Config


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics of one node.

    Attributes:
        prefix: first part (``mqtt.prefix``).
        device: second part: this node.
        discovery_prefix: Home Assistant's, or None.
    """

    prefix: str
    device: str
    discovery_prefix: str | None

    @classmethod
    def of(cls, config: Config) -> Topics:
        """Return the topics that ``config`` asks for."""
        device = config.mqtt.device or default_device(socket.gethostname(), config.instance)
        return cls(config.mqtt.prefix.rstrip("/"), device, config.mqtt.discovery_prefix)

    @property
    def root(self) -> str:
        return f"{self.prefix}/{self.device}"

    @property
    def availability(self) -> str:
        return f"{self.root}/availability"

    @property
    def command(self) -> str:
        return f"{self.root}/command"

    def state(self, camera: str) -> str:
        return f"{self.root}/{camera}/state"

    def person(self, camera: str) -> str:
        return f"{self.root}/{camera}/person"

    def status(self, camera: str) -> str:
        return f"{self.root}/{camera}/status"

    def events(self, camera: str) -> str:
        return f"{self.root}/{camera}/events"

    @property
    def discovery(self) -> str | None:
        """Topic of the device discovery message."""
        return self.discovery_prefix and f"{self.discovery_prefix}/device/{self.object_id}/config"

    @property
    def home_assistant_status(self) -> str | None:
        """Where Home Assistant says that it has started."""
        return self.discovery_prefix and f"{self.discovery_prefix}/status"

    @property
    def object_id(self) -> str:
        """Id of the device, unique among the nodes of a broker."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", f"{self.prefix}_{self.device}")


def default_device(host: str, instance: str) -> str:
    """Return the device name of a node without ``mqtt.device``: two instances on one host differ."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", host.split(".")[0])[:48].strip("-_") or "node"
    return name if instance == "default" else f"{name}-{instance}"
