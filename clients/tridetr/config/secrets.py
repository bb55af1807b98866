"""Read secrets from files or the environment; the configuration itself never contains them."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

from tridetr.config.schema import Config
from tridetr.errors import ConfigError
from tridetr.files import read_text

GATEWAY_TOKEN_VARIABLE = "TRIDETR_GATEWAY_TOKEN"  # noqa: S105
MQTT_PASSWORD_VARIABLE = "TRIDETR_MQTT_PASSWORD"  # noqa: S105
_READERS = {GATEWAY_TOKEN_VARIABLE: "gateway", MQTT_PASSWORD_VARIABLE: "controller"}
MIN_GATEWAY_TOKEN = 16  # characters
MIN_SIGNING_KEY = 24  # bytes, as Standard Webhooks asks for
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]+")


def lacks_mqtt_user(config: Config) -> bool:
    """Return whether a broker password is configured, but no user name: MQTT has no such login."""
    mqtt = config.mqtt
    if mqtt.username is not None or mqtt.host == "embedded":  # which has no logins
        return False
    return mqtt.password_file is not None or bool(os.environ.get(MQTT_PASSWORD_VARIABLE))


def refuse_password_without_user(config: Config) -> None:
    """Check the login at the broker.

    Raises:
        ConfigError: There is a password but no user name.
    """
    if lacks_mqtt_user(config):
        raise ConfigError("an MQTT password is set but no user name: set mqtt.username")


def mqtt_password(config: Config) -> str | None:
    """Return the broker password from ``mqtt.password_file`` or ``TRIDETR_MQTT_PASSWORD``; None if neither is set.

    Raises:
        ConfigError: The file cannot be read or is empty.
    """
    return _secret(config.mqtt.password_file, MQTT_PASSWORD_VARIABLE, "mqtt.password_file")


def gateway_token(config: Config) -> str | None:
    """Return the viewer's token from ``gateway.token_file`` or ``TRIDETR_GATEWAY_TOKEN``; None if neither is set.

    Raises:
        ConfigError: The file cannot be read or is empty, or the token is shorter than ``MIN_GATEWAY_TOKEN``.
    """
    key = "gateway.token_file"
    token = _secret(config.gateway.token_file, GATEWAY_TOKEN_VARIABLE, key)
    if token is not None and len(token) < MIN_GATEWAY_TOKEN:
        where = (
            f"{key}: {config.gateway.token_file}"
            if config.gateway.token_file
            else GATEWAY_TOKEN_VARIABLE
        )
        raise ConfigError(
            f"{where}: the token has {len(token)} characters, but at least {MIN_GATEWAY_TOKEN} are needed "
            "so that it cannot be guessed. Generate one with `openssl rand -hex 32`."
        )
    return token


def environment_of(process: str) -> dict[str, str]:
    """Return this process's environment variables without the secrets that ``process`` does not read."""
    return {
        name: value for name, value in os.environ.items() if _READERS.get(name, process) == process
    }


def camera_credentials(file: Path) -> tuple[str, str]:
    """Return (user, password) from a camera's ``credentials_file``.

    Raises:
        ConfigError: The file cannot be read or does not contain ``user:password``.
    """
    user, separator, password = read_secret(file, "credentials_file").partition(":")
    if not separator or not user:
        raise ConfigError(
            f"credentials_file: {file} does not contain `user:password`: write it as one line"
        )
    return user, password


def notify_url(file: Path) -> str:
    """Return the URL in a notification target's ``url_file``.

    Raises:
        ConfigError: The file cannot be read or does not contain a URL; the message does not repeat its content.
    """
    url = read_secret(file, "url_file")
    if not _URL.fullmatch(url):
        raise ConfigError(
            f"url_file: {file} does not contain exactly one URL: write it as one line, with non-ASCII characters "
            "percent-encoded"
        )
    return url


def signing_key(file: Path) -> bytes:
    """Return the signing key in a webhook's ``secret_file``.

    Raises:
        ConfigError: The file cannot be read, is not Base64, or the key is shorter than ``MIN_SIGNING_KEY``.
    """
    text = read_secret(file, "secret_file").removeprefix("whsec_")
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) < MIN_SIGNING_KEY:
        raise ConfigError(
            f"secret_file: {file} must contain a key of at least {MIN_SIGNING_KEY} bytes in Base64. Generate one "
            "with `openssl rand -base64 32`."
        )
    return key


def read_secret(file: Path, key: str) -> str:
    """Return the text of a file with a secret, without surrounding whitespace.

    Args:
        file: The configured path, or the secret itself if it was written in its place by mistake.
        key: The configuration key, for messages.

    Raises:
        ConfigError: The file cannot be read or is empty; the message contains the path only if it exists.
    """
    exists = os.path.lexists(file)
    secret = read_text(file, shown=f"{key}: {file if exists else 'the file that it names'}").strip()
    if not secret:
        raise ConfigError(f"{key}: {file} is empty")
    return secret


def _secret(file: Path | None, variable: str, key: str) -> str | None:
    return read_secret(file, key) if file is not None else os.environ.get(variable) or None
