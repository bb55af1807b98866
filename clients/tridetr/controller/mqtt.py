"""The connection to the MQTT broker: paho in its own thread, with callbacks in the event loop.

This module handles last will, indefinite reconnects with jittered backoff, TLS and the password. What is published,
and when, is decided by its user in the event loop's thread. Each connection gets a new paho client, because paho
resends messages that an earlier connection left unacknowledged, and the outbox does that already.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from tridetr.backoff import Backoff
from tridetr.broker import set_login
from tridetr.config import Config
from tridetr.config.node_sections import TlsSection
from tridetr.config.secrets import mqtt_password, refuse_password_without_user
from tridetr.controller.payloads import OFFLINE
from tridetr.controller.subscriptions import Subscriptions
from tridetr.errors import BrokerError, BrokerNotStartedError, ConfigError
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

_RECONNECT_S = (1.0, 30.0)
_STEADY_S = 10.0  # a broker that ends connections sooner is reconnected after growing pauses
_STOP_S = 1.0
_INBOUND = 64  # incoming messages that may wait for the event loop; more are dropped
_ANSWER_S = 5.0  # how long a new connection waits for the answers to its subscriptions
_LONGEST_PAYLOAD = 1 << 16  # bytes, as of a node with hundreds of cameras; longer ones are dropped


class _Client(paho.Client):
    """Ends the connection on messages of QoS 2, which no subscription asks for.

    paho keeps them, of any size and number, until the broker releases them.
    """

    def _handle_publish(self) -> MQTTErrorCode:
        if self._in_packet["command"] & 0x06 == 0x04:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return super()._handle_publish()


@dataclass(frozen=True)
class BrokerSettings:
    """How to reach the broker.

    Attributes:
        locate: returns (host, port); called for each connection, because an embedded broker may have moved.
        username: user name, or None.
        password: returns the password, or None; called for each connection, because it may have been changed.
            Never logged.
        tls: TLS settings, or None for plain TCP.
        keepalive_s: MQTT keep-alive interval in seconds.
        will_topic: retained topic that the broker sets to ``offline`` when the connection is lost.
    """

    locate: Callable[[], tuple[str, int]]
    username: str | None
    password: Callable[[], str | None]
    tls: TlsSection | None
    keepalive_s: int
    will_topic: str

    @classmethod
    def of(
        cls, config: Config, will_topic: str, locate: Callable[[], tuple[str, int]]
    ) -> BrokerSettings:
        """Return the broker settings of ``config``; the password is in its file or the environment.

        Raises:
            ConfigError: there is a password but no user name.
        """
        mqtt = config.mqtt
        refuse_password_without_user(config)
        password = partial(mqtt_password, config)
        return cls(locate, mqtt.username, password, mqtt.tls, mqtt.keepalive_s, will_topic)


class Listener(Protocol):
    """Receives the callbacks of the connection; all are made in the event loop's thread."""

    def on_up(self) -> None: ...
    def on_ack(self, mid: int) -> None: ...
    def on_message(self, topic: str, payload: bytes, retained: bool) -> None: ...


