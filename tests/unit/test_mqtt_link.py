"""The connection to a broker that accepts everything and acknowledges nothing, or accepts again and again."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from prometheus_client import REGISTRY

from tridetr.backoff import Backoff
from tridetr.config.load import parse_config
from tridetr.controller import mqtt
from tridetr.controller.mqtt import BrokerSettings, MqttLink, until
from tridetr.telemetry import metrics

CONNECT, PUBLISH, SUBSCRIBE = 1, 3, 8


def filters(body: bytes) -> list[str]:
    """Return the topic filters of a SUBSCRIBE, after its message ID."""
    found = []
    while body:
        end = 2 + int.from_bytes(body[:2], "big")
        found.append(body[2:end].decode())
        body = body[end + 1 :]
    return found


class SilentBroker:
    """Answers what opens a connection, and never a message.

    Attributes:
        logins: what each connection was opened with.
        asked: the topics of each subscription.
        got: (number of the connection, payload) of each message with QoS 1, and whether it was marked as a repeat.
    """

    def __init__(self, accepts: int = 1, sends: bytes = b"", grants: bytes = b"\x01") -> None:
        self.connections = 0
        self.grants = grants  # the answer to each topic of a subscription
        self.logins: list[bytes] = []
        self.asked: list[list[str]] = []
        self._sends = sends
        self._accepts = accepts
        self.got: list[tuple[int, bytes, bool]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while True:
                first = (await reader.readexactly(1))[0]
                length = shift = 0
                while True:
                    byte = (await reader.readexactly(1))[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if not byte & 128:
                        break
                body = await reader.readexactly(length)
                kind = first >> 4
                if kind == CONNECT:
                    self.logins.append(body)
                    writer.write(b"\x20\x02\x00\x00" * self._accepts)
                elif kind == SUBSCRIBE:
                    codes = self.grants
                    self.asked.append(filters(body[2:]))
                    if not codes:
                        continue
                    writer.write(bytes([0x90, 2 + len(codes)]) + body[:2] + codes + self._sends)
                elif kind == PUBLISH and first & 6:
                    topic = int.from_bytes(body[:2], "big")
                    self.got.append((number, body[topic + 4 :], bool(first & 8)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Ear:
    def __init__(self) -> None:
        self.ups = 0

    def on_up(self) -> None:
        self.ups += 1

    def on_ack(self, mid: int) -> None:
        raise AssertionError("nothing was acknowledged")

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None: ...


async def reach(condition: Callable[[], bool]) -> None:
    await until(condition, 20)
    assert condition()


@pytest.mark.timeout(60)
async def test_only_the_connection_s_thread_uses_the_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two threads in one TLS connection corrupt the heap before Python 3.13."""
    writers: Counter[str] = Counter()
    send = paho.Client._sock_send

    def recorded(client: paho.Client, data: bytes) -> int:
        writers[threading.current_thread().name] += 1
        return send(client, data)

    monkeypatch.setattr(paho.Client, "_sock_send", recorded)
    broker = SilentBroker()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    link = MqttLink(
        BrokerSettings(lambda: address, None, lambda: None, None, 60, "a/availability"),
        Ear(),
        ["a/b"],
    )
    link.start()
    await reach(lambda: link.connected)
    for number in range(5):
        link.publish("a", str(number), retain=True)
        link.publish_acknowledged("b", str(number))
    await reach(lambda: len(broker.got) == 5)
    link.bounce()
    await reach(lambda: broker.connections == 2)
    await link.stop([("a/availability", "offline")])
    server.close()
    await server.wait_closed()
    assert set(writers) == {"mqtt"}


