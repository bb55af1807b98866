"""Secrets come from files or the environment, never from the configuration itself."""

from __future__ import annotations

import os
from pathlib import Path

from tridetr.config.schema import Config
from tridetr.errors import ConfigError


def mqtt_password(config: Config) -> str | None:
    """Return the broker password from ``mqtt.password_file`` or ``TRIDETR_MQTT_PASSWORD``."""
    return _secret(config.mqtt.password_file, "TRIDETR_MQTT_PASSWORD", "mqtt.password_file")


def gateway_token(config: Config) -> str | None:
    """Return the viewer's token from ``gateway.token_file`` or ``TRIDETR_GATEWAY_TOKEN``."""
    return _secret(config.gateway.token_file, "TRIDETR_GATEWAY_TOKEN", "gateway.token_file")


def camera_credentials(config: Config, camera: str) -> tuple[str, str] | None:
    """Return (user, password) of a camera from its ``credentials_file``.

    Raises:
        ConfigError: the file cannot be read or does not hold ``user:password``.
    """
    key = f"cameras.{camera}.credentials_file"
    text = _secret(config.cameras[camera].credentials_file, None, key)
    if text is None:
        return None
    user, separator, password = text.partition(":")
    if not separator:
        raise ConfigError(f"{key}: expected one line `user:password`")
    return user, password


def _secret(file: Path | None, variable: str | None, key: str) -> str | None:
    if file is not None:
        try:
            secret = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{key}: {file} cannot be read: {error}") from None
        if not secret:
            raise ConfigError(f"{key}: {file} is empty")
        return secret
    return (os.environ.get(variable) or None) if variable else None
