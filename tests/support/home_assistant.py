"""Run Home Assistant, set up through its own API: a user, and the MQTT integration."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from support.containers import ROOT
from support.mosquitto import free_port
from support.waiting import wait_for

INSTALLED = ROOT / "build" / "home-assistant"
READY_S = 180


class HomeAssistant:
    """One installation with its own configuration folder; it can be stopped and restarted.

    Attributes:
        folder: Its configuration folder, with its database.
    """

    def __init__(self, folder: Path, files: dict[str, Path], configuration: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        for name, source in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.read_bytes())
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._token = ""
        self._log = folder / "container.log"
        content = {
            "homeassistant": {"name": "Test", "time_zone": "UTC", "allowlist_external_dirs": []},
            "http": {"server_host": "127.0.0.1", "server_port": self.port},
            "recorder": {"commit_interval": 1},
            "frontend": None,
            "config": None,
            "history": None,
            "logger": {"default": "warning"},
            **configuration,
        }
        (folder / "configuration.yaml").write_text(yaml.safe_dump(content))

    def start(self) -> None:
        """Start it and wait until the start is complete."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(ROOT / "tools/home-assistant"), str(INSTALLED), str(self.folder)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_for(self._answers, READY_S, f"Home Assistant does not answer: {self.log()}")
        if not self._token:
            self._onboard()
        wait_for(lambda: self.ask("/api/config")["state"] == "RUNNING", READY_S, "it starts")

    def stop(self) -> None:
        """Stop it as `docker stop` does."""
        assert self.process
        self.process.terminate()
        self.process.wait(90)

    def log(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-6000:]

    def ask(self, path: str, body: Any = None, *, form: bool = False) -> Any:
        """Send a GET request, or a POST request with a body; return the JSON of the response."""
        data = headers = None
        if body is not None:
            kind = "x-www-form-urlencoded" if form else "json"
            headers = {"Content-Type": f"application/{kind}"}
            data = (urllib.parse.urlencode(body) if form else json.dumps(body)).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers or {}
        )
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def picture(self, path: str) -> bytes:
        """Return the content of a path, such as an entity's picture."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        request.add_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the state of all entities."""
        return {state["entity_id"]: state for state in self.ask("/api/states")}

    def state(self, entity: str) -> str:
        """Return an entity's state; empty if the entity does not exist."""
        return str(self.states().get(entity, {}).get("state", ""))

    def command(self, kind: str, **arguments: Any) -> Any:
        """Send a command over the WebSocket and return its result."""
        with connect(f"ws://127.0.0.1:{self.port}/api/websocket", max_size=None) as socket:
            _received(socket, "auth_required")
            socket.send(json.dumps({"type": "auth", "access_token": self._token}))
            _received(socket, "auth_ok")
            socket.send(json.dumps({"id": 1, "type": kind, **arguments}))
            answer = _received(socket, "result")
            assert answer["success"], answer
            return answer["result"]

    def add_mqtt(self, port: int) -> None:
        """Add the MQTT integration, as a user does."""
        flow = self.ask("/api/config/config_entries/flow", {"handler": "mqtt"})
        for _ in range(3):
            if flow["type"] == "create_entry":
                return
            broker = {"broker": "127.0.0.1", "port": port}
            step = {"next_step_id": "broker"} if flow["type"] == "menu" else broker
            flow = self.ask(f"/api/config/config_entries/flow/{flow['flow_id']}", step)
        assert flow["type"] == "create_entry", flow

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/api/onboarding", timeout=5
            ).close()
            return True
        return False

    def _onboard(self) -> None:
        client = f"http://127.0.0.1:{self.port}/"
        user = {"client_id": client, "name": "Test", "username": "test", "language": "en"}
        code = self.ask("/api/onboarding/users", {**user, "password": "a test's password"})
        grant = {"grant_type": "authorization_code", "code": code["auth_code"], "client_id": client}
        self._token = self.ask("/auth/token", grant, form=True)["access_token"]
        # Longer than the half hour of the first token
        self._token = self.command("auth/long_lived_access_token", client_name="test", lifespan=1)


def _received(socket: Connection, kind: str) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = json.loads(socket.recv(30))
        if message["type"] == kind:
            return message


@contextlib.contextmanager
def running_home_assistant(
    folder: Path, files: dict[str, Path], **configuration: Any
) -> Iterator[HomeAssistant]:
    """Run it with files in its configuration folder; skip the test if it is not installed."""
    if not (INSTALLED / "version").exists():
        pytest.skip("Home Assistant is not installed (make test-home-assistant does that)")
    home = HomeAssistant(folder, files, configuration)
    try:
        home.start()
        yield home
    except BaseException:
        print(home.log())
        raise
    finally:
        if home.process and home.process.poll() is None:
            home.stop()
