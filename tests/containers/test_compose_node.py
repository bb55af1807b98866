"""Run docker/node.yaml, which is one container for the user's own cameras, with a mounted tridetr.yaml."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.compose import Project
from support.containers import ROOT, Engine, compose_command
from support.mosquitto import free_port
from support.waiting import wait_for

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
COMPOSE = ROOT / "docker" / "node.yaml"


@pytest.fixture
def project(images: Engine, tmp_path: Path) -> Iterator[Project]:
    program = compose_command()
    if not program:
        pytest.skip("Docker Compose is not installed")
    port = free_port()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "tridetr.yaml").write_text(
        yaml.safe_dump(
            {
                "cameras": {"own": {"source": "synthetic", "width": 640, "height": 360}},
                "mqtt": {"host": "embedded", "port": free_port()},
                "gateway": {"port": port},
            }
        )
    )
    with images.docker_host() as environment:
        own = environment | {"TRIDETR_FOLDER": str(tmp_path), "TRIDETR_SHM": "256m"}
        run = Project(own, program, [COMPOSE], port, profile="cpu")
        try:
            run.run("up", "--detach", "--no-build")
            yield run
        finally:
            run.run("down", "--volumes", "--timeout", "15")


def test_a_mounted_configuration_runs_and_survives_a_restart(
    project: Project, images: Engine
) -> None:
    wait_for(project.ready, 120, "the node watches its camera")
    status = project.run("exec", "-T", "node", "cat", "/proc/1/status")
    assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    container = images.inspect(project.container("node"))
    assert container["HostConfig"]["ReadonlyRootfs"]
    before = container["State"]["Pid"]
    subprocess.run(["kill", "-9", str(before)], check=True)
    wait_for(lambda: images.inspect(container["Id"])["State"]["Pid"] not in (0, before), 60)
    wait_for(project.ready, 120, "the node watches its camera again")
