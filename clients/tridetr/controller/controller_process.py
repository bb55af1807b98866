"""The controller process: one sentry per camera, one connection to the broker, one store."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack
from typing import Any

from tridetr.broker import resolve_broker
from tridetr.config import Config, NotifySection
from tridetr.control_socket import ControlSocket
from tridetr.controller import payloads, problems
from tridetr.controller.arming import NODE, Arming, Audience
from tridetr.controller.blind_notices import KINDS, BlindNotices
from tridetr.controller.camera_control import CameraSentry
from tridetr.controller.discovery import (
    camera_message,
    entities_of,
    first_entities,
    merged_entities,
    node_message,
    viewer_address,
    with_removed,
)
from tridetr.controller.mqtt import BrokerSettings, MqttLink, until
from tridetr.controller.notifier import Notifier
from tridetr.controller.outbox import OutboxPump
from tridetr.controller.payloads import OFFLINE, ONLINE, is_refresh, parse_on_off
from tridetr.controller.pictures import PicturePublisher, PictureWait
from tridetr.controller.resume import end_unwatched
from tridetr.controller.state_machine import State
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import Row
from tridetr.controller.topics import Topics, topic_level
from tridetr.notify.notification import Message, message_of
from tridetr.served_model import ServedModelReader
from tridetr.telemetry import metrics

logger = logging.getLogger("tridetr.controller")

TICK_S = 0.5
STATUS_S = 10.0
OUTBOX_WAIT_S = 60.0  # an event that waits longer is reported as a problem
DRAIN_S = 1.0
REFRESH_S = 5.0  # shortest interval between two answers to `refresh`
ARMED_S = 1.0  # interval at which schedules are checked
DESCRIBE_S = 1.0  # interval at which status, problems and node state are checked for changes


async def run(config: Config, stop: asyncio.Event) -> None:
    """Run the controller until ``stop`` is set; then drain the outbox and publish the node as offline.

    Raises:
        TridetrError: the broker settings, the state folder or the shared memory cannot be used.
    """
    with ExitStack() as stack:
        controller = Controller(config, stack)
        await controller.run(stop)


class Controller:
    """Runs the sentries of all cameras and publishes their state. Use it in the event loop's thread only."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        self._topics = topics = Topics.of(config)
        self._dirty: set[str] = set()
        self._published_status: dict[str, tuple[object, ...]] = {}
        self._status_published_at: dict[str, float] = {}
        self._problems: dict[str, problems.Problems] = {}  # by camera; "" = the node
        self._state_dir = config.state_dir
        self._started_unix_ns = time.time_ns()
        self._published_node: object = None
        self._node_published_at = float("-inf")
        self._answered_at = float("-inf")
        self._described_at = float("-inf")
        self._stopping = False
        self._called_offline = False
        settings = BrokerSettings.of(config, topics.availability, lambda: resolve_broker(config))
        if config.mqtt.host != "embedded" or config.mqtt.tls:
            resolve_broker(config)  # fail at startup on contradictory settings
        self._store = store = Store(config.state_dir, outbox_limit=config.mqtt.outbox_limit)
        stack.callback(store.close)
        self._viewer = viewer_address(config.gateway)
        self._arming = Arming(config, store.settings, store.keep_setting)
        audience = Audience(config, self._arming)
        store.audience = audience.targets_of
        self._blind = BlindNotices(topics.device, config.cameras, store.settings, audience.wanting)
        for setting in self._blind.stale_settings:
            store.keep_setting(setting, None)
        self._notifier = Notifier(config.notify, store, self._compose_notification)
        self._config = config
        self._picture_wait = PictureWait(config)
        self._pictures: PicturePublisher | None = None
        if config.mqtt.pictures and config.evidence is not None and config.evidence.pictures:
            self._pictures = PicturePublisher(config, self._publish_picture)
            stack.callback(self._pictures.close)
        self._requests = ControlSocket(config.run_dir, self._answer)
        self._armed: dict[str, bool] = {}  # as last published
        self._arm: dict[str, bool] = {}  # requested over MQTT since the last tick
        self._armed_at = float("-inf")
        self._classes = {camera: config.alarm_for(camera).classes for camera in config.cameras}
        self._discovery = self._discovery_messages(config) if topics.discovery_prefix else {}
        self._retire_cameras()
        self._unconfirmed: dict[int, str] = {}  # message id -> topic of a retained message
        self._models = models = ServedModelReader(config.run_dir)
        self._cameras: dict[str, CameraSentry] = {}
        for camera in config.cameras:
            sentry = CameraSentry(config, camera, store, models, topics.device, self._on_change)
            stack.callback(sentry.close)
            self._cameras[camera] = sentry
        self._switches = {topics.arm(name): name for name in [NODE, *self._cameras]}
        subscriptions = [topics.availability, topics.command, *self._switches]
        if topics.home_assistant_status:
            subscriptions.append(topics.home_assistant_status)
        self._link = MqttLink(settings, self, subscriptions)
        self._pump = OutboxPump(store, self._link, self._compose)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve all cameras until ``stop`` is set."""
        loop = asyncio.get_running_loop()
        self._link.start()
        for sentry in self._cameras.values():
            loop.add_reader(sentry.fileno(), self._wake, sentry)
        try:
            while not stop.is_set():
                await self._requests.keep()
                self._tick()
                try:
                    await asyncio.wait_for(stop.wait(), TICK_S)
                except asyncio.TimeoutError:
                    continue
            await self._shut_down()
        finally:
            await self._requests.close()
            for sentry in self._cameras.values():
                loop.remove_reader(sentry.fileno())

    def _wake(self, sentry: CameraSentry) -> None:
        more = sentry.on_wake()
        self._show_changes()
        if more and not self._stopping:
            asyncio.get_running_loop().call_soon(self._wake, sentry)

    def _tick(self) -> None:
        for sentry in self._cameras.values():
            sentry.tick()
        self._store.flush()
        if self._store.found_late:
            self._take_over_late()
        self._show_changes()
        if self._called_offline:
            # Once per tick, so that a flood of messages causes no flood of answers.
            self._called_offline = False
            self._link.publish(self._topics.availability, ONLINE, retain=True)
        self._switch()
        if time.monotonic() - self._described_at >= DESCRIBE_S:
            self._described_at = time.monotonic()
            for camera in self._cameras:
                self._publish_status(camera)
            self._publish_problems()
            self._notify_blind()
            self._publish_node()
        self._pump.pump()
        self._pump.watch()
        self._notifier.pump()
        if self._pictures is not None:
            for camera, sentry in self._cameras.items():
                self._pictures.follow(camera, sentry.record.visit_id)
            self._pictures.look()

    def _take_over_late(self) -> None:
        """End the open visits of a database that became readable after the start: no sentry has resumed them."""
        found, self._store.found_late = self._store.found_late, {}
        for camera, saved in found.items():
            now = self._cameras[camera].record if camera in self._cameras else None
            end_unwatched(self._store, camera, self._topics.device, saved, now)
        self._retire_cameras()
        self._publish_all()

    def _on_change(self, sentry: CameraSentry) -> None:
        self._dirty.add(sentry.camera)

    def _show_changes(self) -> None:
        """Publish changed cameras; their records are saved already."""
        if not self._dirty:
            return
        for camera in self._dirty:
            self._publish_state(camera)
            self._publish_status(camera)
        self._dirty.clear()
        self._pump.pump()
        self._notifier.pump()

    # --- callbacks from the broker connection

    def on_up(self) -> None:
        """Republish everything: the broker may have lost it."""
        self._unconfirmed.clear()
        if self._pictures is not None:
            self._pictures.on_up()
        self._publish_all()
        self._pump.on_up()

    def on_ack(self, mid: int) -> None:
        """Record that the broker has acknowledged a message."""
        topic = self._unconfirmed.pop(mid, None)
        if topic is None:
            if self._pictures is not None and self._pictures.on_ack(mid):
                self._pump.on_answer()
            else:
                self._pump.on_ack(mid)
            return
        self._pump.on_answer()
        if topic in self._discovery:
            self._store.remember({topic: entities_of(self._discovery[topic])})
        else:
            self._store.cleared(topic)

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Handle an incoming message: Home Assistant's birth message, a command, a switch, or our own last will."""
        if self._stopping:
            return
        if topic in self._switches:
            on = parse_on_off(payload)
            # A retained message would set the switch again on every connection and override later settings.
            if on is not None and not retained:
                self._arm[self._switches[topic]] = on
            return
        if topic == self._topics.availability:
            # The last will of an earlier connection, which the broker noticed late: it must be overwritten.
            self._called_offline |= payload == OFFLINE.encode()
            return
        is_birth = topic == self._topics.home_assistant_status
        asked = payload == b"online" if is_birth else is_refresh(payload)
        now = time.monotonic()
        if asked and now - self._answered_at >= REFRESH_S:
            self._answered_at = now
            self._publish_all()

    # --- publishing

    def _publish_all(self) -> None:
        topics, store = self._topics, self._store
        own = topics.availability, topics.problem(), topics.armed(), topics.node
        current = dict.fromkeys(own, "")
        for camera in self._cameras:
            current |= dict.fromkeys(self._topics_of(camera), "")
        for topic in [topic for topic in store.retained if topic not in current | self._discovery]:
            self._confirm(self._link.publish_acknowledged(topic, "", retain=True), topic)
        store.remember(current)
        for topic, message in self._discovery.items():
            declared = store.retained.get(topic, "")
            store.remember({topic: merged_entities(declared, message)})
            text = with_removed(message, declared)
            self._confirm(self._link.publish_acknowledged(topic, text, retain=True), topic)
        for camera in self._cameras:
            self._publish_state(camera)
            self._publish_status(camera, always=True)
        self._publish_problems(always=True)
        self._publish_armed(always=True)
        self._publish_node(always=True)
        # Last, so that a subscriber that waits for `online` never sees stale state.
        self._link.publish(topics.availability, ONLINE, retain=True)

    def _confirm(self, mid: int | None, topic: str) -> None:
        """Wait for the acknowledgement of a retained message; without one it is resent on the next connection."""
        if mid is not None:
            self._unconfirmed[mid] = topic

    def _topics_of(self, camera: str) -> list[str]:
        """Return the topics of a camera that hold retained messages, except discovery."""
        topics = self._topics
        classes = [topics.presence(camera, name) for name in self._classes[camera]]
        own = [topics.state(camera), topics.status(camera), topics.problem(camera)]
        pictures = [topics.picture(camera)] if self._pictures is not None else []
        return [*own, topics.armed(camera), *pictures, *classes]

    def _discovery_messages(self, config: Config) -> dict[str, dict[str, Any]]:
        topics, viewer = self._topics, self._viewer
        messages = {topics.discovery(): node_message(topics, viewer)}
        for camera, classes in self._classes.items():
            messages[topics.discovery(camera)] = camera_message(
                topics, camera, classes, viewer, pictures=self._pictures is not None
            )
        return messages

    def _retire_cameras(self) -> None:
        """End the visits of cameras that are no longer configured, and mark their topics to be cleared."""
        topics, store = self._topics, self._store
        if topics.discovery_prefix and topics.discovery() not in store.retained and store.cameras:
            store.remember({topics.discovery(): first_entities(store.cameras)})
        for camera in sorted(set(store.cameras) - set(self._classes)):
            end_unwatched(store, camera, topics.device, store.cameras[camera])
            stale = (topics.state(camera), topics.presence(camera, "person"), topics.status(camera))
            store.remember(dict.fromkeys(stale, ""))
            store.forget(camera)

    def _publish_problems(self, *, always: bool = False) -> None:
        """Publish the problems of the node and of each camera when they change."""
        cameras = {name: sentry.problems() for name, sentry in self._cameras.items()}
        waiting = next(iter(self._store.outbox.values()), None)
        outbox = ""
        if waiting is not None and time.time_ns() - waiting.unix_ns > OUTBOX_WAIT_S * 1e9:
            outbox = (
                f"events have been waiting for the broker since {payloads.iso(waiting.unix_ns)}"
            )
        node = problems.of_node(
            cameras.values(),
            outbox=outbox,
            disk=self._store.fault,
            notify=self._notifier.problem(OUTBOX_WAIT_S),
        )
        found: dict[str, problems.Problems] = {"": node, **cameras}
        for name, kinds in found.items():
            if always or self._problems.get(name) != kinds:
                self._problems[name] = kinds
                problems.export(kinds, name)
                self._link.publish(self._topics.problem(name), problems.payload(kinds), retain=True)

    def _publish_node(self, *, always: bool = False) -> None:
        """Publish the node's description when it changes, and periodically as a heartbeat."""
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
            folder=self._state_dir,
            started_unix_ns=self._started_unix_ns,
            unix_ns=time.time_ns(),
        )
        self._link.publish(self._topics.node, text, retain=True)

    # --- switches and notifications

    def _switch(self) -> None:
        """Apply the switch commands received over MQTT, and publish switches that a schedule has changed."""
        wanted, self._arm = self._arm, {}
        for switch, on in wanted.items():
            self._set_armed(switch, on)
        if wanted or time.monotonic() - self._armed_at >= ARMED_S:
            self._publish_armed()

    def _set_armed(self, switch: str, on: bool) -> None:
        now = time.time()
        if self._arming.is_on(switch, now) != on:
            self._arming.set(switch, on, now)
            name = f"camera {switch}" if switch else "the node"
            logger.info("%s is %s", name, "armed" if on else "disarmed")

    def _publish_armed(self, *, always: bool = False) -> None:
        self._armed_at = time.monotonic()
        for switch, on in self._arming.state(time.time()).items():
            if always or self._armed.get(switch) != on:
                self._armed[switch] = on
                metrics.ARMED.labels(switch).set(on)
                self._link.publish(self._topics.armed(switch), payloads.on_off(on), retain=True)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer another process of the node: set the switch that is named, if any, and return all switches."""
        switch, on = request.get("switch"), request.get("on")
        if isinstance(switch, str) and switch in self._arming and isinstance(on, bool):
            self._set_armed(switch, on)
            self._publish_armed()
        return {"armed": self._arming.state(time.time())}

    def _notify_blind(self) -> None:
        """Queue notifications for cameras that are no longer watched or are watched again."""
        for camera in self._cameras:
            why = "; ".join(filter(None, self._problems[camera].values()))
            notice = self._blind.look(camera, why, time.monotonic(), time.time_ns())
            if notice is not None:
                self._store.add_notice(notice.row, camera, notice.targets)
                self._store.keep_setting(notice.setting, notice.kept)

    def _compose_notification(self, target: NotifySection, row: Row) -> Message:
        """Return the notification of an event; called in a target's thread."""
        if row.kind in KINDS.values():
            return message_of(row.details, self._viewer)
        visit_id = row.event_id.partition(":")[0]
        link = (
            f"{self._viewer}events#{visit_id}"
            if self._viewer and self._config.evidence_dir
            else self._viewer
        )
        picture = self._picture_wait.read(visit_id, row.unix_ns) if target.picture else None
        return message_of(row.details, link, picture)

    def _publish_picture(self, camera: str, jpeg: bytes) -> int | None:
        return self._link.publish_acknowledged(self._topics.picture(camera), jpeg, retain=True)

    def _publish_state(self, camera: str) -> None:
        record = self._cameras[camera].record
        state = record.memory.state
        seen = {topic_level(name) for name in record.visit_classes}
        self._link.publish(self._topics.state(camera), state.value, retain=True)
        for name in self._classes[camera]:
            text = payloads.presence(state, topic_level(name) in seen)
            self._link.publish(self._topics.presence(camera, name), text, retain=True)

    def _publish_status(self, camera: str, *, always: bool = False) -> None:
        """Publish ``/status`` when anything but an age has changed, else every ``STATUS_S``."""
        facts = self._cameras[camera].facts()
        current = (facts.state, facts.visit_id, facts.camera, facts.message, facts.store)
        now = time.monotonic()
        due = now - self._status_published_at.get(camera, float("-inf")) >= STATUS_S
        if always or due or current != self._published_status.get(camera):
            self._published_status[camera], self._status_published_at[camera] = current, now
            text = payloads.status(facts, time.time_ns())
            self._link.publish(self._topics.status(camera), text, retain=True)

    def _compose(self, row: Row) -> tuple[str, str]:
        return self._topics.events(row.camera), payloads.published(row.details, time.time_ns())

    async def _shut_down(self) -> None:
        """Handle the remaining results, briefly wait for the outbox to drain, and replace all retained state."""
        for sentry in self._cameras.values():
            sentry.tick()
        self._show_changes()
        self._stopping = True
        await until(lambda: self._pump.idle or not self._link.connected, DRAIN_S)
        topics = self._topics
        last_messages = [(topics.availability, OFFLINE)]
        for camera, sentry in self._cameras.items():
            last_messages.append((topics.state(camera), State.UNKNOWN.value))
            for name in self._classes[camera]:
                text = payloads.presence(State.UNKNOWN, seen=False)
                last_messages.append((topics.presence(camera, name), text))
            text = payloads.status(payloads.stopped(sentry.facts()), time.time_ns())
            last_messages.append((topics.status(camera), text))
        await self._link.stop(last_messages)
