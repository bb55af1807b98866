"""Topics and entities that are no longer used, at brokers that lose what they have confirmed."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tridetr.config import Config
from tridetr.controller import clears, payloads
from tridetr.controller.arming import Arming
from tridetr.controller.camera_control import CameraSentry
from tridetr.controller.clears import ClearQueue
from tridetr.controller.controller_process import Controller
from tridetr.controller.publications import Publications, retire_cameras
from tridetr.controller.state_machine import TRACKING
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import NewRow
from tridetr.controller.topics import Topics
from tridetr.controller.visits import Record
from tridetr.served_model import ServedModelReader
from tridetr.write_check import WriteCheck

HOUR_S = 3600.0
START_S = 1_796_000_000.0


class Broker:
    """Keeps what is retained, and confirms everything; it can come back with an old memory."""

    def __init__(self) -> None:
        self.connected = True
        self.ended_s = 0.0
        self.fault = ""
        self.retained: dict[str, str] = {}
        self.sent: list[str] = []

    def publish(self, topic: str, payload: str, *, retain: bool) -> None:
        self.publish_acknowledged(topic, payload, retain=retain)

    def publish_acknowledged(self, topic: str, payload: str, *, retain: bool = False) -> int:
        self.sent.append(topic)
        if payload and retain:
            self.retained[topic] = payload
        else:
            self.retained.pop(topic, None)
        return len(self.sent)

    @property
    def components(self) -> set[str]:
        """The entities of the node that are not removed."""
        message = json.loads(self.retained["homeassistant/device/tridetr_pc/config"])
        return {name for name, part in message["components"].items() if len(part) > 1}


class Node:
    def __init__(
        self,
        folder: Path,
        broker: Broker,
        device: str = "pc",
        *,
        instance: str = "default",
        has_camera: bool = False,
    ) -> None:
        self.config = Config.model_validate(
            {
                "instance": instance,
                "cameras": {"hall": {"source": "synthetic"}},
                "mqtt": {"device": device},
                "run_dir": str(folder),
                "state_dir": str(folder / "state"),
            }
        )
        self.broker = broker
        self.store = Store(self.config.state_dir, outbox_limit=10)
        self.topics = Topics.of(self.config)
        retire_cameras(self.config, self.topics, self.store)
        models = ServedModelReader(folder)
        self.cameras: dict[str, CameraSentry] = {}
        if has_camera:
            sentry = CameraSentry(self.config, "hall", self.store, models, device, lambda _: None)
            self.cameras["hall"] = sentry
        self.publications = Publications(
            self.config,
            self.topics,
            self.store,
            cast(Any, broker),
            cast(Any, SimpleNamespace(fault="")),
            self.cameras,
            Arming(self.config, self.store.settings, self.store.keep_setting, lambda: True),
            models,
            cast(Any, SimpleNamespace(problem=lambda _: "")),
            WriteCheck(folder),
            has_pictures=False,
        )

    def connect(self) -> None:
        """Publish everything, and confirm it."""
        confirmed = len(self.broker.sent)
        self.publications.on_up()
        while confirmed < len(self.broker.sent):
            confirmed += 1
            self.publications.on_ack(confirmed)
            self.publications.publish_next(is_idle=True)

    def hold(self, *topics: str) -> None:
        """Let the broker retain topics that are not used any more."""
        self.broker.retained |= dict.fromkeys(topics, "ON")
        self.store.remember(dict.fromkeys(topics, ""))


def test_states_are_published_again_before_their_entities_expire(
    tmp_path: Path, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that lost power together with the node never sends its will: its last states looked current for good."""
    broker = Broker()
    node = Node(tmp_path, broker, instance=instance, has_camera=True)
    with closing(node.cameras["hall"]), closing(node.store):
        node.connect()
        entities = [
            part
            for topic in (node.topics.discovery(), node.topics.discovery("hall"))
            for part in json.loads(broker.retained[topic])["components"].values()
            if part["platform"] in ("sensor", "binary_sensor")
        ]
        assert len(entities) == 10
        assert {part["expire_after"] for part in entities} == {2.5 * payloads.NODE_S}
        broker.sent.clear()
        node.publications.publish_node()
        assert node.topics.problem() not in broker.sent
        monkeypatch.setattr(payloads, "NODE_S", 0.0)
        node.publications.publish_node()
        expiring = {part["state_topic"] for part in entities}
        assert expiring - set(broker.sent) == {node.topics.status("hall")}  # every 10 s
        # A bridge can have restored an older one
        assert node.topics.armed("") in broker.sent


