"""A client of the broker floods the topics that the controller subscribes to."""

from __future__ import annotations

import asyncio

from paho.mqtt.client import MQTTMessage

from tridetr.controller import mqtt
from tridetr.controller.mqtt import BrokerSettings, MqttLink


class Ear:
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def on_up(self) -> None: ...
    def on_ack(self, mid: int) -> None: ...

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        self.heard.append(payload)


async def test_flood_is_dropped_and_later_messages_are_received() -> None:
    """The number and the size of messages that wait for the event loop must be limited."""
    ear = Ear()
    settings = BrokerSettings(lambda: ("127.0.0.1", 1), None, lambda: None, None, 60, "will")
    link = MqttLink(settings, ear, ["command"])

    def publish(payload: bytes) -> None:
        message = MQTTMessage(topic=b"command")
        message.payload = payload
        link._on_message(link._client, None, message)

    publish(bytes(10_000_000))
    for _ in range(1000):
        publish(b"refresh")
    await asyncio.sleep(0)
    assert len(ear.heard) == mqtt._INBOUND
    publish(b"later")
    await asyncio.sleep(0)
    assert ear.heard[-1] == b"later"
