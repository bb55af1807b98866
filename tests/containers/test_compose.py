"""The README's compose file, run as it is: viewer, MQTT, privileges, and each container killed in turn."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from support.containers import ROOT, Engine, compose_command
from support.mosquitto import free_port
from support.waiting import wait_for

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
COMPOSE = ROOT / "docker" / "compose.yaml"
SERVICES = ("triton", "capture-street", "detector", "controller", "gateway")


class Project:
    """The services of the compose file under a name and a port of their own."""

    def __init__(self, environment: dict[str, str], folder: Path, program: list[str]) -> None:
        self.name = "t" + uuid.uuid4().hex[:8]
        self.port = free_port()
        self._environment = environment
        override = folder / "override.yaml"
        override.write_text(
            f'services: {{gateway: {{ports: !override ["127.0.0.1:{self.port}:8080"]}}}}\n'
        )
        self._command = [*program, "-p", self.name, "-f", str(COMPOSE), "-f", str(override)]

    def run(self, *arguments: str) -> str:
        """Run a command of Docker Compose."""
        done = subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def get(self, path: str) -> Any:
        """Return what the viewer's API answers, also with an error status."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def ready(self) -> bool:
        """Return whether all cameras are watched."""
        with suppress(OSError, ValueError):
            return bool(self.get("/readyz")["ready"])
        return False

    def container(self, service: str) -> str:
        """Return the container's id."""
        return self.run("ps", "-q", "-a", service).strip()

    def topics(self) -> dict[str, str]:
        """Return the broker's retained topics."""
        listen = ("mosquitto_sub", "-t", "tridetr/#", "-v", "--retained-only", "-W", "3")
        text = subprocess.run(
            [*self._command, "exec", "-T", "broker", *listen],
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=60,
            check=False,
        ).stdout
        return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


@pytest.fixture(scope="module")
def project(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    program = compose_command()
    if not program:
        pytest.skip("Docker Compose is not installed")
    folder = tmp_path_factory.mktemp("compose")
    with images.docker_host() as environment:
        run = Project(environment, folder, list(program))
        try:
            run.run("up", "--detach", "--no-build")
            wait_for(run.ready, 120, "the node watches its camera")
            yield run
        finally:
            run.run("down", "--volumes", "--timeout", "10")


def test_the_viewer_shows_frames_and_boxes(project: Project) -> None:
    def detections() -> Any:
        return project.get("/api/cameras")["cameras"][0]["detections"]

    wait_for(detections, 60, "people are found in the drawn street")
    with closing(connect(f"ws://127.0.0.1:{project.port}/ws/street")) as socket:
        wait_for(lambda: isinstance(socket.recv(timeout=20), bytes), 30, "a picture arrives")


def test_state_is_published(project: Project) -> None:
    topics = wait_for(
        lambda: (
            found if "tracking" in str(found := project.topics()) or "standby" in str(found) else {}
        ),
        60,
        "the broker holds the camera's state",
    )
    assert any(topic.endswith("street/state") for topic in topics)


@pytest.mark.parametrize("service", SERVICES)
def test_containers_need_no_privileges(project: Project, images: Engine, service: str) -> None:
    status = project.run("exec", "-T", service, "cat", "/proc/1/status").splitlines()
    facts = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert facts["Uid"].split() == ["10001"] * 4
    assert {facts[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1"
    container = images.inspect(project.container(service))
    assert container["HostConfig"]["ReadonlyRootfs"]
    # Mount points are made when the container is; nothing else differs from the image.
    changed = images.run("diff", container["Id"]).split("\n")
    assert not [line for line in changed if line and not line[2:].startswith("/etc")]


@pytest.mark.parametrize("service", [*SERVICES, "broker"])
def test_a_killed_container_comes_back(project: Project, images: Engine, service: str) -> None:
    container = project.container(service)
    before = images.inspect(container)["State"]["Pid"]
    # The engine does not restart what was killed through it, only what dies.
    subprocess.run(["kill", "-9", str(before)], check=True)
    wait_for(lambda: images.inspect(container)["State"]["Pid"] not in (0, before), 60, "restarted")
    wait_for(project.ready, 120, "the node watches its camera again")
    wait_for(lambda: any("state" in topic for topic in project.topics()), 60, "state is published")