def test_a_clock_that_is_set_back_hides_no_waiting_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker()
    node = Node(tmp_path, broker)
    with closing(node.store):
        late = time.time_ns() + 7200 * 10**9
        node.store.commit("hall", "{}", [NewRow(late, "person_arrived", "{}", "v:arrived")])
        node.publications.publish_problems()
        assert '"outbox":""' in broker.retained[node.topics.problem()]
        steady = time.monotonic()
        monkeypatch.setattr("time.monotonic", lambda: steady + 61)
        node.publications.publish_problems()
        problem = broker.retained[node.topics.problem()]
        assert "events have been waiting for the broker since" in problem


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=START_S)
    monkeypatch.setattr("tridetr.controller.publications.time.time", lambda: now.s)
    return now


GONE = ("tridetr/pc/gate/person", "homeassistant/device/tridetr_pc/gate/config")


def test_what_was_cleared_is_cleared_again_for_a_day(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    """A broker that loses power comes back with what it saved last, up to half an hour before."""
    broker = Broker()
    node = Node(tmp_path, broker)
    node.hold(*GONE)
    saved = dict(broker.retained)
    for passed_s, repeated in ((0, True), (600, True), (23 * HOUR_S, True), (25 * HOUR_S, True)):
        clock.s = START_S + passed_s
        broker.retained |= saved
        node.connect()
        assert (not broker.retained.keys() & set(GONE)) is repeated
        node.store.close()
        node = Node(tmp_path, broker)  # it remembers across a restart
    broker.sent.clear()
    node.connect()
    assert not set(GONE) & {*broker.sent, *node.store.retained}
    assert node.store.settings == {}
    node.store.close()


def test_removed_entities_are_removed_again_for_a_day(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    broker = Broker()
    node = Node(tmp_path, broker)
    node.connect()
    topic = node.topics.discovery()
    own = broker.components
    node.store.remember({topic: json.dumps({"old": "sensor", **dict.fromkeys(own, "sensor")})})
    for hour in (0, 12, 25):
        clock.s = START_S + hour * HOUR_S
        node.connect()
        assert "old" in json.loads(broker.retained[topic])["components"]
        assert broker.components == own
    node.connect()
    assert "old" not in json.loads(broker.retained[topic])["components"]
    assert json.loads(node.store.retained[topic]).keys() == own
    node.store.close()


def test_topics_of_an_earlier_device_name_are_cleared_once(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    """Another node may have that name now."""
    broker = Broker()
    node = Node(tmp_path, broker, "attic")
    node.hold(*GONE)
    node.connect()
    assert not set(GONE) & {*broker.retained, *node.store.retained}
    node.store.close()


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=5000.0)
    monkeypatch.setattr("tridetr.controller.publications.time.monotonic", lambda: now.s)
    return now


def test_clearing_what_the_broker_forbids_ends_a_connection_once_an_hour(
    tmp_path: Path, steady: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a broker ended each connection, before current states and events were sent."""
    broker = Broker()
    node = Node(tmp_path, broker, "attic")
    forbidden = GONE[0]
    node.hold(forbidden)

    def clears(*, connect: bool = True) -> bool:
        """Whether the topic is cleared, after the current ones were acknowledged."""
        broker.sent.clear()
        if connect:
            node.publications.on_up()
            node.publications.publish_next(is_idle=True)
            assert forbidden not in broker.sent
            assert broker.sent[-1] == node.topics.discovery()
            node.publications.on_ack(len(broker.sent))
        node.publications.publish_next(is_idle=True)
        return forbidden in broker.sent

    assert clears()
    assert not clears()
    assert f"was cleared: {forbidden}. If" in caplog.text
    assert "tried again in 1 h" in caplog.text
    steady.s += HOUR_S
    assert clears(connect=False), "on the same connection"
    assert not clears()
    assert "tried again in 2 h" in caplog.text
    steady.s += HOUR_S
    assert not clears()
    steady.s += HOUR_S
    assert forbidden in node.store.retained
    assert clears()
    node.publications.on_ack(len(broker.sent))
    assert forbidden not in node.store.retained
    assert not clears()
    assert len(caplog.records) == 2
    node.store.close()


def test_a_large_message_waits_for_acknowledgements_for_a_time_only(
    tmp_path: Path, steady: SimpleNamespace
) -> None:
    """After one that the broker dropped, or with events that it never acknowledged, none was published any more."""
    broker = Broker()
    node = Node(tmp_path, broker, "attic")
    node.publications.on_up()
    node.publications.publish_next(is_idle=False)
    assert node.topics.discovery() not in broker.sent
    steady.s += 31
    node.publications.publish_next(is_idle=False)
    assert broker.sent[-1] == node.topics.discovery()
    node.publications._large.put("tridetr/attic/node", "n" * 600)
    steady.s += 29
    node.publications.publish_next(is_idle=True)
    assert broker.sent[-1] == node.topics.discovery()
    steady.s += 2
    node.publications.publish_next(is_idle=True)
    assert broker.sent[-1] == "tridetr/attic/node"
    node.store.close()


async def test_topics_are_cleared_one_by_one_when_events_are_acknowledged(
    tmp_path: Path, instance: str
) -> None:
    """A connection that ends with a topic to clear must not end before events are acknowledged."""
    broker = Broker()
    node = Node(tmp_path, broker, instance=instance)
    node.hold(*GONE)
    node.store.close()
    with ExitStack() as stack:
        controller = Controller(node.config, stack)
        arrival = NewRow(0, "person_arrived", '{"class": "person"}', "v:arrived")
        controller._store.commit("hall", "{}", [arrival])
        for part in (controller, controller._pump, controller._publications):
            part._link = cast(Any, broker)
        controller.on_up()
        event = broker.sent.index(node.topics.events("hall"))
        assert event > broker.sent.index(node.topics.availability)
        for mid in [n for n in range(1, len(broker.sent) + 1) if n != event + 1]:
            controller.on_ack(mid)
        assert not {*GONE, node.topics.discovery()} & set(broker.sent)
        sent = len(broker.sent)
        controller.on_ack(event + 1)
        while not set(GONE) & set(broker.sent):
            assert len(broker.sent) == sent + 1, "one at a time"
            sent += 1
            controller.on_ack(sent)
        assert {node.topics.discovery(), node.topics.discovery("hall")} <= set(broker.sent)
        assert len(set(GONE) & set(broker.sent)) == 1
        assert broker.sent[-1] in GONE
        controller.on_ack(len(broker.sent))
        assert set(GONE) == set(broker.sent[-2:])


def test_topics_that_are_surely_allowed_are_cleared_during_the_pause() -> None:
    queue = ClearQueue(lambda topic: topic.startswith("own/"))
    queue.fill(["old/a", "old/b", "own/a", "own/b"])
    assert queue.next(0) == "own/a"
    queue.sent("own/a")
    assert queue.ended("old/a", 0) == HOUR_S
    queue.fill(["old/a", "old/b", "own/b"])
    assert queue.next(0) == "own/b"
    assert queue.ended("own/b", 0) == HOUR_S
    assert queue.next(HOUR_S - 1) is None
    assert queue.next(HOUR_S) == "old/b", "what has ended a connection comes last"
    queue.sent("old/b")
    assert queue.next(HOUR_S) == "own/b"
    assert [queue.ended("own/b", 0) / HOUR_S for _ in range(5)] == [2, 4, 8, 16, 24]
    queue.confirmed("own/b")
    assert queue.next(0) == "own/b"


def test_the_topic_of_a_class_that_cannot_be_seen_is_unknown(tmp_path: Path) -> None:
    broker = Broker()
    node = Node(tmp_path, broker)
    visit = Record(TRACKING, "v1", visit_classes=("car",))
    sentry = SimpleNamespace(record=visit, unseen_classes={"person", "car"})
    node.publications._cameras = cast(Any, {"hall": sentry})
    node.publications._classes = {"hall": ("person", "car", "dog")}
    node.publications.publish_state("hall")
    assert broker.retained == {
        "tridetr/pc/hall/state": "tracking",
        "tridetr/pc/hall/person": "unknown",
        "tridetr/pc/hall/car": "ON",
        "tridetr/pc/hall/dog": "OFF",
    }
    node.store.close()


def test_a_day_starts_again_for_what_was_used_in_between() -> None:
    settings: dict[str, str] = {}

    def save(name: str, value: str | None) -> None:
        settings.pop(name, None)
        if value is not None:
            settings[name] = value

    gone = clears.Clears(settings, save)
    assert gone.confirmed(["a", "b"], START_S) == []
    gone.used(["a", "c"])
    assert gone.confirmed(["a", "b"], START_S + 25 * HOUR_S) == ["b"]
    assert gone.confirmed(["a"], START_S - HOUR_S) == [], "the clock was put back"
    assert gone.confirmed(["a"], START_S + 22 * HOUR_S) == []
    assert gone.confirmed(["a"], START_S + 23 * HOUR_S) == ["a"]
    assert settings == {}
    settings["cleared"] = '{"a": {}}'
    assert gone.confirmed(["a"], START_S) == []
