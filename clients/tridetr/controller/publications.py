"""The retained topics: state, status, problems and switches of the cameras and the node, and discovery."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from tridetr.config import Config
from tridetr.controller import payloads, problems
from tridetr.controller.arming import Arming
from tridetr.controller.camera_control import CameraSentry
from tridetr.controller.clears import ClearQueue, Clears
from tridetr.controller.discovery import (
    camera_message,
    first_entities,
    merged_entities,
    node_message,
    removed_entities,
    viewer_address,
    with_removed,
    without_entities,
)
from tridetr.controller.large_messages import LargeMessages, is_large
from tridetr.controller.mqtt import MqttLink
from tridetr.controller.notifier import Notifier
from tridetr.controller.outbox import OutboxPump
from tridetr.controller.payloads import OFFLINE, ONLINE
from tridetr.controller.resume import end_unwatched
from tridetr.controller.state_machine import State
from tridetr.controller.store import Store
from tridetr.controller.topics import Topics, topic_level
from tridetr.controller.waiting import WaitingTime
from tridetr.served_model import ServedModelReader
from tridetr.telemetry import metrics
from tridetr.write_check import WriteCheck

logger = logging.getLogger("tridetr.controller")

STATUS_S = 10.0
_LONGEST_WAIT_S = (
    30.0  # for an acknowledgement, or for the events, before the next large message is published
)
OUTBOX_WAIT_S = 60.0  # an event that waits longer is reported as a problem


class Publications:
    """Publishes retained topics on change, and what expires regularly. Use it in the event loop's thread only.

    Everything is published again on each connection. What a broker may close the connection on is published with QoS 1,
    after the events and one message at a time: first large messages, discovery among them, then the empty ones that
    clear what is no longer used. What was cleared is cleared again on each connection for a day.

    Args:
        config: configuration of the node.
        topics: the topics.
        store: remembers which topics hold retained messages.
        link: the connection to the broker.
        pump: may report topics that the broker refuses.
        cameras: the sentries by camera.
        arming: the switches.
        models: the model that serves.
        notifier: may report undelivered notifications.
        run_folder: may report that the run folder cannot be written.
        has_pictures: whether pictures of visits are published.
    """

    def __init__(
        self,
        config: Config,
        topics: Topics,
        store: Store,
        link: MqttLink,
        pump: OutboxPump,
        cameras: Mapping[str, CameraSentry],
        arming: Arming,
        models: ServedModelReader,
        notifier: Notifier,
        run_folder: WriteCheck,
        *,
        has_pictures: bool,
    ) -> None:
        self._topics, self._store, self._link, self._cameras = topics, store, link, cameras
        self._pump = pump
        self._arming, self._models, self._notifier = arming, models, notifier
        self._run_folder = run_folder
        self._started_unix_ns = time.time_ns()
        self._classes = {camera: config.alarm_for(camera).classes for camera in cameras}
        self._has_pictures = has_pictures
        self._discovery: dict[str, dict[str, Any]] = {}
        if topics.discovery_prefix:
            self._discovery = self._discovery_messages(viewer_address(config.gateway))
        self._clears = Clears(store.settings, store.keep_setting)
        self._to_clear = ClearQueue(topics.is_own)
        self._large = LargeMessages(topics.root)
        # Message id -> topic of a retained message; at most one
        self._unconfirmed: dict[int, str] = {}
        self._sent_s = 0.0  # when it was sent, or when the connection began
        self._waiting_time = WaitingTime()
        self._problems: dict[str, problems.Problems] = {}  # by camera; "" = the node
        self._published_status: dict[str, tuple[object, ...]] = {}
        self._status_published_at: dict[str, float] = {}
        self._published_node: object = None
        self._node_published_at = float("-inf")
        self._double_at = float("-inf")
        self._armed: dict[str, bool] = {}  # as last published

    def _discovery_messages(self, viewer: str | None) -> dict[str, dict[str, Any]]:
        topics = self._topics
        messages = {topics.discovery(): node_message(topics, viewer)}
        for camera, classes in self._classes.items():
            messages[topics.discovery(camera)] = camera_message(
                topics, camera, classes, viewer, pictures=self._has_pictures
            )
        return messages

    def publish_all(self) -> None:
        """Publish everything; ``publish_next`` sends what is large, and clears what is no longer used."""
        topics, store = self._topics, self._store
        own = topics.availability, topics.problem(), topics.armed(), topics.node
        current = dict.fromkeys(own, "")
        for camera in self._cameras:
            current |= dict.fromkeys(self._topics_of(camera), "")
        used = current.keys() | self._discovery.keys()
        unused = [topic for topic in store.retained if topic not in used]
        # Those that declare entities first: Home Assistant shows the devices of an earlier name until they are cleared
        self._to_clear.fill(sorted(unused, key=lambda topic: not store.retained[topic]))
        store.remember(current)
        self._clears.used({*current, *self._discovery, *self._entity_keys()})
        for topic, message in self._discovery.items():
            declared = store.retained.get(topic, "")
            store.remember({topic: merged_entities(declared, message)})
            self._large.put(topic, with_removed(message, declared))
        for camera in self._cameras:
            self.publish_state(camera)
            self.publish_status(camera, always=True)
        self.publish_problems(always=True)
        self.publish_armed(always=True)
        self.publish_node(always=True)
        # Last, so that a subscriber that waits for `online` never sees stale state.
        self.publish_online()

    def _entity_keys(self) -> list[str]:
        return [
            _entity_key(topic, name)
            for topic, message in self._discovery.items()
            for name in message["components"]
        ]

    def publish_online(self) -> None:
        """Publish the node as online."""
        self._link.publish(self._topics.availability, ONLINE, retain=True)

    def publish_next(self, *, is_idle: bool) -> None:
        """Publish the next large message, or clear the next topic, unless the last one is not acknowledged yet.

        Call it regularly, and on each acknowledgement.

        Args:
            is_idle: Whether no event is waiting for its acknowledgement. If one is, no topic is cleared, and large
                messages are sent half a minute apart, because the broker may close the connection.
        """
        now_s = time.monotonic()
        if now_s - self._sent_s < _LONGEST_WAIT_S:
            if self._unconfirmed or not is_idle:
                return
        else:  # some brokers drop a message without acknowledging it
            self._unconfirmed.clear()
            self._large.forget()
        message = self._large.next()
        if message is None and is_idle and (unused := self._to_clear.next(now_s)) is not None:
            message = unused, ""
        if message is None:
            return
        topic, text = message
        mid = self._link.publish_acknowledged(topic, text, retain=True)
        if mid is not None:
            self._sent_s = now_s
            self._unconfirmed[mid] = topic
            if text:
                self._large.sent(topic, now_s)
            else:
                self._to_clear.sent(topic)

    def on_up(self) -> None:
        """Publish everything on a new connection: the broker may have lost it."""
        for topic in self._unconfirmed.values():
            if self._large.is_in_flight(topic):
                continue
            pause_s = self._to_clear.ended(topic, time.monotonic())
            logger.warning(
                "the connection to the broker ended when an earlier topic was cleared: %s. If the broker's ACL forbids "
                "that, allow the node to write the topic. It is tried again in %d h, or after a restart of the node",
                topic,
                pause_s / 3600,
            )
        self._unconfirmed.clear()
        self._large.on_up(self._link.ended_s)
        self._sent_s = time.monotonic()
        self.publish_all()

    def on_ack(self, mid: int) -> bool:
        """Record an acknowledgement; return whether the message was one of these."""
        topic = self._unconfirmed.pop(mid, None)
        if topic is None:
            return False
        if self._large.is_in_flight(topic):
            self._large.confirmed()
            if topic in self._discovery:
                self._on_discovered(topic)
            return True
        self._to_clear.confirmed(topic)
        if not self._topics.is_own(topic) or self._clears.confirmed([topic], time.time()):
            self._store.cleared(topic)
        return True

    def _on_discovered(self, topic: str) -> None:
        """Forget the removed entities of a discovery message, once they have been cleared for long enough."""
        declared = self._store.retained.get(topic, "")
        removed = removed_entities(self._discovery[topic], declared)
        over = self._clears.confirmed([_entity_key(topic, name) for name in removed], time.time())
        names = [name for name in removed if _entity_key(topic, name) in over]
        self._store.remember({topic: without_entities(declared, names)})

    def _publish(self, topic: str, text: str) -> None:
        """Publish a retained message: immediately, or with ``publish_next`` if it is large."""
        if is_large(topic, text):
            self._large.put(topic, text)
        else:
            self._large.drop(topic)
            self._link.publish(topic, text, retain=True)

    def _topics_of(self, camera: str) -> list[str]:
        """Return the topics of a camera that hold retained messages, except discovery."""
        topics = self._topics
        classes = [topics.presence(camera, name) for name in self._classes[camera]]
        own = [topics.state(camera), topics.status(camera), topics.problem(camera)]
        pictures = [topics.picture(camera)] if self._has_pictures else []
        return [*own, topics.armed(camera), *pictures, *classes]

    def publish_state(self, camera: str) -> None:
        """Publish the state of a camera, and which classes are present."""
        sentry = self._cameras[camera]
        record, state = sentry.record, sentry.record.memory.state
        seen = {topic_level(name) for name in record.visit_classes}
        self._link.publish(self._topics.state(camera), state.value, retain=True)
        for name in self._classes[camera]:
            is_seen = topic_level(name) in seen
            is_hidden = name in sentry.unseen_classes and not is_seen
            text = payloads.presence(State.UNKNOWN if is_hidden else state, is_seen)
            self._link.publish(self._topics.presence(camera, name), text, retain=True)

    def publish_status(self, camera: str, *, always: bool = False) -> None:
        """Publish ``/status`` when anything but an age has changed, else every ``STATUS_S``."""
        facts = self._cameras[camera].facts()
        current = (facts.state, facts.visit_id, facts.camera, facts.message, facts.store)
        now = time.monotonic()
        due = now - self._status_published_at.get(camera, float("-inf")) >= STATUS_S
        if always or due or current != self._published_status.get(camera):
            self._published_status[camera], self._status_published_at[camera] = current, now
            text = payloads.status(facts, time.time_ns())
            self._publish(self._topics.status(camera), text)

    def publish_problems(self, *, always: bool = False) -> None:
        """Publish the problems of the node and of each camera when they change."""
        cameras = {name: sentry.problems() for name, sentry in self._cameras.items()}
        outbox = ""
        if self._waiting_time.of_oldest(self._store.outbox) > OUTBOX_WAIT_S:
            oldest = next(iter(self._store.outbox.values()))
            outbox = f"events have been waiting for the broker since {payloads.iso(oldest.unix_ns)}"
        node = problems.of_node(
            cameras.values(),
            outbox=outbox,
            disk="; ".join(filter(None, (self._store.fault, self._run_folder.fault))),
            notify=self._notifier.problem(OUTBOX_WAIT_S),
            broker="; ".join(filter(None, (self._pump.fault, self._large.fault, self._link.fault))),
            device=self._double(),
        )
        found: dict[str, problems.Problems] = {"": node, **cameras}
        for name, kinds in found.items():
            if always or self._problems.get(name) != kinds:
                self._problems[name] = kinds
                problems.export(kinds, name)
                self._publish(self._topics.problem(name), problems.payload(kinds))

    def on_node(self, payload: bytes) -> None:
        """Take a message on the node's own topic, which another node with the same name may have published."""
        started_at = payloads.started_at(payload)
        if started_at is not None and started_at != payloads.iso(self._started_unix_ns):
            self._double_at = time.monotonic()

    def _double(self) -> str:
        if time.monotonic() - self._double_at > 2.5 * payloads.NODE_S:
            return ""
        return (
            f"another node publishes under {self._topics.root} too, so the states of both are mixed: "
            "set a different mqtt.device for each"
        )

    def why_unwatched(self, camera: str) -> str:
        """Return the problems of a camera as last published; empty if there are none."""
        return "; ".join(filter(None, self._problems[camera].values()))

    def publish_node(self, *, always: bool = False) -> None:
        """Publish the node's description when it changes, and as a heartbeat, with states, problems and switches."""
        cameras = {
            name: {"camera": facts.camera, "state": facts.state, "source": facts.source}
            for name, facts in ((name, sentry.facts()) for name, sentry in self._cameras.items())
        }
        current = (cameras, self._problems, self._models.read())
        due = time.monotonic() - self._node_published_at >= payloads.NODE_S
        if not (always or due or current != self._published_node):
            return
        self._published_node, self._node_published_at = (
            (cameras, dict(self._problems), current[2]),
            time.monotonic(),
        )
        text = payloads.node(
            cameras,
            model=current[2],
            findings=problems.findings(self._problems),
            space=self._store.space,
            started_unix_ns=self._started_unix_ns,
            unix_ns=time.time_ns(),
        )
        self._publish(self._topics.node, text)
        if due and not always:
            for camera in self._cameras:
                self.publish_state(camera)
            self.publish_problems(always=True)
            self.publish_armed(always=True)

    def publish_armed(self, *, always: bool = False) -> None:
        """Publish the switches that have changed."""
        for switch, on in self._arming.state(time.time()).items():
            if always or self._armed.get(switch) != on:
                self._armed[switch] = on
                metrics.ARMED.labels(switch).set(on)
                self._link.publish(self._topics.armed(switch), payloads.on_off(on), retain=True)

    def last_messages(self) -> list[tuple[str, str]]:
        """Return the (topic, payload) pairs that replace the retained state when the node stops."""
        topics = self._topics
        messages: list[tuple[str, str]] = [(topics.availability, OFFLINE)]
        for camera, sentry in self._cameras.items():
            messages.append((topics.state(camera), State.UNKNOWN.value))
            for name in self._classes[camera]:
                text = payloads.presence(State.UNKNOWN, seen=False)
                messages.append((topics.presence(camera, name), text))
            text = payloads.status(payloads.stopped(sentry.facts()), time.time_ns())
            messages.append((topics.status(camera), text))
        return messages


def _entity_key(topic: str, entity: str) -> str:
    return f"{topic}#{entity}"  # not a topic


def retire_cameras(config: Config, topics: Topics, store: Store) -> None:
    """End the visits of cameras that are no longer configured, and mark their topics to be cleared."""
    if topics.discovery_prefix and topics.discovery() not in store.retained and store.cameras:
        store.remember({topics.discovery(): first_entities(store.cameras)})
    for camera in sorted(set(store.cameras) - set(config.cameras)):
        end_unwatched(store, camera, topics.device, store.cameras[camera])
        stale = (topics.state(camera), topics.presence(camera, "person"), topics.status(camera))
        store.remember(dict.fromkeys(stale, ""))
        store.forget(camera)
