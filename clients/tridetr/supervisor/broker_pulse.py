"""Keep a heartbeat for the embedded broker, which writes none itself, by connecting to it regularly."""

from __future__ import annotations

import contextlib
import threading

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tridetr.broker import PULSE_ID, resolve_broker, write_address
from tridetr.config import Config
from tridetr.errors import BrokerError
from tridetr.telemetry import heartbeat

EVERY_S = 2.0
TIMEOUT_S = 5.0
NAME = "broker"

# Subscriptions to `#` do not include topics that begin with $.
_TOPIC = "$tridetr/pulse"
_PAYLOAD = bytes(1 << 16)


def answers(host: str, port: int, timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether an MQTT broker acknowledges a connection and a message, each within ``timeout_s``.

    An open port is not enough: the kernel also accepts connections for a stopped process. A connection is not enough:
    a broker at its memory limit, full of retained messages, accepts it but no message.
    """
    connected = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, PULSE_ID)
    client.connect_timeout = timeout_s
    client.on_connect = lambda _client, _data, _flags, reason, _properties: (
        None if reason.is_failure else connected.set()
    )
    try:
        client.connect(host, port)
        client.loop_start()
        if not connected.wait(timeout_s):
            return False
        message = client.publish(_TOPIC, _PAYLOAD, qos=1)
        message.wait_for_publish(timeout_s)
        return message.is_published()
    except (OSError, RuntimeError):
        return False
    finally:
        client.disconnect()
        client.loop_stop()


class BrokerPulse:
    """Connects to the embedded broker every two seconds, and renews its heartbeat when it answers."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker pulse", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, without waiting for it."""
        self._stop.set()

    def _run(self) -> None:
        run_dir = self._config.run_dir
        known: tuple[str, int] | None = None
        while not self._stop.wait(EVERY_S):
            with contextlib.suppress(BrokerError, OSError):
                try:
                    found = resolve_broker(self._config)
                except BrokerError:
                    # The file was removed by another program; the broker writes it only when it starts
                    if known is None or not answers(*known):
                        continue
                    write_address(run_dir, known[1])
                    found = resolve_broker(self._config)  # not if another user has its port
                if answers(*found):
                    known = found
                    heartbeat.beat_for(run_dir, NAME)
