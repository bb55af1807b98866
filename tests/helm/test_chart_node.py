"""The chart's pod of a node fits the code: configuration, files, processes, environment, sizes, GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from support.chart import CHART, Manifest, configurations, node_pods, of_kind, pods, render
from support.chart_values import FLEET, FULL
from tridetr.config.memory import GENERATIONS, node_mib, ring_mib, state_mib
from tridetr.config.source import CameraSource
from tridetr.supervisor.process_list import plan_processes

# Read by the C library and by NVIDIA's container runtime.
RUNTIMES = {
    "OTLP_AUTHORIZATION",
    "HOME",
    "TZ",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
}
# The container that reads the files of each configuration key that is a path
READERS = {
    "build-engine": ("model.file",),
    "triton": ("run_dir", "model.file", "triton."),
    "gpu": ("run_dir", "triton.secret_file"),
    "capture": ("run_dir", "cameras."),
    "detector": ("run_dir", "triton.secret_file"),
    "controller": ("run_dir", "state_dir", "mqtt.", "notify."),
    "gateway": ("run_dir", "state_dir", "gateway.", "evidence."),
    "recorder": ("run_dir", "state_dir", "evidence."),
}


def files_of(section: Any, key: str = "") -> list[tuple[str, Path]]:
    """Return every path that a configuration holds, with its key."""
    if isinstance(section, Path):
        return [(key, section)]
    if isinstance(section, CameraSource):
        return [(key, Path(section.text))] if section.kind == "file" else []
    if isinstance(section, BaseModel):
        parts = {name: getattr(section, name) for name in type(section).model_fields}
    elif isinstance(section, dict):
        parts = section
    elif isinstance(section, tuple):
        parts = {str(number): value for number, value in enumerate(section)}
    else:
        return []
    return [
        found
        for name, value in parts.items()
        for found in files_of(value, f"{key}.{name}".lstrip("."))
    ]


def mib(size: str) -> int:
    return (
        int(size.removesuffix("Gi")) * 1024 if size.endswith("Gi") else int(size.removesuffix("Mi"))
    )


def reads_of(container: Manifest) -> tuple[str, ...]:
    """Return the configuration keys, or their beginnings, whose files a container reads."""
    process, _, camera_name = container["args"][-1].partition(" ")
    if camera_name:
        return ("run_dir", f"cameras.{camera_name}.")
    return READERS[process if process in READERS else container["name"]]


def test_the_rendered_configuration_is_valid(manifests: list[Manifest]) -> None:
    found = configurations(manifests)
    assert found
    for config, pod in zip(found, node_pods(manifests), strict=True):
        for container in pod["containers"] + pod.get("initContainers", []):
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            for key, file in files_of(config):
                if key.startswith(reads_of(container)):
                    folders = {str(folder) for folder in (file, *file.parents)}
                    assert folders & mounted, f"{container['name']}: {key}: {file} is not mounted"
    named = {key for config in found for key, _ in files_of(config)}
    assert all(any(key.startswith(keys) for keys in READERS.values()) for key in named), named


def test_no_container_has_the_secrets_of_another_process(manifests: list[Manifest]) -> None:
    """A camera that takes over its capture process must not learn other passwords."""
    secrets = ("credentials_file", "password_file", "token_file", "url_file")
    for config, pod in zip(configurations(manifests), node_pods(manifests), strict=True):
        for container in pod["containers"]:
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            reads = reads_of(container)
            for key, file in files_of(config):
                if key.endswith(secrets) and not key.startswith(reads):
                    folders = {str(folder) for folder in (file, *file.parents)}
                    assert not folders & mounted, f"{container['name']}: {key}"


def test_each_process_of_the_node_has_its_container(manifests: list[Manifest]) -> None:
    for config, pod in zip(configurations(manifests), node_pods(manifests), strict=True):
        wanted = [
            spec.name for spec in plan_processes(config, Path("x"), gpu="runtimeClassName" in pod)
        ]
        found = [container["args"][-1] for container in pod["containers"]]
        assert sorted(found) == sorted(wanted)
        for container in pod["containers"]:
            assert container["livenessProbe"]["exec"]["command"][3] == container["args"][-1]


def test_every_environment_variable_is_one_that_the_code_reads(manifests: list[Manifest]) -> None:
    package = CHART.parents[1] / "clients" / "tridetr"
    code = "".join(file.read_text() for file in package.rglob("*.py"))
    for _, pod in pods(manifests):
        for container in pod["containers"] + pod.get("initContainers", []):
            for variable in container.get("env", []):
                read = f'"{variable["name"]}"' in code
                assert read or variable["name"] in RUNTIMES


def test_shared_memory_holds_two_generations_of_the_rings(manifests: list[Manifest]) -> None:
    """The chart and the doctor must compute the same size, or /dev/shm fills up."""
    for config, pod in zip(configurations(manifests), node_pods(manifests), strict=True):
        shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")["emptyDir"]
        assert shm["medium"] == "Memory"
        assert mib(shm["sizeLimit"]) == node_mib(config)
        for container in pod["containers"]:
            assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
            kind, _, camera = container["args"][-1].partition(" ")
            if kind == "capture":
                rings = GENERATIONS * ring_mib(config, config.cameras[camera])
                assert mib(container["resources"]["limits"]["memory"]) >= rings + 128


def test_the_claim_holds_state_and_evidence(manifests: list[Manifest]) -> None:
    """Its size is the one that the doctor computes."""
    claims = {
        claim["metadata"]["name"]: claim["spec"]["resources"]["requests"]["storage"]
        for claim in of_kind(manifests, "PersistentVolumeClaim")
    }
    for config, pod in zip(configurations(manifests), node_pods(manifests), strict=True):
        state = next(volume for volume in pod["volumes"] if volume["name"] == "state")
        if claim := state.get("persistentVolumeClaim"):
            assert mib(claims[claim["claimName"]]) == state_mib(config)


@pytest.mark.parametrize(
    ("evidence", "wanted"),
    [
        (None, "256Mi"),
        ({"pictures": False, "clips": False}, "256Mi"),
        ({}, "2816Mi"),
        ({"max_mib": 100.5}, "382Mi"),
    ],
)
def test_the_claim_follows_the_evidence(evidence: dict[str, Any] | None, wanted: str) -> None:
    for size, expected in (("", wanted), ("1Gi", "1Gi")):
        manifests = render({"config": {"evidence": evidence}, "state": {"size": size}})
        claim = next(
            claim
            for claim in of_kind(manifests, "PersistentVolumeClaim")
            if claim["metadata"]["name"].endswith("-state")
        )
        assert claim["spec"]["resources"]["requests"]["storage"] == expected
        (config,) = configurations(manifests)
        assert state_mib(config) == mib(wanted)


def test_the_viewer_accepts_the_host_name_of_its_ingress() -> None:
    manifests = render(FULL)
    (ingress,) = of_kind(manifests, "Ingress")
    (config,) = configurations(manifests)
    assert config.gateway.allowed_origins == (f"https://{ingress['spec']['rules'][0]['host']}",)


def test_gpu_nodes_and_devices() -> None:
    (pod,) = node_pods(render(FULL))
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["shareProcessNamespace"] is True
    containers = {container["name"]: container for container in pod["containers"]}
    assert containers["triton"]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "gpu" in containers["triton"]["image"]
    mounts = [mount["mountPath"] for mount in containers["capture-front-door"]["volumeMounts"]]
    assert "/dev/video0" in mounts
    assert pod["securityContext"]["supplementalGroups"] == [44]
    (plain,) = node_pods(render({}))
    assert "gpu" not in {container["name"] for container in plain["containers"]}
    assert "runtimeClassName" not in plain
    assert "shareProcessNamespace" not in plain
    assert not any("NVIDIA" in v["name"] for c in plain["containers"] for v in c["env"])
    (fleet,) = node_pods(render(FLEET))
    capture = next(c for c in fleet["containers"] if c["name"] == "capture-cam")
    assert capture["resources"]["limits"]["smarter-devices/video0"] == 1
    on_host = {v["name"]: v["hostPath"] for v in fleet["volumes"] if "hostPath" in v}
    assert set(on_host) == {"state", "engines"}  # one claim cannot serve pods on several nodes
    # The folder must exist: one that the kubelet creates belongs to root, but the containers run as another user
    assert {path["type"] for path in on_host.values()} == {"Directory"}


def environment(container: Manifest) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.mark.parametrize(
    ("gpu", "asked", "tritons"),
    [
        ({}, 1, None),  # by the device plugin
        ({"resource": "", "visibleDevices": "GPU-1"}, None, "GPU-1"),  # without one
    ],
)
def test_the_gpu_process_uses_the_same_gpu_as_triton(
    gpu: dict[str, Any], asked: int | None, tritons: str | None
) -> None:
    """The server must be able to open the frames in GPU memory."""
    values = {**FULL, "gpu": {**FULL["gpu"], **gpu}}
    (pod,) = node_pods(render(values))
    containers = {container["name"]: container for container in pod["containers"]}
    triton, (builder,) = containers["triton"], pod["initContainers"]
    for owner in (triton, builder):
        assert owner["resources"]["limits"].get("nvidia.com/gpu") == asked
        assert environment(owner).get("NVIDIA_VISIBLE_DEVICES") == tritons
    process = containers["gpu"]
    assert process["image"] == triton["image"] == builder["image"]
    assert process["args"][-2:] == ["--only", "gpu"]
    assert environment(process)["NVIDIA_VISIBLE_DEVICES"] == gpu.get("visibleDevices", "all")
    assert "video" in environment(process)["NVIDIA_DRIVER_CAPABILITIES"]
    assert "nvidia.com/gpu" not in process["resources"]["limits"]
    for name in ("capture-front-door", "detector", "controller", "gateway"):
        assert "NVIDIA_VISIBLE_DEVICES" not in environment(containers[name])
        assert containers[name]["image"] != triton["image"]


def test_engines_are_built_only_for_the_model_that_needs_one(tmp_path: Path) -> None:
    """The command exists, uses the node's configuration, and writes into the folder that Triton reads."""
    manifests = render(FULL)
    (pod,) = node_pods(manifests)
    (builder,) = pod["initContainers"]
    triton = next(c for c in pod["containers"] if c["name"] == "triton")
    folder = environment(builder)["TRIDETR_ENGINES"]
    assert environment(triton)["TRIDETR_ENGINES"] == folder
    for container in (builder, triton):
        assert {"name": "engines", "mountPath": folder} in container["volumeMounts"]
    onnx = {**FULL, "config": {"model": {"name": "rfdetr_ort"}}}
    (pod,) = node_pods(render(onnx))
    assert "initContainers" not in pod

    (text,) = [m["data"]["tridetr.yaml"] for m in manifests if "tridetr.yaml" in m.get("data", {})]
    (tmp_path / "tridetr.yaml").write_text(text)
    line = [
        word.replace("/etc/tridetr/node", str(tmp_path)) for word in ("tridetr", *builder["args"])
    ]
    done = subprocess.run(
        [sys.executable, "-m", *line], capture_output=True, text=True,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    # The error of the last step that can be reached without a GPU
    assert done.returncode == 2
    assert "no NVIDIA GPU here: nvidia-smi is missing" in done.stderr


@pytest.mark.parametrize(
    ("evidence", "runs"),
    [
        ({}, True),
        ({"clips": False}, True),
        ({"clips": False, "pictures": False}, False),
        (None, False),
    ],
)
def test_the_recorder_runs_where_evidence_is_kept(
    evidence: dict[str, Any] | None, runs: bool
) -> None:
    (pod,) = node_pods(render({**FULL, "config": {**FULL["config"], "evidence": evidence}}))
    names = {container["name"] for container in pod["containers"]}
    assert ("recorder" in names) is runs


def test_each_pod_of_a_daemonset_publishes_under_its_own_name() -> None:
    manifests = render(FLEET)
    assert [config.mqtt.device for config in configurations(manifests)] == [None]
    (controller,) = (
        container
        for pod in node_pods(manifests)
        for container in pod["containers"]
        if container["name"] == "controller"
    )
    (device,) = (
        entry["valueFrom"] for entry in controller["env"] if entry["name"] == "TRIDETR_MQTT_DEVICE"
    )
    assert device == {"fieldRef": {"fieldPath": "spec.nodeName"}}
