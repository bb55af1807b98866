"""Run a real mosquitto on a free port, and a subscriber that keeps the messages it receives."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from support.waiting import wait_for

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """Return a TCP port of the loopback interface that is free, and outside of the range of outgoing connections."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(10_000, first)
    for port in random.SystemRandom().sample(candidates, min(50, len(candidates))):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Certificates:
    """A CA for the test, and a server certificate for 127.0.0.1 and localhost."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """Create a self-signed CA and a server certificate with openssl."""
    folder.mkdir(parents=True, exist_ok=True)
    names = folder / "names.cnf"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(
        *new, "-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.crt"
    )
    openssl(*new, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "2"),
        *("-CAcreateserial", "-extfile", names.name, "-out", "server.crt"),
    )
    return Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")


class Mosquitto:
    """A broker that can be killed, frozen and restarted on the same port."""

    def __init__(
        self,
        folder: Path,
        *,
        tls: Certificates | None = None,
        user: tuple[str, str] | None = None,
        largest: int | None = None,
    ) -> None:
        assert MOSQUITTO
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._file = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        lines = [f"listener {self.port} 127.0.0.1", "max_queued_messages 100000", "log_type all"]
        if largest is not None:
            lines.append(f"max_packet_size {largest}")
        if os.geteuid() == 0:
            lines.append("user root")  # mosquitto's own user cannot read the test's folder
        if tls:
            lines += [f"cafile {tls.ca}", f"certfile {tls.certificate}", f"keyfile {tls.key}"]
        if user:
            passwords = folder / "passwords"
            tool = shutil.which("mosquitto_passwd")
            assert tool
            subprocess.run(
                [tool, "-b", "-c", str(passwords), *user], check=True, capture_output=True
            )
            lines += ["allow_anonymous false", f"password_file {passwords}"]
        else:
            lines.append("allow_anonymous true")
        self._file.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start it and wait until it listens."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(MOSQUITTO), "-c", str(self._file)], stdout=log, stderr=log
            )
        wait_for(self._listens, 30, f"mosquitto does not listen: {self.log()}")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _listens(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def lift_limit(self) -> None:
        """Accept messages of any size after the next start."""
        lines = self._file.read_text().splitlines(keepends=True)
        self._file.write_text("".join(line for line in lines if "max_packet_size" not in line))

    def kill(self) -> None:
        """Kill it; its retained messages are lost."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop the process without closing connections."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process continue."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_mosquitto(
    folder: Path,
    *,
    tls: Certificates | None = None,
    user: tuple[str, str] | None = None,
    largest: int | None = None,
) -> Iterator[Mosquitto]:
    """Run a broker; skip the test if mosquitto is not installed."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    broker = Mosquitto(folder, tls=tls, user=user, largest=largest)
    broker.start()
    try:
        yield broker
    finally:
        if broker.process and broker.process.poll() is None:
            broker.kill()


@dataclass
class Heard:
    """One message."""

    topic: str
    payload: bytes
    retained: bool
    qos: int

    def json(self) -> Any:
        return json.loads(self.payload)


class Subscriber:
    """Receives all messages, also after restarts of the broker."""

    def __init__(
        self, port: int, *, ca: Path | None = None, user: tuple[str, str] | None = None
    ) -> None:
        self.heard: list[Heard] = []
        self._ready = threading.Event()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, f"ear-{uuid.uuid4().hex[:8]}", clean_session=False
        )
        if user:
            client.username_pw_set(*user)
        if ca:
            client.tls_set(str(ca), cert_reqs=ssl.CERT_REQUIRED)
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda c, *_: c.subscribe("#", qos=1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._on_message
        self.client = client
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert self._ready.wait(30)

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        self.heard.append(
            Heard(message.topic, bytes(message.payload), bool(message.retain), message.qos)
        )

    def payloads(self, suffix: str) -> list[bytes]:
        """Return the payloads of all topics with this ending."""
        return [one.payload for one in list(self.heard) if one.topic.endswith(suffix)]

    def last(self, suffix: str) -> bytes | None:
        """Return the newest of them."""
        found = self.payloads(suffix)
        return found[-1] if found else None

    def events(self) -> list[dict[str, Any]]:
        """Return all events, including repeats."""
        return [json.loads(payload) for payload in self.payloads("/events")]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextlib.contextmanager
def listening(broker: Mosquitto, **options: Any) -> Iterator[Subscriber]:
    """Subscribe to all topics for the duration of a test."""
    subscriber = Subscriber(broker.port, **options)
    try:
        yield subscriber
    finally:
        subscriber.close()
