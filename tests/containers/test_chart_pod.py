"""Run the chart's CPU demo as podman pods, from the installation to the chart's own test."""

from __future__ import annotations

import copy
import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART, Manifest, render
from support.containers import Engine
from support.waiting import wait_for

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
READY = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/readyz').read().decode())"
)


def as_pod(manifest: Manifest) -> Manifest:
    """Return a Deployment's pod with the images built here, without probes, which podman only runs with systemd."""
    spec = copy.deepcopy(manifest["spec"])
    metadata = {"name": manifest["metadata"]["name"]}
    if manifest["kind"] == "Deployment":
        spec = spec["template"]["spec"]
    for container in spec["containers"]:
        for probe in PROBES:
            container.pop(probe, None)
        container["image"] = container["image"].replace("ghcr.io/tridetr/", "localhost/")
        container["imagePullPolicy"] = "Never"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def probes(manifests: list[Manifest], name: str) -> dict[str, list[str]]:
    """Return the command of the liveness probe of each container of a Deployment."""
    found = next(
        m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"] == name
    )
    return {
        container["name"]: container["livenessProbe"]["exec"]["command"]
        for container in found["spec"]["template"]["spec"]["containers"]
    }


class Release:
    """An installed release: pods in their own network."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.name = "t" + uuid.uuid4().hex[:6]
        self.manifests = render(
            yaml.safe_load((CHART / "examples" / "cpu-demo.yaml").read_text()), name=self.name
        )
        self._folder = folder
        self.pod = f"{self.name}-demo"

    def play(self, name: str, manifests: list[Manifest]) -> None:
        """Create pods and volumes from manifests."""
        file = self._folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all(manifests))
        self.engine.run("kube", "play", "--network", self.name, str(file))

    def exec(self, container: str, *command: str) -> str:
        """Run a command in a container of the node's pod and return its output; empty if it fails."""
        return self.engine.run("exec", f"{self.pod}-{container}", *command, check=False)

    def install(self) -> None:
        """Create everything except the pod of the chart's test."""
        kept = ("ConfigMap", "PersistentVolumeClaim")
        objects = [m for m in self.manifests if m["kind"] in kept]
        pods = [as_pod(m) for m in self.manifests if m["kind"] == "Deployment"]
        self.play("release", [*objects, *pods])

    def ready(self) -> bool:
        """Return whether the node watches its camera."""
        try:
            return bool(json.loads(self.exec("gateway", "python3", "-c", READY))["ready"])
        except ValueError:
            return False

    def uninstall(self) -> None:
        """Remove pods, volumes and network."""
        for file in sorted(self._folder.glob("*.yaml")):
            self.engine.run("kube", "play", "--down", str(file), check=False)
        volumes = [m["metadata"]["name"] for m in self.manifests if "metadata" in m]
        self.engine.run(
            *("volume", "rm", "--force", *volumes, "shm", "run", "tmp", "config"), check=False
        )
        self.engine.run("network", "rm", "--force", self.name, check=False)


def open_volumes(release: Release) -> None:
    """Change the owner of the volumes to the pod's user, like `fsGroup`, which podman does not support."""
    pods = [as_pod(m) for m in release.manifests if m["kind"] == "Deployment"]
    for volume in [v for pod in pods for v in pod["spec"]["volumes"]]:
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if "emptyDir" in volume or claim:
            where = release.engine.run(
                "volume", "inspect", claim or volume["name"], "--format", "{{.Mountpoint}}"
            )
            Path(where.strip()).chmod(0o777)


@pytest.fixture(scope="module")
def release(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    if images.program != "podman":
        pytest.skip("pods are run by podman")
    run = Release(images, tmp_path_factory.mktemp("release"))
    images.run("network", "create", run.name)
    try:
        run.install()
        yield run
    finally:
        run.uninstall()


def test_the_node_recovers_from_volumes_of_the_wrong_owner(release: Release) -> None:
    """Podman's volumes belong to root at first; the containers restart until they can write."""
    assert not release.ready()
    open_volumes(release)
    wait_for(release.ready, 180, "the node watches its camera")


def test_the_charts_own_test_passes(release: Release) -> None:
    wait_for(release.ready, 180)
    pod = next(m for m in release.manifests if m["kind"] == "Pod")
    configuration = next(
        m
        for m in release.manifests
        if m["kind"] == "ConfigMap" and m["metadata"]["name"] == release.pod
    )
    release.play("test", [configuration, as_pod(pod)])
    container = f"{release.name}-test-sees"
    code = release.engine.run("wait", container).strip()
    assert code == "0", release.engine.run("logs", container)


def test_liveness_probes_pass(release: Release) -> None:
    wait_for(release.ready, 180)
    for container, command in probes(release.manifests, release.pod).items():
        release.engine.run("exec", f"{release.pod}-{container}", *command)


@pytest.mark.parametrize(
    "container", ["triton", "capture-street", "detector", "controller", "gateway"]
)
def test_a_killed_container_of_the_pod_is_restarted(release: Release, container: str) -> None:
    wait_for(release.ready, 180)
    name = f"{release.pod}-{container}"
    before: dict[str, Any] = release.engine.inspect(name)["State"]
    subprocess.run(["kill", "-9", str(before["Pid"])], check=True)
    wait_for(lambda: release.engine.inspect(name)["State"]["Pid"] not in (0, before["Pid"]), 60)
    wait_for(release.ready, 180, "the node watches its camera again")
