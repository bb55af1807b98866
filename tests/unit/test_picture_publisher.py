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


async def test_a_picture_that_the_broker_refuses_is_replaced_by_a_smaller_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"picture": 200 * KIB, "crop": 30 * KIB}

    def newest(_config: Config, _visit: str, largest: int) -> tuple[str, bytes] | None:
        return next(((name, b"x" * n) for name, n in sizes.items() if n <= largest), None)

    monkeypatch.setattr(pictures, "newest_picture", newest)
    monkeypatch.setattr(pictures, "_LOOK_S", 0.0)
    config = Config.model_validate(
        {"cameras": {"hall": {"source": "synthetic"}}, "evidence": {}, "state_dir": tmp_path}
    )
    broker = Broker(limit=100 * KIB)
    publisher = pictures.PicturePublisher(config, broker.publish)
    connections = 1
    try:
        for _ in range(500):
            publisher.follow("hall", "visit")
            publisher.look()
            await asyncio.sleep(0.01)
            if broker.got:
                break
            if not broker.connected:
                broker.connected, connections = True, connections + 1
                publisher.on_up()
        assert broker.got == [30 * KIB]
        assert connections == 3
        assert publisher.on_ack(broker.mid)
        assert not publisher.on_ack(broker.mid)
    finally:
        publisher.close()
