"""The state of all nodes of an MQTT broker, from their retained and published messages alone.

No requests are sent to the nodes themselves.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tridetr.broker import resolve_broker, set_login
from tridetr.config import Config
from tridetr.controller.mqtt import BrokerSettings
from tridetr.controller.payloads import ONLINE
from tridetr.errors import BrokerError, ConfigError

SILENT_AFTER = 3.0  # missed reports
_CONNECT_S = 10.0
_QUIET_S = 0.7  # retained messages come in one go
_LONGEST_WAIT_S = 10.0
_DEEPEST = 32  # levels of a report; a node's has four


@dataclass(frozen=True, slots=True)
class NodeView:
    """The last known state of one node.

    Attributes:
        name: the device name in its topics.
        condition: ``ok``, ``problem``, ``silent`` (its reports have stopped), ``offline``, ``unreadable`` (its newest
            report is not valid) or ``unknown`` (no report was received).
        report: its newest report (docs/mqtt.md), which can be printed as JSON; empty = none, or not a valid one.
        age_s: age of that report in seconds, by this machine's clock; None = no report.
    """

    name: str
    condition: str
    report: dict[str, Any]
    age_s: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the state as `tridetr fleet status --json` prints it."""
        return {
            "device": self.name,
            "condition": self.condition,
            "age_s": None if self.age_s is None else round(self.age_s, 1),
            "node": self.report or None,
        }


class Fleet:
    """The nodes by name, updated from their messages; a node whose newest report is invalid is unreadable.

    Args:
        prefix: `mqtt.prefix` of the nodes.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._reports: dict[str, dict[str, Any]] = {}
        self._unreadable: set[str] = set()
        self._availability: dict[str, str] = {}

    @property
    def topics(self) -> list[str]:
        """The topic filters to subscribe to."""
        return [f"{self._prefix}/+/node", f"{self._prefix}/+/availability"]

    def hear(self, topic: str, payload: bytes) -> bool:
        """Process a message and return whether it was understood."""
        name, _, kind = topic.removeprefix(f"{self._prefix}/").partition("/")
        if kind == "availability":
            self._availability[name] = payload.decode(errors="replace")
            if not payload:
                del self._availability[name]
            return True
        known = self._reports.pop(name, None) is not None
        self._unreadable.discard(name)
        if not payload:
            return known
        report = _read(payload)
        if report is None:
            self._unreadable.add(name)  # not from a node, or from a later version
            return False
        self._reports[name] = report
        return True

    def view(self, now_unix_s: float) -> list[NodeView]:
        """Return all nodes, sorted by name."""
        names = sorted({*self._reports, *self._unreadable, *self._availability})
        return [self._node(name, now_unix_s) for name in names]

    def _node(self, name: str, now_unix_s: float) -> NodeView:
        report = self._reports.get(name, {})
        age_s = now_unix_s - _moment(report["published_at"]) if report else None
        unreadable = name in self._unreadable
        if self._availability.get(name, ONLINE if unreadable else "") != ONLINE:
            condition = "offline"
        elif unreadable:
            condition = "unreadable"
        elif age_s is None:
            condition = "unknown"
        elif age_s > SILENT_AFTER * report["interval_s"]:
            condition = "silent"
        else:
            condition = "problem" if report["findings"] else "ok"
        return NodeView(name, condition, report, age_s)


def _read(payload: bytes) -> dict[str, Any] | None:
    """Return a report, which can be printed as JSON; None if it is not a valid one."""
    try:
        report = json.loads(payload, parse_float=_finite, parse_constant=_finite)
        _moment(report["published_at"])
        report["interval_s"] = _finite(report["interval_s"])
        cameras, findings = report["cameras"].values(), report["findings"]
        if not isinstance(findings, list) or _is_deep(report):
            return None
        optional = [report[key] for key in ("model", "disk") if report.get(key) is not None]
        if not all(isinstance(part, dict) for part in (*cameras, *findings, *optional)):
            return None
        if report.get("disk"):
            free_bytes = report["disk"]["free_bytes"] = int(report["disk"]["free_bytes"])
            float(free_bytes)  # shown in GB
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    valid: dict[str, Any] = report
    return valid


def _finite(number: str | float) -> float:
    """Return a number of a report; NaN and Infinity are not JSON."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError("not finite")
    return value


def _is_deep(value: object) -> bool:
    """Return whether lists and objects are nested so deeply that printing them could fail."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


class FleetListener:
    """Subscribes to the broker of a configuration and reconnects when it restarts; a context manager.

    Raises:
        BrokerError: the broker cannot be reached or refuses the connection.
    """

    def __init__(self, config: Config) -> None:
        self._fleet = Fleet(config.mqtt.prefix.rstrip("/"))
        self._lock = threading.Lock()
        self._heard_at = time.monotonic()
        self._ready = threading.Event()
        self._refusal = ""
        self._address = resolve_broker(config)
        settings = self._settings = BrokerSettings.of(config, "", lambda: self._address)
        client = self._client = paho.Client(CallbackAPIVersion.VERSION2)
        set_login(client, settings.username, settings.password(), settings.tls)
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._on_message

    def __enter__(self) -> FleetListener:
        host, port = self._address
        try:
            self._client.connect(host, port, 30)
        except OSError as error:
            raise BrokerError(f"cannot connect to the broker at {host}:{port}: {error}") from None
        self._client.loop_start()
        if not self._ready.wait(_CONNECT_S) or self._refusal:
            self.__exit__()
            reason = self._refusal or "it does not answer"
            raise BrokerError(f"the broker at {host}:{port} cannot be used: {reason}")
        return self

    def __exit__(self, *_arguments: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def view(self) -> list[NodeView]:
        """Return the current state of all nodes."""
        with self._lock:
            return self._fleet.view(time.time())

    def wait_quiet(self) -> None:
        """Wait until the retained messages have arrived."""
        give_up = time.monotonic() + _LONGEST_WAIT_S
        while time.monotonic() < min(give_up, self._heard_at + _QUIET_S):
            time.sleep(0.05)

    def _on_pre_connect(self, client: paho.Client, _data: Any) -> None:
        """Log in with the current password, which may have been changed since the last connection."""
        with suppress(ConfigError):
            set_login(client, self._settings.username, self._settings.password(), None)

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _p: Any
    ) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
            self._ready.set()
            return
        client.subscribe([(topic, 0) for topic in self._fleet.topics])

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        with self._lock:
            self._heard_at = time.monotonic()
            try:
                self._fleet.hear(message.topic, bytes(message.payload))
            except UnicodeDecodeError:
                return  # not a topic of a node


def counts(nodes: Iterable[NodeView]) -> dict[str, int]:
    """Return how many nodes are in each condition."""
    return Counter(node.condition for node in nodes)
