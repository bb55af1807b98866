"""The connection to the broker: paho in a thread of its own, its news handed to the event loop.

Only what must hold for any broker is here: last will, endless reconnect with jittered backoff, TLS, password. What is
published, and when, is decided elsewhere, in the loop's thread. Each connection has a client of its own, because paho
repeats what an earlier connection left unacknowledged, and the outbox does that already.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from tridetr.backoff import wait_s
from tridetr.broker import set_tls
from tridetr.config import Config
from tridetr.config.node_sections import TlsSection
from tridetr.config.secrets import mqtt_password
from tridetr.controller.payloads import OFFLINE
from tridetr.errors import BrokerError
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

_RECONNECT_S = (1.0, 30.0)
_INBOUND = 64  # messages of others that wait for the event loop; more are dropped
_LONGEST_PAYLOAD = 256  # of the topics that are subscribed to


@dataclass(frozen=True)
class BrokerSettings:
    """How to reach the broker.

    Attributes:
        locate: returns (host, port); asked again after a failure, as an embedded broker may have moved.
        username: or None.
        password: or None; never shown.
        tls: or None for plain TCP.
        keepalive_s: seconds between signs of life.
        will_topic: retained topic that the broker sets to ``offline`` when this process is gone.
    """

    locate: Callable[[], tuple[str, int]]
    username: str | None
    password: str | None
    tls: TlsSection | None
    keepalive_s: int
    will_topic: str

    @classmethod
    def of(
        cls, config: Config, will_topic: str, locate: Callable[[], tuple[str, int]]
    ) -> BrokerSettings:
        """Return the settings of ``config``, its password read."""
        mqtt = config.mqtt
        password = mqtt_password(config)
        if password is not None and mqtt.username is None:
            raise BrokerError("mqtt: there is a password but no mqtt.username: add the user name")
        return cls(locate, mqtt.username, password, mqtt.tls, mqtt.keepalive_s, will_topic)


class Listener(Protocol):
    """Who is told what happens; all calls come in the event loop's thread."""

    def on_up(self) -> None: ...
    def on_ack(self, mid: int) -> None: ...
    def on_message(self, topic: str, payload: bytes, retained: bool) -> None: ...


class MqttLink:
    """One client of the broker. Create and use it in the event loop's thread."""

    def __init__(
        self, settings: BrokerSettings, listener: Listener, subscriptions: list[str]
    ) -> None:
        self.connected = False
        self._settings = settings
        self._listener = listener
        self._subscriptions = subscriptions
        self._loop = asyncio.get_running_loop()
        self._said = ""
        self._failures = 0
        # Fresh for each process: two nodes can never throw each other out.
        self._client_id = f"tridetr-{uuid.uuid4().hex[:12]}"
        self._newest = self._client = (
            self._make_client()
        )  # the thread's, and the one that is connected
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._stopping = threading.Event()
        self._inbound = threading.Semaphore(_INBOUND)

    def start(self) -> None:
        """Begin to connect, indefinitely."""
        self._thread.start()

    def publish(self, topic: str, payload: str | bytes, *, retain: bool) -> None:
        """Publish at most once; dropped while there is no connection (the caller repeats at the next one)."""
        if self.connected:
            self._client.publish(topic, payload, qos=0, retain=retain)

    def publish_acknowledged(self, topic: str, payload: str, *, retain: bool = False) -> int | None:
        """Publish with QoS 1; returns the message id that ``on_ack`` will name, or None if it was not taken.

        A message is sent over this connection only; without an acknowledgement the caller repeats it over the next.
        """
        if not self.connected:
            return None
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        return None if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else info.mid

    def bounce(self) -> None:
        """Break the connection so that another one is made: the broker takes messages but answers none."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    async def stop(self, farewell: list[tuple[str, str]], timeout_s: float = 1.0) -> None:
        """Publish the last retained messages, disconnect, and let the thread end."""
        self._stopping.set()
        if self.connected:
            waiting = [self._client.publish(t, p, qos=1, retain=True) for t, p in farewell]
            with suppress(RuntimeError, ValueError):  # the connection ended meanwhile
                await until(lambda: all(info.is_published() for info in waiting), timeout_s / 2)
        self._newest.disconnect()
        await until(lambda: not self._thread.is_alive(), timeout_s / 2)

    def _make_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.suppress_exceptions = False
        settings = self._settings
        client.will_set(settings.will_topic, OFFLINE, qos=1, retain=True)
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        if settings.tls is not None:
            set_tls(client, settings.tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    def _run(self) -> None:
        """The thread: one connection after the other, with growing pauses while none succeeds."""
        while not self._stopping.is_set():
            try:
                self._connect_once()
            except BrokerError as error:
                self._say(str(error))
                self._stopping.wait(0.5)
                continue
            # Whatever paho raises, its own bugs included: without this thread no event leaves again.
            except Exception:
                logger.exception("the MQTT thread failed; it starts again")
            # The jitter keeps many nodes from coming back at the same moment.
            self._failures += 1
            self._stopping.wait(wait_s(self._failures, *_RECONNECT_S) * random.uniform(0.7, 1.0))  # noqa: S311

    def _connect_once(self) -> None:
        """Connect and stay until the connection ends."""
        host, port = self._settings.locate()
        client = self._newest = self._make_client()
        try:
            client.connect(host, port, self._settings.keepalive_s)
        except OSError as error:
            self._say(f"the broker at {host}:{port} cannot be reached: {error}")
            return
        client.loop_forever()

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if self._stopping.is_set():
            client.disconnect()
            return
        if reason.is_failure:
            self._say(f"the broker refuses the connection: {reason}")
            return
        self._said = ""
        self._failures = 0
        if self._subscriptions:
            client.subscribe([(topic, 1) for topic in self._subscriptions])
        self._tell(self._up, client)

    def _on_disconnect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if not self._stopping.is_set() and not self._said:
            self._say(f"the connection to the broker ended: {reason}")
        self._tell(self._down, client)

    def _on_publish(
        self, client: paho.Client, _data: Any, mid: int, _reason: Any, _properties: Any
    ) -> None:
        self._tell(self._acknowledged, client, mid)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        """Hand on what others publish, but no flood of it: it would fill the loop's memory and time."""
        if len(message.payload) > _LONGEST_PAYLOAD or not self._inbound.acquire(blocking=False):
            return
        with suppress(UnicodeDecodeError):
            self._tell(self._deliver, message.topic, bytes(message.payload), bool(message.retain))
            return
        self._inbound.release()

    def _deliver(self, topic: str, payload: bytes, retained: bool) -> None:
        self._inbound.release()
        self._listener.on_message(topic, payload, retained)

    def _up(self, client: paho.Client) -> None:
        self._client = client
        self.connected = True
        metrics.MQTT_CONNECTED.set(1)
        logger.info("connected to the broker")
        self._listener.on_up()

    def _down(self, client: paho.Client) -> None:
        if client is not self._client:
            return  # it was never up
        self.connected = False
        metrics.MQTT_CONNECTED.set(0)

    def _acknowledged(self, client: paho.Client, mid: int) -> None:
        if client is self._client:  # numbers begin again with each connection
            self._listener.on_ack(mid)

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)

    def _say(self, text: str) -> None:
        """Log each new reason once, not each attempt."""
        if text != self._said:
            self._said = text
            logger.warning("%s; trying again", text)


async def until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Wait for something that another thread does, which tells nobody."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
