"""Check the MQTT broker by logging in as the controller does."""

from __future__ import annotations

import importlib.util
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from tridetr.broker import EMBEDDED, find_mosquitto, set_login
from tridetr.capture.sources.tls import speaks_tls
from tridetr.config import Config
from tridetr.config.secrets import mqtt_password
from tridetr.doctor.finding import Finding
from tridetr.errors import TridetrError

_TIMEOUT_S = 5.0
_SUBJECT = "MQTT broker"


def check_broker(config: Config) -> Iterator[Finding]:
    """Check that a broker can be embedded, or log in to the configured one."""
    if config.mqtt.host != EMBEDDED:
        yield _log_in(config)
    elif find_mosquitto() is not None:
        yield Finding(_SUBJECT, "ok", "embedded mosquitto")
    elif importlib.util.find_spec("amqtt"):
        yield Finding(_SUBJECT, "ok", "embedded amqtt (mosquitto is not installed)")
    else:
        yield Finding(
            _SUBJECT,
            "fault",
            "no broker that could be embedded is installed",
            "sudo apt-get install mosquitto",
        )


def _log_in(config: Config) -> Finding:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    mqtt = config.mqtt
    where = f"{mqtt.host}:{mqtt.port}"
    answered = threading.Event()
    reasons: list[Any] = []

    def on_connect(client: Any, user: Any, flags: Any, reason: Any, properties: Any) -> None:
        reasons.append(reason)
        answered.set()

    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = on_connect
    client.connect_timeout = _TIMEOUT_S
    try:
        set_login(client, mqtt.username, mqtt_password(config), mqtt.tls)
        client.connect(mqtt.host, mqtt.port)
    except ssl.SSLCertVerificationError as error:
        text = f"{where}: its certificate is not trusted ({error.verify_message})"
        return Finding(_SUBJECT, "fault", text, "set mqtt.tls.ca_file to its CA")
    except ssl.SSLError as error:
        return Finding(
            _SUBJECT, "fault", f"{where}: does not use TLS ({error.reason})", "remove mqtt.tls"
        )
    except (OSError, ValueError, TridetrError) as error:
        text = f"{where}: {getattr(error, 'strerror', None) or error}"
        return Finding(_SUBJECT, "fault", text, "start the broker, or correct mqtt")
    client.loop_start()
    answered.wait(_TIMEOUT_S)
    client.disconnect()
    client.loop_stop()
    if not reasons:
        if mqtt.tls is None and speaks_tls(mqtt.host, mqtt.port):
            return Finding(_SUBJECT, "fault", f"{where} uses TLS", "set mqtt.tls: {}")
        remedy = "check that it is an MQTT broker"
        return Finding(_SUBJECT, "fault", f"{where}: no MQTT answer", remedy)
    if reasons[0].is_failure:
        remedy = "correct mqtt.username and mqtt.password_file"
        return Finding(_SUBJECT, "fault", f"{where}: login refused ({reasons[0]})", remedy)
    user = f" as {mqtt.username}" if mqtt.username else ""
    return Finding(_SUBJECT, "ok", f"{where}, logged in{user}")
