"""Pictures for the broker: one that is too large for it must not end every connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tridetr.config import Config
from tridetr.controller import pictures

KIB = 1024


class Broker:
    """Accepts messages up to a size, and closes the connection on others."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.got: list[int] = []
        self.mid = 0
        self.connected = True

    def publish(self, _camera: str, jpeg: bytes) -> int | None:
        if not self.connected:
            return None
        self.mid += 1
        self.connected = len(jpeg) <= self.limit
        if self.connected:
            self.got.append(len(jpeg))
        return self.mid


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A node with a visit that has a picture of 200 KiB and a crop of 30 KiB."""
    sizes = {"picture": 200 * KIB, "crop": 30 * KIB}

    def newest(_config: Config, _visit: str, largest: int) -> tuple[str, bytes] | None:
        return next(((name, b"x" * n) for name, n in sizes.items() if n <= largest), None)

    monkeypatch.setattr(pictures, "newest_picture", newest)
    monkeypatch.setattr(pictures, "_LOOK_S", 0.0)
    return Config.model_validate(
        {"cameras": {"hall": {"source": "synthetic"}}, "evidence": {}, "state_dir": tmp_path}
    )


async def publish_until_acknowledged(
    publisher: pictures.PicturePublisher, broker: Broker, visit: str
) -> int:
    """Publish the picture of a visit over as many connections as it takes; return the number of lost ones."""
    lost = 0
    before = len(broker.got)
    for _ in range(500):
        publisher.follow("hall", visit)
        publisher.look()
        await asyncio.sleep(0.01)
        if len(broker.got) > before:
            break
        if not broker.connected:
            broker.connected, lost = True, lost + 1
            publisher.on_up()
    assert publisher.on_ack(broker.mid)
    assert not publisher.on_ack(broker.mid)
    return lost


async def test_a_picture_that_the_broker_refuses_is_replaced_by_a_smaller_one(
    config: Config,
) -> None:
    broker = Broker(limit=100 * KIB)
    publisher = pictures.PicturePublisher(config, broker.publish)
    try:
        assert await publish_until_acknowledged(publisher, broker, "visit") == 2
        assert broker.got == [30 * KIB]
    finally:
        publisher.close()


async def test_a_broker_for_small_messages_only_gets_no_pictures(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture of less than 16 KiB ended the connection, again and again."""
    picture = "picture", b"x" * 12 * KIB

    def newest(_config: Config, _visit: str, largest: int) -> tuple[str, bytes] | None:
        return picture if len(picture[1]) <= largest else None

    monkeypatch.setattr(pictures, "newest_picture", newest)
    broker = Broker(limit=3 * KIB)
    publisher = pictures.PicturePublisher(config, broker.publish)
    try:
        for _ in range(100):
            publisher.follow("hall", "visit")
            publisher.look()
            await asyncio.sleep(0.005)
            if not broker.connected:
                broker.connected = True
                publisher.on_up()
        assert broker.mid == 2
    finally:
        publisher.close()


async def test_larger_pictures_are_tried_again_later(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that fails twice had limited the pictures until the next restart."""
    broker = Broker(limit=100 * KIB)
    publisher = pictures.PicturePublisher(config, broker.publish)
    try:
        await publish_until_acknowledged(publisher, broker, "first")
        broker.limit = 300 * KIB
        await publish_until_acknowledged(publisher, broker, "second")
        monkeypatch.setattr(pictures, "_LIMIT_S", 0.0)
        await publish_until_acknowledged(publisher, broker, "third")
        assert broker.got == [30 * KIB, 30 * KIB, 200 * KIB]
    finally:
        publisher.close()
