"""Configuration: the schema, and loading it from YAML with errors that help."""

from tridetr.config.load import load_config
from tridetr.config.schema import (
    AlarmSection,
    CameraSection,
    Config,
    DetectSection,
    GatewaySection,
    ModelSection,
    MqttSection,
    NotifySection,
    PacketsSection,
    SentrySection,
)

__all__ = [
    "AlarmSection",
    "CameraSection",
    "Config",
    "DetectSection",
    "GatewaySection",
    "ModelSection",
    "MqttSection",
    "NotifySection",
    "PacketsSection",
    "SentrySection",
    "load_config",
]
