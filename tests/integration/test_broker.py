"""The embedded broker: mosquitto and amqtt, as processes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from support.mosquitto import free_port
from support.proc import listening, listening_as
from support.sentry import EMPTY, PERSON, running_controller
from support.waiting import wait_for
from tridetr.broker import broker_command, find_mosquitto, resolve_broker, write_address
from tridetr.config import Config
from tridetr.controller.history import read_history
from tridetr.errors import BrokerError
from tridetr.paths import private_folder
from tridetr.supervisor.broker_pulse import answers
from tridetr.supervisor.orphans import MARK

KINDS = ["mosquitto", "amqtt"]


def config(folder: Path, **mqtt: Any) -> Config:
    return Config.model_validate(
        {
            "cameras": {"hall": {"source": "synthetic"}},
            "mqtt": {"host": "embedded", "port": 0, **mqtt},
            "run_dir": str(folder / "run"),
        }
    )


@contextlib.contextmanager
def running_broker(config: Config, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    if kind == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    if kind == "amqtt" and importlib.util.find_spec("amqtt") is None:
        pytest.skip("amqtt is not installed (extra `server`)")
    command = broker_command(config) + (["--amqtt"] if kind == "amqtt" else [])
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(40)


def listens(config: Config) -> bool:
    with contextlib.suppress(OSError, BrokerError):
        with socket.create_connection(resolve_broker(config), 1):
            return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_listens_on_loopback_only_and_keeps_its_port(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setenv(MARK, "this node")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "secret")
    settings = config(tmp_path)
    with pytest.raises(BrokerError, match="not running yet"):
        resolve_broker(settings)
    with running_broker(settings, kind) as process:
        wait_for(lambda: listens(settings))
        address = resolve_broker(settings)
        assert answers(*address)
        assert listening(process.pid) == [address]
        assert address[0] == "127.0.0.1"
        if kind == "mosquitto":  # as root, another user runs it
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            assert environment == f"{MARK}=this node\0".encode()
    assert "cannot use a topic" not in capfd.readouterr().err  # amqtt, every two seconds
    with running_broker(settings, kind):
        wait_for(lambda: listens(settings))
        assert resolve_broker(settings) == address


@pytest.mark.parametrize("kind", KINDS)
def test_controller_connects_and_its_events_are_acknowledged(tmp_path: Path, kind: str) -> None:
    settings = config(tmp_path)
    mqtt = {"host": "embedded", "port": 0}
    with running_controller(tmp_path, mqtt) as (controller, actor):
        wait_for(lambda: "not running yet" in controller.log())
        actor.show_and_wait(EMPTY)
        actor.show_and_wait(PERSON, 8)
        with running_broker(settings, kind):
            wait_for(lambda: "connected to the broker" in controller.log())
            rows = read_history(Path(controller.config["state_dir"]))
            assert [row.kind for row in rows] == ["person_arrived"]
            assert controller.terminate() == 0
    with contextlib.closing(_open(controller.config["state_dir"])) as database:
        assert database.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_the_supervisor_while_it_keeps_messages(tmp_path: Path, kind: str) -> None:
    """amqtt sends the retained messages of every subscribed topic to each client that connects, subscribed or not."""
    settings = config(tmp_path)
    with running_broker(settings, kind):
        wait_for(lambda: listens(settings))
        host, port = resolve_broker(settings)
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect(host, port)
        client.loop_start()
        try:
            client.subscribe("tridetr/#", qos=1)
            for number in range(100):
                message = client.publish(f"tridetr/{number}", bytes(1000), qos=1, retain=True)
                message.wait_for_publish(5)
                assert message.is_published()
            assert all(answers(host, port) for _ in range(3))
        finally:
            client.disconnect()
            client.loop_stop()


def test_retained_messages_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Every user of the machine may publish them, and the broker keeps them."""

    def connected(port: int) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), 5)
        client.sendall(b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0")
        assert client.recv(4) == b"\x20\x02\0\0"
        return client

    def keeps(client: socket.socket, size: int) -> bool:
        length = 10 + size
        header = bytes([0x31, length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
        try:
            for number in range(3000):
                client.sendall(header + b"\0\x08%02d%06d" % (size % 97, number) + bytes(size))
            client.sendall(b"\xc0\0")
            return client.recv(2) != b""
        except OSError:
            return False

    settings = config(tmp_path)
    with running_broker(settings, "mosquitto"):
        wait_for(lambda: listens(settings))
        port = resolve_broker(settings)[1]
        assert answers("127.0.0.1", port)
        for size in (1_000_000, 10_000, 100):
            with connected(port) as flood:
                assert not keeps(flood, size)
        assert not answers("127.0.0.1", port)  # the supervisor restarts it


def _open(state_dir: str) -> Any:
    import sqlite3

    return sqlite3.connect(f"{state_dir}/controller.db")


def test_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = broker_command(config(tmp_path, port=port))
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert f"cannot bind to 127.0.0.1:{port}" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="starts a process of another user")
def test_nothing_is_sent_to_another_user_who_has_taken_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While mosquitto restarts, every user can listen on its port: the events went there, and commands came from it."""
    with listening_as(12345) as port:
        settings = config(tmp_path, port=port)
        write_address(private_folder(settings.run_dir), port)
        with pytest.raises(BrokerError, match=rf"\(ID 12345\) has taken port {port}"):
            resolve_broker(settings)
        # mosquitto's own user
        monkeypatch.setattr(pwd, "getpwnam", lambda _: pwd.struct_passwd(("", "", 12345, *"0:::")))
        assert resolve_broker(settings)[1] == port
        os.chown(settings.run_dir / "broker.json", 1, 1)  # the node is not root's
        with pytest.raises(BrokerError, match="ID 12345"):
            resolve_broker(settings)


def test_contradictory_settings_are_reported(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="without TLS"):
        resolve_broker(config(tmp_path, tls={}))
    with pytest.raises(BrokerError, match="free port"):
        resolve_broker(config(tmp_path, host="127.0.0.1"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "broker.json").write_text("[]")
    with pytest.raises(BrokerError, match="cannot be read"):
        resolve_broker(config(tmp_path))


def test_address_file_holds_the_broker_address(tmp_path: Path) -> None:
    settings = config(tmp_path, port=free_port())
    with running_broker(settings, "mosquitto"):
        wait_for(lambda: listens(settings))
        written = json.loads((tmp_path / "run" / "broker.json").read_text())
        assert written == {"host": "127.0.0.1", "port": settings.mqtt.port}
    assert sys.executable == broker_command(settings)[0]
