"""Render the metrics of a whole node: those of its processes and those of the embedded Triton."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tridetr.config import Config
from tridetr.telemetry.process_files import read_families, render_all
from tridetr.triton.endpoint import read_endpoint

_BROKER_S = 3.0
_CONNECTED = "tridetr_mqtt_connected"
_WAITING = "tridetr_outbox_depth"
_ARMED = "tridetr_armed"
_GAUGES = {_CONNECTED, _WAITING, _ARMED}
_TIMEOUT_S = 1.0  # Triton runs on this machine; if it does not answer, its metrics are left out


def render_node(config: Config) -> bytes:
    """Return the node's metrics in Prometheus text format.

    The metrics of the embedded Triton are included because others cannot reach its socket or loopback port. An external
    Triton must be scraped directly.
    """
    page = render_all(config.run_dir / "metrics")
    endpoint = read_endpoint(config.run_dir) if config.triton.url is None else None
    if endpoint is not None and endpoint.metrics is not None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            page += _fetch(endpoint.metrics)
    return page


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _fetch(address: str | int) -> bytes:
    connection = (
        _UnixConnection(address)
        if isinstance(address, str)
        else http.client.HTTPConnection("127.0.0.1", address, timeout=_TIMEOUT_S)
    )
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        page = answer.read() if answer.status == 200 else b""
    return page if page.endswith(b"\n") else page + b"\n"


class Broker:
    """Reads the state of the broker connection and of the arming switches from the controller's metrics.

    Attributes:
        facts: header of the `node` message.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "metrics"
        self._read_at = float("-inf")
        self.facts: dict[str, Any] = _facts({})

    async def refresh(self) -> None:
        """Read the controller's gauges again, at most every few seconds."""
        if time.monotonic() - self._read_at < _BROKER_S:
            return
        self._read_at = time.monotonic()
        self.facts = _facts(await asyncio.to_thread(self._read))

    def _read(self) -> dict[tuple[str, str], float]:
        families = read_families(self._folder, "gauge_mostrecent_controller*.db")
        return {
            (sample.name, sample.labels.get("camera", "")): sample.value
            for family in families
            for sample in family.samples
            if sample.name in _GAUGES
        }


def _facts(found: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """Return the header of a `node` message from gauge values by name and camera."""
    connected = found.get((_CONNECTED, ""))
    return {
        "type": "node",
        "broker": "unknown" if connected is None else "connected" if connected else "away",
        "events_waiting": round(found.get((_WAITING, ""), 0)),
        "armed": {camera: bool(on) for (name, camera), on in found.items() if name == _ARMED},
    }