@pytest.mark.timeout(60)
async def test_new_connection_resends_nothing_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If both paho and the outbox resend, up to 13 copies of an event are sent."""
    monkeypatch.setattr(mqtt, "_RECONNECT_S", (1.0, 1.0))
    broker, ear = SilentBroker(), Ear()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    link = MqttLink(
        BrokerSettings(lambda: address, None, lambda: None, None, 60, "will"), ear, ["command"]
    )
    link.start()
    for connection in (1, 2, 3):
        await reach(lambda: ear.ups == connection)
        for event in (b"a", b"b"):
            assert link.publish_acknowledged("events", event.decode()) is not None
        await reach(lambda: len(broker.got) == 2 * connection)
        link.bounce()
        await reach(lambda: not link.connected)
        assert link.publish_acknowledged("events", "c") is None
    await reach(lambda: ear.ups == 4)
    await link.stop([])
    server.close()
    await server.wait_closed()
    copies = Counter((number, payload) for number, payload, _ in broker.got)
    assert copies == {(number, payload): 1 for number in (1, 2, 3) for payload in (b"a", b"b")}


@pytest.mark.timeout(60)
async def test_messages_of_qos_2_end_the_connection() -> None:
    """No subscription asks for them, and paho would keep each one until the broker releases it."""
    message = b"\x34\x0b\x00\x07command\x00\x01"
    broker, ear = SilentBroker(sends=message), Ear()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    link = MqttLink(
        BrokerSettings(lambda: address, None, lambda: None, None, 60, "will"), ear, ["command"]
    )
    link.start()
    await reach(lambda: ear.ups == 1)
    await reach(lambda: not link.connected)
    await link.stop([])
    server.close()
    await server.wait_closed()


@pytest.mark.timeout(60)
async def test_a_refused_subscription_is_reported_until_it_is_granted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Commands to arm had no effect, without any sign."""
    monkeypatch.setattr(mqtt, "_RECONNECT_S", (0.01, 0.01))
    topics = ["command", "armed/set", "status"]
    broker, ear = SilentBroker(grants=b"\x01\x80\x01"), Ear()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    settings = BrokerSettings(lambda: address, None, lambda: None, None, 60, "will")
    link = MqttLink(settings, ear, topics)
    link.start()
    await reach(lambda: "subscription to armed/set, so" in link.fault)
    assert "the broker's ACL" in link.fault
    assert link.fault in caplog.text
    link.bounce()
    await reach(lambda: ear.ups == 2 and link.connected)
    broker.grants = b"\x01\x01\x01"
    link.bounce()
    await reach(lambda: link.fault == "")
    await link.stop([])
    server.close()
    await server.wait_closed()
    assert caplog.text.count("refuses the subscription") == 1


@pytest.mark.timeout(60)
async def test_a_subscription_has_no_more_topics_than_a_broker_takes() -> None:
    """AWS IoT Core ends the connection on more than 8, so with a fourth camera no event was delivered."""
    topics = [f"camera-{number}/armed/set" for number in range(19)]
    broker, ear = SilentBroker(grants=b"\x01" * 7 + b"\x80"), Ear()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    settings = BrokerSettings(lambda: address, None, lambda: None, None, 60, "will")
    link = MqttLink(settings, ear, topics)
    link.start()
    await reach(lambda: link.connected)
    await link.stop([])
    server.close()
    await server.wait_closed()
    assert [topic for asked in broker.asked for topic in asked] == topics
    assert max(map(len, broker.asked)) <= 8
    assert "subscription to camera-7/armed/set, camera-15/armed/set, so" in link.fault


@pytest.mark.timeout(60)
async def test_a_broker_that_does_not_answer_subscriptions_gets_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "_ANSWER_S", 0.1)
    broker, ear = SilentBroker(grants=b""), Ear()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    settings = BrokerSettings(lambda: address, None, lambda: None, None, 60, "will")
    link = MqttLink(settings, ear, ["command"])
    link.start()
    await reach(lambda: link.connected)
    assert link.publish_acknowledged("events", "a") is not None
    await reach(lambda: len(broker.got) == 1)
    await link.stop([])
    server.close()
    await server.wait_closed()
    assert broker.asked == [["command"]]


