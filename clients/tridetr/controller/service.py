"""The controller process: one sentry per camera, one connection to the broker, one store."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack

from tridetr.broker import resolve_broker
from tridetr.config import Config
from tridetr.controller import payloads
from tridetr.controller.camera import CameraSentry
from tridetr.controller.database import Row
from tridetr.controller.discovery import discovery_payload
from tridetr.controller.mqtt import BrokerSettings, MqttLink, until
from tridetr.controller.outbox import OutboxPump
from tridetr.controller.payloads import OFFLINE, ONLINE, Command, parse_command
from tridetr.controller.resume import end_unwatched
from tridetr.controller.state_machine import State
from tridetr.controller.store import Store
from tridetr.controller.topics import Topics
from tridetr.served_model import ServedModelReader

logger = logging.getLogger("tridetr.controller")

TICK_S = 0.25
STATUS_S = 10.0
DRAIN_S = 1.0
REFRESH_S = 5.0  # commands are answered at most that often


async def run(config: Config, stop: asyncio.Event) -> None:
    """Decide and tell until ``stop`` is set; then send what waits and say goodbye.

    Raises:
        TridetrError: the broker's settings, the state folder or shared memory cannot be used.
    """
    with ExitStack() as stack:
        controller = Controller(config, stack)
        await controller.run(stop)


class Controller:
    """All cameras of a node. Everything happens in the event loop's thread."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        self._topics = topics = Topics.of(config)
        self._dirty: set[str] = set()
        self._told: dict[str, tuple[object, ...]] = {}
        self._told_at: dict[str, float] = {}
        self._answered_at = float("-inf")
        self._stopping = False
        self._called_offline = False
        settings = BrokerSettings.of(config, topics.availability, lambda: resolve_broker(config))
        if config.mqtt.host != "embedded" or config.mqtt.tls:
            resolve_broker(config)  # contradictions are errors now, not in a log line later
        self._store = store = Store(config.state_dir, outbox_limit=config.mqtt.outbox_limit)
        stack.callback(store.close)
        self._removed = sorted(set(store.cameras) - set(config.cameras))
        for camera in self._removed:
            end_unwatched(store, camera, topics.device, store.cameras[camera])
        models = ServedModelReader(config.run_dir)
        self._cameras: dict[str, CameraSentry] = {}
        for camera in config.cameras:
            sentry = CameraSentry(config, camera, store, models, topics.device, self._on_change)
            stack.callback(sentry.close)
            self._cameras[camera] = sentry
        subscriptions = [topics.availability, topics.command]
        if topics.home_assistant_status:
            subscriptions.append(topics.home_assistant_status)
        self._link = MqttLink(settings, self, subscriptions)
        self._pump = OutboxPump(store, self._link, self._compose)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set."""
        loop = asyncio.get_running_loop()
        self._link.start()
        for sentry in self._cameras.values():
            loop.add_reader(sentry.fileno(), self._wake, sentry)
        try:
            while not stop.is_set():
                self._tick()
                try:
                    await asyncio.wait_for(stop.wait(), TICK_S)
                except asyncio.TimeoutError:
                    continue
            await self._say_goodbye()
        finally:
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
        if self._called_offline:  # answered here, so that nobody can make us talk without end
            self._called_offline = False
            self._link.publish(self._topics.availability, ONLINE, retain=True)
        for camera in self._cameras:
            self._tell_status(camera)
        self._pump.pump()
        self._pump.watch()

    def _take_over_late(self) -> None:
        """End the visits of a database that could not be read at the start: they were not watched since."""
        found, self._store.found_late = self._store.found_late, {}
        for camera, saved in found.items():
            now = self._cameras[camera].record if camera in self._cameras else None
            end_unwatched(self._store, camera, self._topics.device, saved, now)
        self._removed = sorted(set(self._store.cameras) - set(self._cameras))

    def _on_change(self, sentry: CameraSentry) -> None:
        self._dirty.add(sentry.camera)

    def _show_changes(self) -> None:
        """Publish what has changed; it is saved already."""
        if not self._dirty:
            return
        for camera in self._dirty:
            self._tell_state(camera)
            self._tell_status(camera)
        self._dirty.clear()
        self._pump.pump()

    # --- the broker's news

    def on_up(self) -> None:
        """The broker may have forgotten everything: say it all again."""
        self._tell_all()
        self._pump.on_up()

    def on_ack(self, mid: int) -> None:
        """Forward to the pump."""
        self._pump.on_ack(mid)

    def on_message(self, topic: str, payload: bytes) -> None:
        """Take what others publish: Home Assistant's start, a command, or our own last will."""
        if self._stopping:
            return
        if topic == self._topics.availability:
            # The will of an earlier connection of ours, which the broker noticed late, must not stay.
            self._called_offline |= payload == OFFLINE.encode()
            return
        if topic == self._topics.home_assistant_status:
            asked = payload == b"online"
        else:
            asked = parse_command(payload) is Command.REFRESH
        now = time.monotonic()
        if asked and now - self._answered_at >= REFRESH_S:
            self._answered_at = now
            self._tell_all()

    # --- what is published

    def _tell_all(self) -> None:
        topics, publish = self._topics, self._link.publish
        for camera in self._removed:
            for topic in (topics.state(camera), topics.person(camera), topics.status(camera)):
                publish(topic, "", retain=True)
        if topics.discovery:
            payload = discovery_payload(topics, self._cameras, removed=self._removed)
            publish(topics.discovery, payload, retain=True)
        for camera in self._cameras:
            self._tell_state(camera)
            self._tell_status(camera, always=True)
        # Last, so that whoever waits for it finds no old state.
        publish(topics.availability, ONLINE, retain=True)
        if self._link.connected:
            for camera in self._removed:
                self._store.forget(camera)

    def _tell_state(self, camera: str) -> None:
        state = self._cameras[camera].record.memory.state
        self._link.publish(self._topics.state(camera), state.value, retain=True)
        self._link.publish(self._topics.person(camera), payloads.person(state), retain=True)

    def _tell_status(self, camera: str, *, always: bool = False) -> None:
        """Publish ``/status`` when something in it changed that is not an age, else calmly."""
        facts = self._cameras[camera].facts()
        news = (facts.state, facts.visit_id, facts.camera, facts.message, facts.store)
        now = time.monotonic()
        due = now - self._told_at.get(camera, float("-inf")) >= STATUS_S
        if always or due or news != self._told.get(camera):
            self._told[camera], self._told_at[camera] = news, now
            text = payloads.status(facts, time.time_ns())
            self._link.publish(self._topics.status(camera), text, retain=True)

    def _compose(self, row: Row) -> tuple[str, str]:
        return self._topics.events(row.camera), payloads.published(row.details, time.time_ns())

    async def _say_goodbye(self) -> None:
        """Decide on what is there, give waiting events a moment, and leave no stale state behind."""
        for sentry in self._cameras.values():
            sentry.tick()
        self._show_changes()
        self._stopping = True
        await until(lambda: self._pump.idle or not self._link.connected, DRAIN_S)
        farewell = [(self._topics.availability, OFFLINE)]
        for camera in self._cameras:
            farewell.append((self._topics.state(camera), State.UNKNOWN.value))
            farewell.append((self._topics.person(camera), payloads.person(State.UNKNOWN)))
        await self._link.stop(farewell)