class MqttLink:
    """A connection to the broker that reconnects indefinitely. Create and use it in the event loop's thread.

    The files with the password and the certificates are read for each connection. One that cannot be used is logged,
    and the connection tried again.

    Attributes:
        connected: whether the broker has accepted the connection and answered the subscriptions.
        ended_s: when the last connection ended (monotonic) [s].
    """

    def __init__(
        self, settings: BrokerSettings, listener: Listener, subscriptions: list[str]
    ) -> None:
        self.connected = False
        self.ended_s = 0.0
        metrics.MQTT_CONNECTED.set(0)  # also in place of what a killed predecessor has left
        self._settings = settings
        self._listener = listener
        self._subscriptions = Subscriptions(subscriptions)
        self._answer_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._logged = ""
        # The jitter keeps many nodes from reconnecting at the same moment.
        dice = random.Random()  # noqa: S311
        first_s, longest_s = _RECONNECT_S
        self._backoff = Backoff(first_s=first_s, longest_s=longest_s, steady_s=_STEADY_S, dice=dice)
        # New for each process: two clients with the same ID would disconnect each other.
        self._client_id = f"tridetr-{uuid.uuid4().hex[:12]}"
        # The client that the thread uses, and the one that is connected.
        self._newest = self._client = paho.Client(CallbackAPIVersion.VERSION2)
        # The client whose subscriptions are made; None after its end.
        self._subscriber: paho.Client | None = None
        # The clients that the broker accepted and refused last; used in the thread.
        self._accepted: paho.Client | None = None
        self._accepted_at = float("inf")
        self._refused: paho.Client | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._stopping = threading.Event()
        self._inbound = threading.Semaphore(_INBOUND)

    @property
    def fault(self) -> str:
        """Which subscriptions have no effect, and why; empty = none."""
        return self._subscriptions.fault

    def start(self) -> None:
        """Start the connection thread, which connects and reconnects indefinitely."""
        self._thread.start()

    def publish(self, topic: str, payload: str | bytes, *, retain: bool) -> None:
        """Publish with QoS 0; dropped while disconnected (the caller republishes on the next connection)."""
        if self.connected:
            self._client.publish(topic, payload, qos=0, retain=retain)

    def publish_acknowledged(
        self, topic: str, payload: str | bytes, *, retain: bool = False
    ) -> int | None:
        """Publish with QoS 1; return the message ID that ``on_ack`` will receive, or None if it was not accepted.

        A message is sent over the current connection only; if it is not acknowledged, the caller must resend it over
        the next one.
        """
        if not self.connected:
            return None
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        return None if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else info.mid

    def bounce(self) -> None:
        """Drop the connection and reconnect; for a broker that accepts messages but acknowledges none."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            with suppress(OSError):  # not the TLS socket's own, which the thread is using
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    async def stop(self, last_messages: list[tuple[str, str]]) -> None:
        """Publish the last retained messages, disconnect, and wait for the thread to end: for a second at most.

        Args:
            last_messages: topic and payload of each message.
        """
        self._stopping.set()
        if self.connected:
            waiting = [self._client.publish(t, p, qos=1, retain=True) for t, p in last_messages]
            with suppress(RuntimeError, ValueError):  # the connection was lost meanwhile
                await until(lambda: all(info.is_published() for info in waiting), _STOP_S / 2)
        self._newest.disconnect()
        await until(lambda: not self._thread.is_alive(), _STOP_S / 2)

    def _make_client(self) -> paho.Client:
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.suppress_exceptions = False
        # Without it, the event loop's thread would write to the socket while the other one reads from it. Before Python
        # 3.13, two threads in one TLS connection corrupt the memory. So messages are queued, and the thread is woken
        client.on_socket_register_write = lambda *_: None
        settings = self._settings
        client.will_set(settings.will_topic, OFFLINE, qos=1, retain=True)
        set_login(client, settings.username, settings.password(), settings.tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _run(self) -> None:
        """Run the thread: connect again and again, with growing pauses while no connection lasts."""
        while not self._stopping.is_set():
            self._accepted_at = float("inf")
            try:
                self._connect_once()
            except (BrokerError, ConfigError) as error:
                level = (
                    logging.INFO if isinstance(error, BrokerNotStartedError) else logging.WARNING
                )
                self._log_once(str(error).rstrip("."), level)
                self._stopping.wait(0.5)
                continue
            # Any exception, including bugs in paho: without this thread no event would be published again.
            except Exception:
                logger.exception("the MQTT connection thread failed; reconnecting")
            self._stopping.wait(self._backoff.failed(time.monotonic() - self._accepted_at))

    def _connect_once(self) -> None:
        """Connect and serve the connection until it ends."""
        host, port = self._settings.locate()
        client = self._newest = self._make_client()
        try:
            client.connect(host, port, self._settings.keepalive_s)
        except OSError as error:
            self._log_once(f"the broker at {host}:{port} cannot be reached: {error}")
            return
        self._settings.locate()  # another user could have taken the port since
        # Not loop_forever: in a thread of one's own, it sends what is queued only once a second
        while client.loop() == MQTTErrorCode.MQTT_ERR_SUCCESS:
            pass

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if self._stopping.is_set():
            client.disconnect()
            return
        if reason.is_failure:
            self._refused = client
            self._log_once(f"the broker refuses the connection: {reason}")
            return
        if client is self._accepted:
            return  # only a broken or hostile broker repeats it, and each one publishes everything
        self._accepted = client
        self._accepted_at = time.monotonic()
        self._logged = ""
        self._call(self._begin, client)

    def _on_disconnect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if not self._stopping.is_set() and client is not self._refused:
            self._log_once(f"the connection to the broker ended: {reason}")
        self._call(self._down, client)

    def _on_publish(
        self, client: paho.Client, _data: Any, mid: int, _reason: Any, _properties: Any
    ) -> None:
        self._call(self._acknowledged, client, mid)

    def _on_subscribe(
        self, client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any
    ) -> None:
        self._call(self._subscribed, client, [one.is_failure for one in reasons])

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        """Pass an incoming message to the event loop; drop it when it is too long or too many are waiting."""
        if len(message.payload) > _LONGEST_PAYLOAD or not self._inbound.acquire(blocking=False):
            return
        with suppress(UnicodeDecodeError):
            self._call(self._deliver, message.topic, bytes(message.payload), bool(message.retain))
            return
        self._inbound.release()

    def _deliver(self, topic: str, payload: bytes, retained: bool) -> None:
        self._inbound.release()
        self._listener.on_message(topic, payload, retained)

    def _begin(self, client: paho.Client) -> None:
        """Subscribe; nothing else is sent before the answers, so that nothing else is blamed if the connection ends."""
        self._subscriber = client
        self._subscriptions.start()
        self._answer_timer = self._loop.call_later(_ANSWER_S, self._up, client)
        self._subscribe_next(client)

    def _subscribe_next(self, client: paho.Client) -> None:
        topics = self._subscriptions.next()
        if topics:
            client.subscribe([(topic, 1) for topic in topics])
        else:
            self._up(client)

    def _up(self, client: paho.Client) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
        if self.connected:
            return  # before the last subscription was answered
        self._client = client
        self.connected = True
        metrics.MQTT_CONNECTED.set(1)
        logger.info("connected to the broker")
        self._listener.on_up()

    def _down(self, client: paho.Client) -> None:
        if client is not self._subscriber:
            return  # this client was never accepted
        self._subscriber = None
        if self._answer_timer is not None:
            self._answer_timer.cancel()
        self._subscriptions.ended(was_up=self.connected)
        if not self.connected:
            return
        self.connected = False
        self.ended_s = time.monotonic()
        metrics.MQTT_CONNECTED.set(0)

    def _acknowledged(self, client: paho.Client, mid: int) -> None:
        if client is self._client:  # each connection has its own message IDs
            self._listener.on_ack(mid)

    def _subscribed(self, client: paho.Client, failures: list[bool]) -> None:
        if client is self._subscriber and self._subscriptions.answered(failures):
            self._subscribe_next(client)

    def _call(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the event loop's thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)

    def _log_once(self, text: str, level: int = logging.WARNING) -> None:
        """Log a reason unless it was the last one logged, so that retries do not flood the log."""
        if text != self._logged:
            self._logged = text
            logger.log(level, "%s; trying again", text)


async def until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Poll a condition that another thread makes true, until it holds or ``timeout_s`` has passed."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
