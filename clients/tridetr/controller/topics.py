"""The names of all MQTT topics (documented in docs/mqtt.md)."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass

from tridetr.config import Config
from tridetr.controller.visits import slug

_RESERVED = {"state", "status", "events", "problem", "camera", "visits", "armed", "set", "picture"}


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics of one node.

    Attributes:
        prefix: first part of each topic (``mqtt.prefix``).
        device: second part: name of this node.
        discovery_prefix: Home Assistant's discovery prefix; None = no discovery.

    Example:
        >>> Topics("tridetr", "porch", None).events("hall")
        'tridetr/porch/hall/events'
    """

    prefix: str
    device: str
    discovery_prefix: str | None

    @classmethod
    def of(cls, config: Config) -> Topics:
        """Return the topics for a configuration."""
        return cls(
            config.mqtt.prefix.rstrip("/"), device_name(config), config.mqtt.discovery_prefix
        )

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

    def presence(self, camera: str, class_name: str) -> str:
        """Topic that holds whether an object of a class is present: ``…/person``."""
        return f"{self.root}/{camera}/{topic_level(class_name)}"

    def problem(self, camera: str | None = None) -> str:
        """Topic of a camera's problems, or of the node's."""
        return f"{self.root}/{camera}/problem" if camera else f"{self.root}/problem"

    def armed(self, camera: str | None = None) -> str:
        """Topic that holds the state of a camera's arming switch, or of the node's."""
        return f"{self.root}/{camera}/armed" if camera else f"{self.root}/armed"

    def arm(self, camera: str | None = None) -> str:
        """Topic that sets an arming switch."""
        return f"{self.armed(camera)}/set"

    def picture(self, camera: str) -> str:
        """Topic that holds the picture of a camera's newest visit."""
        return f"{self.root}/{camera}/picture"

    @property
    def node(self) -> str:
        """Topic that describes the whole node."""
        return f"{self.root}/node"

    def status(self, camera: str) -> str:
        return f"{self.root}/{camera}/status"

    def events(self, camera: str) -> str:
        return f"{self.root}/{camera}/events"

    def discovery(self, camera: str | None = None) -> str:
        """Topic of the discovery message of a camera, or of the node."""
        device = f"{self.object_id}/{camera}" if camera else self.object_id
        return f"{self.discovery_prefix}/device/{device}/config"

    def is_own(self, topic: str) -> bool:
        """Return whether a topic can only be this node's, as it is called now."""
        own = f"{self.root}/", f"{self.discovery_prefix}/device/{self.object_id}/"
        return topic.startswith(own)

    @property
    def home_assistant_status(self) -> str | None:
        """Topic of Home Assistant's birth message; None without discovery."""
        return self.discovery_prefix and f"{self.discovery_prefix}/status"

    @property
    def object_id(self) -> str:
        """ID of the Home Assistant device, unique among the nodes of a broker."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", f"{self.prefix}_{self.device}")


def topic_level(class_name: str) -> str:
    """Return a class's topic level and entity key, which never clashes with a reserved one.

    Example:
        >>> topic_level("traffic light"), topic_level("camera")
        ('traffic_light', 'camera_seen')
    """
    level = slug(class_name)
    return f"{level}_seen" if level in _RESERVED else level


def device_name(config: Config) -> str:
    """Return ``mqtt.device``; if it is not set, a name from ``TRIDETR_MQTT_DEVICE`` or the host name."""
    if config.mqtt.device is not None:
        return config.mqtt.device
    given = os.environ.get("TRIDETR_MQTT_DEVICE", "")
    return default_device(given.replace(".", "-") or socket.gethostname(), config.instance)


def default_device(host: str, instance: str) -> str:
    """Return the device name of a node without ``mqtt.device``, different for each instance on a host.

    Example:
        >>> default_device("porch.lan", "second")
        'porch-second'
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "-", host.split(".")[0])[:48].strip("-_") or "node"
    return name if instance == "default" else f"{name}-{instance}"
