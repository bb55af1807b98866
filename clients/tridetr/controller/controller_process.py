"""The controller process: one sentry per camera, one connection to the broker, one store."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack
from typing import Any

from tridetr import boot_clock
from tridetr.broker import resolve_broker
from tridetr.config import Config, NotifySection
from tridetr.control_socket import ControlSocket
from tridetr.controller import payloads
from tridetr.controller.arming import NODE, Arming, Audience
from tridetr.controller.blind_notices import KINDS, BlindNotices
from tridetr.controller.camera_control import CameraSentry
from tridetr.controller.discovery import viewer_address
from tridetr.controller.mqtt import BrokerSettings, MqttLink, until
from tridetr.controller.notifier import Notifier
from tridetr.controller.outbox import OutboxPump
from tridetr.controller.payloads import OFFLINE, is_refresh, parse_on_off
from tridetr.controller.pictures import PicturePublisher, PictureWait
from tridetr.controller.publications import Publications, retire_cameras
from tridetr.controller.resume import end_unwatched
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import Row
from tridetr.controller.topics import Topics
from tridetr.notify.notification import Message, message_of
from tridetr.served_model import ServedModelReader
from tridetr.write_check import WriteCheck

logger = logging.getLogger("tridetr.controller")

TICK_S = 0.5
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
        self._answered_at = float("-inf")
        self._described_at = float("-inf")
        self._stopping = False
        self._called_offline = self._cleared = False
        settings = BrokerSettings.of(config, topics.availability, lambda: resolve_broker(config))
        if config.mqtt.host != "embedded" or config.mqtt.tls:
            resolve_broker(config)  # fail at startup on contradictory settings
        self._store = store = Store(config.state_dir, outbox_limit=config.mqtt.outbox_limit)
        stack.callback(store.close)
        self._viewer = viewer_address(config.gateway)
        self._arming = Arming(
            config, store.settings, store.keep_setting, are_known=lambda: store.is_loaded
        )
        self._replace_lost()
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
        self._run_folder = WriteCheck(config.run_dir)
        stack.callback(self._run_folder.close)
        self._arm: dict[str, bool] = {}  # requested over MQTT since the last tick
        self._armed_at = float("-inf")
        retire_cameras(config, topics, store)
        models = ServedModelReader(config.run_dir)
        self._cameras: dict[str, CameraSentry] = {}
        for camera in config.cameras:
            sentry = CameraSentry(config, camera, store, models, topics.device, self._on_change)
            stack.callback(sentry.close)
            self._cameras[camera] = sentry
        self._switches = {topics.arm(name): name for name in [NODE, *self._cameras]}
        subscriptions = [topics.availability, topics.node, topics.command, *self._switches]
        if topics.home_assistant_status:
            subscriptions.append(topics.home_assistant_status)
        self._link = MqttLink(settings, self, subscriptions)
        self._pump = OutboxPump(store, self._link, self._compose)
        self._publications = Publications(
            config,
            topics,
            store,
            self._link,
            self._pump,
            self._cameras,
            self._arming,
            models,
            self._notifier,
            self._run_folder,
            has_pictures=self._pictures is not None,
        )

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
        self._replace_lost()
        if self._store.found_late:
            self._take_over_late()
        self._show_changes()
        if self._called_offline:
            # Once per tick, so that a flood of messages causes no flood of answers.
            self._called_offline = False
            self._publications.publish_online()
        if self._cleared and time.monotonic() - self._answered_at >= REFRESH_S:
            self._cleared = False
            self._answered_at = time.monotonic()
            self._publications.publish_all()
        self._switch()
        if time.monotonic() - self._described_at >= DESCRIBE_S:
            self._described_at = time.monotonic()
            for camera in self._cameras:
                self._publications.publish_status(camera)
            self._run_folder.look()
            self._publications.publish_problems()
            self._notify_blind()
            self._publications.publish_node()
        self._pump.pump()
        self._pump.watch()
        self._publish_next()
        self._notifier.pump()
        if self._pictures is not None:
            for camera, sentry in self._cameras.items():
                self._pictures.follow(camera, sentry.record.visit_id)
            self._pictures.look()

    def _replace_lost(self) -> None:
        """Replace settings that a damaged database has lost."""
        if self._store.has_lost_settings:
            self._store.has_lost_settings = False
            self._arming.assume_on(time.time())

    def _take_over_late(self) -> None:
        """End the open visits of a database that became readable after the start: no sentry has resumed them."""
        found, self._store.found_late = self._store.found_late, {}
        for camera, saved in found.items():
            now = self._cameras[camera].record if camera in self._cameras else None
            end_unwatched(self._store, camera, self._topics.device, saved, now)
        retire_cameras(self._config, self._topics, self._store)
        self._publications.publish_all()

    def _on_change(self, sentry: CameraSentry) -> None:
        self._dirty.add(sentry.camera)

    def _show_changes(self) -> None:
        """Publish changed cameras; their records are saved already."""
        if not self._dirty:
            return
        for camera in self._dirty:
            self._publications.publish_state(camera)
            self._publications.publish_status(camera)
        self._dirty.clear()
        self._pump.pump()
        self._notifier.pump()

    # --- callbacks from the broker connection

    def on_up(self) -> None:
        """Republish everything: the broker may have lost it.

        The small messages come first: Home Assistant ignores events while the node is not `online`. Events come before
        all that is large.
        """
        if self._pictures is not None:
            self._pictures.on_up()
        try:
            self._publications.on_up()
        finally:
            self._pump.on_up()  # events do not depend on the rest
        self._publish_next()

    def on_ack(self, mid: int) -> None:
        """Record that the broker has acknowledged a message."""
        is_retained = self._publications.on_ack(mid)
        if is_retained or (self._pictures is not None and self._pictures.on_ack(mid)):
            self._pump.on_answer()
        else:
            self._pump.on_ack(mid)
        self._publish_next()

    def _publish_next(self) -> None:
        """Send a large message or clear a topic: if possible, when a connection that ends with it repeats nothing."""
        if not self._stopping:
            no_picture = self._pictures is None or self._pictures.idle
            self._publications.publish_next(is_idle=self._pump.idle and no_picture)

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Handle an incoming message: Home Assistant's birth message, a command, a switch, or an own topic."""
        if self._stopping:
            return
        if topic in self._switches:
            on = parse_on_off(payload)
            # A retained message would set the switch again on every connection and override later settings.
            if on is not None and not retained:
                self._arm[self._switches[topic]] = on
            return
        if topic in (self._topics.availability, self._topics.node) and not payload:
            # Another node had this name, and clears its topics, which it takes for its own
            self._cleared |= not retained
            return
        if topic == self._topics.availability:
            # The last will of an earlier connection, which the broker noticed late: it must be overwritten.
            self._called_offline |= payload == OFFLINE.encode()
            return
        if topic == self._topics.node:
            if not retained:
                self._publications.on_node(payload)
            return
        is_birth = topic == self._topics.home_assistant_status
        asked = payload == b"online" if is_birth else is_refresh(payload)
        now = time.monotonic()
        if asked and now - self._answered_at >= REFRESH_S:
            self._answered_at = now
            self._publications.publish_all()

    # --- switches and notifications

    def _switch(self) -> None:
        """Apply the switch commands received over MQTT, and publish switches that a schedule has changed."""
        self._arming.check_clock(time.time())
        wanted, self._arm = self._arm, {}
        for switch, on in wanted.items():
            self._set_armed(switch, on)
        if wanted or time.monotonic() - self._armed_at >= ARMED_S:
            self._armed_at = time.monotonic()
            self._publications.publish_armed()

    def _set_armed(self, switch: str, on: bool) -> None:
        if self._arming.ask(switch, on, time.time()):
            name = f"camera {switch}" if switch else "the node"
            logger.info("%s is %s", name, "armed" if on else "disarmed")

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer another process of the node: set the switch that is named, if any, and return all switches."""
        switch, on = request.get("switch"), request.get("on")
        if isinstance(switch, str) and switch in self._arming and isinstance(on, bool):
            self._set_armed(switch, on)
            self._publications.publish_armed()
        return {"armed": self._arming.state(time.time())}

    def _notify_blind(self) -> None:
        """Queue notifications for cameras that are no longer watched or are watched again."""
        for camera in self._cameras:
            why = self._publications.why_unwatched(camera)
            notice = self._blind.look(camera, why, boot_clock.now_ns() / 1e9, time.time_ns())
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

    def _compose(self, row: Row, is_short: bool) -> tuple[str, str]:
        text = payloads.published(row.details, time.time_ns(), is_short=is_short)
        return self._topics.events(row.camera), text

    async def _shut_down(self) -> None:
        """Handle the remaining results, briefly wait for the outbox to drain, and replace all retained state."""
        for sentry in self._cameras.values():
            sentry.tick()
        self._show_changes()
        self._stopping = True
        await until(lambda: self._pump.idle or not self._link.connected, DRAIN_S)
        await self._link.stop(self._publications.last_messages())
