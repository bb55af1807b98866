"""Configuration: the schema, and loading it from YAML with actionable errors."""

from tridetr.config.camera_sections import AlarmSection, CameraSection, DetectSection, SentrySection
from tridetr.config.load import load_config
from tridetr.config.node_sections import GatewaySection, NotifySection, PacketsSection
from tridetr.config.schema import Config

__all__ = [
    "AlarmSection",
    "CameraSection",
    "Config",
    "DetectSection",
    "GatewaySection",
    "NotifySection",
    "PacketsSection",
    "SentrySection",
    "load_config",
]
