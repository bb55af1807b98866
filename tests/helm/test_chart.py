"""The chart, rendered by Helm and checked against the Kubernetes schemas and tridetr's own requirements."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from support.chart import CHART, EXAMPLES, Manifest, helm, of_kind, pods, render
from tridetr.config import Config
from tridetr.config.load import parse_config
from tridetr.config.memory import GENERATIONS, node_mib, ring_mib, state_mib
from tridetr.config.source import CameraSource
from tridetr.supervisor.process_list import plan_processes

kubernetes_validate = pytest.importorskip("kubernetes_validate")
KUBERNETES = ("1.29", "1.30", "1.31", "1.32", "1.33", "1.34")
# Kinds of volume that Pod Security "restricted" admits
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
MIB = 1 << 20
# Read by the C library and by NVIDIA's container runtime.
RUNTIMES = {
    "OTLP_AUTHORIZATION",
    "HOME",
    "TZ",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
}

FULL: dict[str, Any] = {
    "nodes": [
        {
            "name": "full",
            "cameras": {
                "front_door": {"source": "/dev/video0", "width": 1280, "height": 720},
                "gate": {
                    "source": "rtsps://192.0.2.1/s",
                    "credentialsSecret": "gate-login",
                    "tls_ca_file": "/etc/tridetr/files/camera-ca/ca.crt",
                },
                "film": {"source": "/etc/tridetr/files/videos/street.mp4"},
            },
        }
    ],
    "files": [
        {"name": "camera-ca", "secret": {"secretName": "camera-ca"}},
        {"name": "videos", "persistentVolumeClaim": {"claimName": "videos"}},
    ],
    "gpu": {"enabled": True, "engineCache": {"enabled": True}},
    "config": {
        "model": {"name": "rfdetr_trt", "file": "/etc/tridetr/files/videos/model.onnx"},
        "triton": {"secret_file": "/etc/tridetr/files/camera-ca/triton-key"},
        "evidence": {"max_mib": 1000, "path": "/var/lib/tridetr/visits"},
        "notify": [
            {
                "name": "hook",
                "kind": "webhook",
                "url_file": "/etc/tridetr/notify/hook",
                "secret_file": "/etc/tridetr/notify/hook-key",
            }
        ],
    },
    "notify": {"secret": "notify"},
    "mqtt": {
        "username": "node",
        "passwordSecret": "mqtt-password",
        "tls": {"enabled": True, "secret": "mqtt-tls", "clientCertificate": True},
    },
    "broker": {"passwordSecret": "broker-passwd", "tls": {"secret": "broker-tls"}},
    "gateway": {"tokenSecret": "viewer", "ingress": {"enabled": True, "tlsSecret": "viewer-tls"}},
    "tracing": {"jaeger": {"enabled": True}},
    "security": {"supplementalGroups": [44]},
}
FLEET: dict[str, Any] = {
    "nodes": [],
    "daemonSet": {
        "enabled": True,
        "nodeSelector": {"tridetr/camera": "yes"},
        "cameras": {"cam": {"source": "/dev/video0"}},
    },
    "state": {"type": "hostPath"},
    "gpu": {"enabled": True, "engineCache": {"enabled": True}},
    "config": {"model": {"name": "rfdetr_trt"}},
    "devices": {"mode": "plugin", "resource": "smarter-devices/video0"},
}
COLLECTOR: dict[str, Any] = {
    "tracing": {
        "collector": {
            "enabled": True,
            "endpoint": "https://otlp.example.org",
            "headersSecret": "otlp",
        },
        "jaeger": {"enabled": True},
    }
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "collector": COLLECTOR,
    "full": FULL,
    "fleet": FLEET,
    **{path.stem: yaml.safe_load(path.read_text()) for path in EXAMPLES},
}


@pytest.fixture(params=CASES, ids=list(CASES), scope="module")
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(CASES[request.param])


def configurations(manifests: list[Manifest]) -> list[Config]:
    return [
        parse_config(
            manifest["data"]["tridetr.yaml"], origin=Path("/etc/tridetr/node/tridetr.yaml")
        )
        for manifest in of_kind(manifests, "ConfigMap")
        if "tridetr.yaml" in manifest["data"]
    ]


def node_pods(manifests: list[Manifest]) -> list[Manifest]:
    return [
        pod for _, pod in pods(manifests) if any(c["name"] == "triton" for c in pod["containers"])
    ]


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


def test_helm_lint_finds_no_error() -> None:
    findings = helm.lint(str(CHART))
    assert not [finding for finding in findings.get("messages", []) if "ERROR" in str(finding)], (
        findings
    )


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_are_valid(manifests: list[Manifest], version: str) -> None:
    known = {"PodMonitor", "PrometheusRule"}  # kinds of an operator, not of Kubernetes
    for manifest in manifests:
        if manifest["kind"] not in known:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_names_are_unique(manifests: list[Manifest]) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(names) == len(set(names))


def test_no_pod_has_more_rights_than_it_needs(manifests: list[Manifest]) -> None:
    for _, pod in pods(manifests):
        assert not pod.get("hostNetwork")
        assert not pod.get("hostIPC")
        assert not pod.get("hostPID")
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"] + pod.get("initContainers", []):
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert not rights.get("privileged")
            assert not container["image"].endswith((":", ":latest"))


@pytest.mark.parametrize("case", ["defaults", "cpu-demo", "rtsp-gpu"])
def test_pods_without_devices_fit_a_restricted_namespace(case: str) -> None:
    for name, pod in pods(render(CASES[case])):
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= RESTRICTED_VOLUMES, f"{name}: {volume}"
        assert pod["securityContext"]["runAsUser"] != 0
        for container in pod["containers"] + pod.get("initContainers", []):
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_every_container_has_resources_and_every_server_probes(manifests: list[Manifest]) -> None:
    for _, pod in pods(manifests):
        for container in pod["containers"] + pod.get("initContainers", []):
            assert container["resources"]["requests"]["cpu"]
            assert container["resources"]["limits"]["memory"]
        if pod.get("restartPolicy") == "Never":
            continue
        for container in pod["containers"]:
            assert "livenessProbe" in container
            assert "startupProbe" in container


def test_every_mount_has_its_volume_and_every_volume_its_source(manifests: list[Manifest]) -> None:
    claims = {m["metadata"]["name"] for m in of_kind(manifests, "PersistentVolumeClaim")}
    maps = {m["metadata"]["name"] for m in of_kind(manifests, "ConfigMap")}
    for _, pod in pods(manifests):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounted = {
            mount["name"]
            for container in pod["containers"] + pod.get("initContainers", [])
            for mount in container.get("volumeMounts", [])
        }
        assert mounted == set(volumes), "mounts and volumes differ"
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim")
            if claim and not volume["name"].startswith("file-"):  # those are the user's
                assert claim["claimName"] in claims
            if config := volume.get("configMap"):
                assert config["name"] in maps


def test_the_rendered_configuration_is_valid(manifests: list[Manifest]) -> None:
    found = configurations(manifests)
    assert found
    for config, pod in zip(found, node_pods(manifests), strict=True):
        for container in pod["containers"] + pod.get("initContainers", []):
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            process, _, camera_name = container["args"][-1].partition(" ")
            reads = READERS[process if process in READERS else container["name"]]
            if camera_name:
                reads = ("run_dir", f"cameras.{camera_name}.")
            for key, file in files_of(config):
                if key.startswith(reads):
                    folders = {str(folder) for folder in (file, *file.parents)}
                    assert folders & mounted, f"{container['name']}: {key}: {file} is not mounted"
    named = {key for config in found for key, _ in files_of(config)}
    assert all(any(key.startswith(keys) for keys in READERS.values()) for key in named), named


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


def test_the_collector_receives_traces_and_scrapes_every_node() -> None:
    manifests = render(COLLECTOR)
    (config,) = configurations(manifests)
    assert config.otel.endpoint == "http://demo-collector:4318"
    services = {service["metadata"]["name"]: service for service in of_kind(manifests, "Service")}
    assert services["demo-collector"]["spec"]["ports"][0]["port"] == 4318
    (found,) = (m for m in of_kind(manifests, "ConfigMap") if "collector.yaml" in m["data"])
    collector = yaml.safe_load(found["data"]["collector.yaml"])
    pipelines = collector["service"]["pipelines"]
    for pipeline in pipelines.values():
        assert set(pipeline["receivers"]) <= set(collector["receivers"])
        assert set(pipeline["processors"]) <= set(collector["processors"])
        assert set(pipeline["exporters"]) <= set(collector["exporters"])
    assert pipelines["traces"]["exporters"] == ["otlphttp", "otlphttp/jaeger"]
    (job,) = collector["receivers"]["prometheus"]["config"]["scrape_configs"]
    host, _, port = job["static_configs"][0]["targets"][0].partition(":")
    assert int(port) == services[host]["spec"]["ports"][0]["port"]


def test_a_collector_without_a_destination_is_rejected() -> None:
    with pytest.raises(Exception, match=r"tracing.collector has no destination"):
        render({"tracing": {"collector": {"enabled": True}}})


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


def camera(**keys: str) -> dict[str, Any]:
    return {"nodes": [{"name": "a", "cameras": {"x": keys}}]}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"gpus": {}}, "gpus"),
        ({"nodes": [{"name": "a", "cameras": {"x": {"sorce": "y"}}}]}, "sorce"),
        ({"config": {"sentry": {"clear": 1}}}, "clear"),
        ({"state": {"type": "pvcc"}}, "hostPath"),
        ({"broker": {"enabled": "yes"}}, "/broker/enabled"),
        ({"nodes": [{"name": "Not_ok", "cameras": {"x": {"source": "synthetic"}}}]}, "Not_ok"),
        ({"nodes": []}, "no camera node"),
        ({"broker": {"enabled": False}}, "mqtt.host"),
        ({"daemonSet": {"enabled": True}}, "nodes: []"),
        (camera(source="rtsps://h/s", tls_ca_file="/ca.pem"), "cameras.x.tls_ca_file: /ca.pem"),
        (camera(source="/films/a.mp4"), "cameras.x.source: /films/a.mp4"),
        ({"config": {"model": {"file": "/m.onnx"}}}, "config.model.file: /m.onnx"),
        ({"config": {"triton": {"secret_file": "/k"}}}, "config.triton.secret_file: /k"),
        ({"config": {"evidence": {"path": "/mnt/x"}}}, "config.evidence.path: /mnt/x"),
        (
            {
                "files": [{"name": "nas", "nfs": {"server": "nas", "path": "/"}}],
                "config": {"evidence": {"path": "/etc/tridetr/files/nas/visits"}},
            },
            "config.evidence.path: /etc/tridetr/files/nas/visits",  # mounted read-only
        ),
        (
            {
                "config": {
                    "notify": [{"name": "a", "kind": "ntfy", "url_file": "/etc/tridetr/notify/a"}]
                }
            },
            "config.notify a: url_file",
        ),
        ({"files": [{"name": "Not_ok", "secret": {}}]}, "Not_ok"),
        ({"files": [{"name": "empty"}]}, "files"),
    ],
)
def test_invalid_values_are_rejected_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmError, match=named.replace("[", r"\[").replace("]", r"\]")):
        render(values)


def test_schema_and_readme_are_up_to_date() -> None:
    script = CHART.parents[1] / "tools" / "chart_docs.py"
    answer = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr


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
