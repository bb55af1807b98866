"""Keep a heartbeat for the embedded broker, which writes none itself, by connecting to it regularly."""

from __future__ import annotations

import contextlib
import socket
import threading

from tridetr.broker import PULSE_ID, resolve_broker, write_address
from tridetr.config import Config
from tridetr.errors import BrokerError
from tridetr.telemetry import heartbeat

EVERY_S = 2.0
TIMEOUT_S = 5.0
NAME = "broker"

_CLIENT_ID = PULSE_ID.encode()
# MQTT 3.1.1: CONNECT (protocol name and level, clean session, keep-alive 10 s, client id), DISCONNECT.
_CONNECT_BODY = b"\x00\x04MQTT\x04\x02\x00\x0a" + len(_CLIENT_ID).to_bytes(2, "big") + _CLIENT_ID
_CONNECT = b"\x10" + bytes([len(_CONNECT_BODY)]) + _CONNECT_BODY
_CONNACK = b"\x20\x02"
# PUBLISH with QoS 1, message 1. Subscriptions to `#` do not include topics that begin with $.
_TOPIC = b"$tridetr/pulse"
_PUBLISH_BODY = len(_TOPIC).to_bytes(2, "big") + _TOPIC + b"\x00\x01" + bytes(1 << 16)
_PUBLISH = b"\x32" + bytes(
    [
        len(_PUBLISH_BODY) & 127 | 128,
        len(_PUBLISH_BODY) >> 7 & 127 | 128,
        len(_PUBLISH_BODY) >> 14,
    ]
)
_PUBACK = b"\x40\x02\x00\x01"
_DISCONNECT = b"\xe0\x00"


def answers(host: str, port: int, timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether an MQTT broker acknowledges a connection and a message, each within ``timeout_s``.

    An open port is not enough: the kernel also accepts connections for a stopped process. A connection is not enough:
    a broker at its memory limit, full of retained messages, accepts it but no message.
    """
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(_CONNECT)
            if connection.recv(4)[:2] != _CONNACK:
                return False
            connection.sendall(_PUBLISH + _PUBLISH_BODY)
            answer = connection.recv(4)
            with contextlib.suppress(OSError):
                connection.sendall(_DISCONNECT)
            return answer == _PUBACK
    except OSError:
        return False


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
