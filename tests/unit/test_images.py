"""Checks of the images and compose files that need no container engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tridetr.config import load_config
from tridetr.config.node_sections import EvidenceSection
from tridetr.supervisor.process_list import plan_processes

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_image_is_pinned_unprivileged_and_locked(file: Path) -> None:
    text = file.read_text()
    bases = re.findall(r"^(?:FROM|ARG (?:TRITON|BASE)=)\s*(\S+)", text, re.MULTILINE)
    pinned = [base for base in bases if base != "scratch" and not base.startswith("${")]
    assert pinned
    for base in pinned:
        assert re.search(r":\S*\d", base), f"{base} is not pinned"
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users[-1] == "10001:10001"
    assert "--constraint constraints.txt" in text
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), f"{source} is copied but not there"
            assert f"!{source}" in (ROOT / ".dockerignore").read_text().split()


def read_compose(text: str) -> object:
    """Read a compose file as the Compose specification defines it, without an engine."""
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    options = compose_spec.PyOptions()
    options.apply_merge = True
    read = options.from_yaml(text)
    read.validate()
    return read


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (None, None),
        ("restart:", "restrat:"),
        ("- run:/run/tridetr", "- runn:/run/tridetr"),
    ],
)
def test_compose_file_keeps_the_specification(right: str | None, wrong: str | None) -> None:
    text = (ROOT / "docker" / "compose.yaml").read_text()
    if right is None or wrong is None:
        read_compose(text)
        return
    assert right in text
    with pytest.raises(ValueError, match=wrong.strip("- ").split(":")[0]):
        read_compose(text.replace(right, wrong, 1))


def test_compose_for_own_cameras_gives_the_device_or_the_gpu() -> None:
    text = (ROOT / "docker" / "node.yaml").read_text()
    variables = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    page = (ROOT / "docs" / "how-to" / "docker-compose.md").read_text()
    assert all(f"`{variable}`" in page for variable in variables)
    variables |= {"TRIDETR_FOLDER": "/cameras", "TRIDETR_DEVICE": "/dev/video3"}
    text = re.sub(r"\$\{(\w+):-[^}]*\}", lambda found: variables[found[1]], text)
    read_compose(text)
    services = yaml.safe_load(text)["services"]
    for service in services.values():
        assert service["devices"] == ["/dev/video3:/dev/video3"]
        assert service["group_add"] == ["44"]
        assert "/cameras:/etc/tridetr/node:ro" in service["volumes"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    (gpu,) = services["node-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpu["driver"] == "nvidia"
    assert {"gpu", "compute", "video"} <= set(gpu["capabilities"])
    assert "deploy" not in services["node"]


def test_compose_runs_each_process_of_its_node_and_shares_memory() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    node = load_config(ROOT / "docker" / "compose-node.yaml")
    services = compose["services"]
    wanted = {spec.name for spec in plan_processes(node, Path("x"))}
    ours = {name: service for name, service in services.items() if name != "broker"}
    always = {service["command"][-1] for service in ours.values() if not service.get("profiles")}
    assert always == wanted
    recording = node.model_copy(update={"evidence": EvidenceSection()})
    wanted = {spec.name for spec in plan_processes(recording, Path("x"))}
    assert {service["command"][-1] for service in ours.values()} == wanted
    assert services["triton"]["ipc"] == "shareable"
    for name, service in ours.items():
        assert name == "triton" or service["ipc"] == "service:triton"
        mounted = [volume.split(":")[1] for volume in service["volumes"]]
        assert str(node.run_dir) in mounted
        assert str(node.state_dir) in mounted
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    assert node.mqtt.host in services
    assert services["gateway"]["ports"] == ["127.0.0.1:8080:8080"]
