"""Run the README's compose file with evidence: check viewer, MQTT and privileges, and kill each container in turn."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from websockets.sync.client import connect

from support.compose import Project
from support.containers import ROOT, Engine, compose_command
from support.mosquitto import free_port
from support.waiting import wait_for

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
SERVICES = ("triton", "capture-street", "detector", "controller", "gateway", "recorder")


@pytest.fixture(scope="module")
def project(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    program = compose_command()
    if not program:
        pytest.skip("Docker Compose is not installed")
    port = free_port()
    folder = tmp_path_factory.mktemp("compose")
    compose, node = folder / "compose.yaml", folder / "compose-node.yaml"
    compose.write_text((ROOT / "docker" / compose.name).read_text())
    node.write_text((ROOT / "docker" / node.name).read_text() + "evidence: {}\n")
    override = folder / "override.yaml"
    override.write_text(f'services: {{gateway: {{ports: !override ["127.0.0.1:{port}:8080"]}}}}\n')
    with images.docker_host() as environment:
        run = Project(environment, program, [compose, override], port, profile="evidence")
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
    # Only the mount points, which are created with the container, differ from the image
    changed = images.run("diff", container["Id"]).split("\n")
    assert not [line for line in changed if line and not line[2:].startswith("/etc")]


@pytest.mark.parametrize("service", [*SERVICES, "broker"])
def test_a_killed_container_is_restarted(project: Project, images: Engine, service: str) -> None:
    container = project.container(service)
    before = images.inspect(container)["State"]["Pid"]
    # The engine restarts containers that die, but not those killed through it
    subprocess.run(["kill", "-9", str(before)], check=True)
    wait_for(lambda: images.inspect(container)["State"]["Pid"] not in (0, before), 60, "restarted")
    wait_for(project.ready, 120, "the node watches its camera again")
    wait_for(lambda: any("state" in topic for topic in project.topics()), 60, "state is published")