@pytest.mark.timeout(60)
async def test_a_connection_is_accepted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each acceptance publishes everything, so that a flood of them would stop the controller."""
    monkeypatch.setattr(mqtt, "_RECONNECT_S", (1.0, 1.0))
    broker, ear = SilentBroker(accepts=500), Ear()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    link = MqttLink(
        BrokerSettings(lambda: address, None, lambda: None, None, 60, "will"), ear, ["command"]
    )
    link.start()
    for connection in (1, 2):
        await reach(lambda: ear.ups >= connection)
        assert link.publish_acknowledged("events", "a") is not None
        await reach(lambda: len(broker.got) == connection)
        assert ear.ups == connection
        link.bounce()
        await reach(lambda: not link.connected)
    await link.stop([])
    server.close()
    await server.wait_closed()


@pytest.mark.timeout(60)
async def test_each_connection_reads_the_password_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a password was rotated, the controller could not log in until it was restarted."""
    monkeypatch.setattr(mqtt, "_RECONNECT_S", (0.01, 0.01))
    file = tmp_path / "password"
    file.write_text("first")
    broker = SilentBroker()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    text = f"cameras: {{a: {{source: synthetic}}}}\nmqtt: {{username: u, password_file: {file}}}"
    config = parse_config(text, origin=tmp_path / "node.yaml")
    link = MqttLink(BrokerSettings.of(config, "will", lambda: address), Ear(), [])
    link.start()
    await reach(lambda: link.connected)
    file.unlink()
    link.bounce()
    await reach(lambda: "cannot be read: No such file or directory; trying again" in caplog.text)
    file.write_text("second")
    await reach(lambda: len(broker.logins) == 2)
    await link.stop([])
    server.close()
    await server.wait_closed()
    assert [login[-8:] for login in broker.logins] == [b"u\x00\x05first"[-8:], b"\x00\x06second"]


@pytest.mark.timeout(60)
async def test_each_new_reason_for_a_failure_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log named the first reason only, when a broker went on to end connections without an answer."""
    monkeypatch.setattr(mqtt, "_RECONNECT_S", (0.01, 0.01))
    answers = [b"\x20\x02\x00\x05", b"", b"", b"\x20\x02\x00\x03", b"\x20\x02\x00\x00"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        if answers:
            writer.write(answers.pop(0))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    ear = Ear()
    link = MqttLink(BrokerSettings(lambda: address, None, lambda: None, None, 60, "will"), ear, [])
    link.start()
    await reach(lambda: ear.ups == 1)
    await link.stop([])
    server.close()
    await server.wait_closed()
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    reasons = ("Not authorized", "connection to the broker ended", "Server unavailable")
    assert len(warnings) >= len(reasons)
    for warning, reason in zip(warnings, reasons, strict=False):
        assert reason in warning, warnings


async def test_a_broker_that_was_never_reached_counts_as_away() -> None:
    """The metric had no value, or that of a killed predecessor, so the alert did not fire."""
    metrics.MQTT_CONNECTED.set(1)
    settings = BrokerSettings(lambda: ("127.0.0.1", 1), None, lambda: None, None, 60, "will")
    MqttLink(settings, Ear(), [])
    assert REGISTRY.get_sample_value("tridetr_mqtt_connected") == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("steady_s", [0.0, 60.0])
async def test_pauses_grow_until_a_connection_lasts(
    monkeypatch: pytest.MonkeyPatch, steady_s: float
) -> None:
    """A broker that accepted each connection and then ended it was reconnected every second, with two log lines."""
    monkeypatch.setattr(mqtt, "_RECONNECT_S", (0.001, 0.1))
    monkeypatch.setattr(mqtt, "_STEADY_S", steady_s)
    pauses: list[float] = []

    class Recorded(Backoff):
        def failed(self, worked_s: float = 0.0) -> float:
            pauses.append(super().failed(worked_s))
            return pauses[-1]

    monkeypatch.setattr(mqtt, "Backoff", Recorded)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"\x20\x02\x00\x00")
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    ear = Ear()
    link = MqttLink(BrokerSettings(lambda: address, None, lambda: None, None, 60, "will"), ear, [])
    link.start()
    await reach(lambda: len(pauses) >= 7)
    await link.stop([])
    server.close()
    await server.wait_closed()
    assert ear.ups >= 6
    growth = [1, 1, 1, 1, 1, 1, 1] if steady_s == 0 else [1, 2, 4, 8, 16, 32, 64]
    for pause_s, factor in zip(pauses, growth, strict=False):
        assert 0.0005 * factor <= pause_s <= 0.001 * factor
