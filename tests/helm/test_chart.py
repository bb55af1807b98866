"""The chart, rendered by Helm and checked against the Kubernetes schemas; invalid values are rejected."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml

from support.chart import CHART, Manifest, configurations, helm, of_kind, pods, render
from support.chart_values import CASES, COLLECTOR
from support.leaks import LEAKS, SECRET
from tridetr.shm.names import camera_name_fault

kubernetes_validate = pytest.importorskip("kubernetes_validate")
KUBERNETES = ("1.29", "1.30", "1.31", "1.32", "1.33", "1.34")
# Kinds of volume that Pod Security "restricted" admits
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}


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


def test_the_collector_may_scrape_nodes_that_only_some_namespaces_can_reach() -> None:
    """With ``networkPolicy.allowFrom``, the release's own collector was not admitted and got no metrics."""
    manifests = render(COLLECTOR)
    (collector,) = (
        m for m in of_kind(manifests, "Deployment") if m["metadata"]["name"] == "demo-collector"
    )
    labels = collector["spec"]["template"]["metadata"]["labels"]
    policies = {m["metadata"]["name"]: m["spec"] for m in of_kind(manifests, "NetworkPolicy")}
    (rule,) = policies["demo-demo"]["ingress"]
    admitted = [
        peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer
    ]
    assert admitted == [labels]
    assert {"namespaceSelector": {"matchLabels": {"team": "cameras"}}} in rule["from"]


def test_who_can_reach_a_node_does_not_change_without_a_collector_that_scrapes() -> None:
    jaeger_only = {"collector": {"enabled": True}, "jaeger": {"enabled": True}}
    policy = {"networkPolicy": COLLECTOR["networkPolicy"]}
    for values in (policy, {**policy, "tracing": jaeger_only}):
        policies = {m["metadata"]["name"]: m for m in of_kind(render(values), "NetworkPolicy")}
        (rule,) = policies["demo-demo"]["spec"]["ingress"]
        assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"team": "cameras"}}}]
    open_to_all = render({"tracing": COLLECTOR["tracing"]})
    policies = {m["metadata"]["name"]: m for m in of_kind(open_to_all, "NetworkPolicy")}
    assert "from" not in policies["demo-demo"]["spec"]["ingress"][0]


def test_a_collector_without_a_destination_is_rejected() -> None:
    with pytest.raises(Exception, match=r"tracing.collector has no destination"):
        render({"tracing": {"collector": {"enabled": True}}})


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
        (
            {"config": {"triton": {"secret_file": "/k"}}},
            "config.triton.secret_file: its path is not",
        ),
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


def nodes(*named: str) -> dict[str, Any]:
    return {"nodes": [{"name": name, "cameras": {"x": {"source": "synthetic"}}} for name in named]}


def watching(*cameras: str) -> dict[str, Any]:
    return {
        "nodes": [{"name": "a", "cameras": {name: {"source": "synthetic"} for name in cameras}}]
    }


LONG = "r" * 53  # the longest name that Helm accepts


@pytest.mark.parametrize(
    ("values", "release", "fault"),
    [
        (nodes("a", "b", "a"), "demo", "nodes: two have the name a"),
        (nodes("a", "b"), LONG, f"nodes: a and b: the objects of both would be named {'r' * 50}"),
        (nodes("garden-east", "garden-west"), "r" * 42, "use a shorter release name"),
        (nodes("broker"), "demo", "nodes: broker: demo-broker is the name of the chart's own"),
        (nodes("a", "collector"), "demo", "nodes: collector: demo-collector is"),
        (nodes("jaeger"), "demo", "nodes: jaeger: demo-jaeger is"),
        (nodes("tridetr-dashboard"), "demo", "nodes: tridetr-dashboard: "),
        (nodes("broker-2"), "r" * 43, f"nodes: broker-2: {'r' * 43}-broker is"),
        (watching("c-d", "c_d"), "demo", "cameras.c-d and cameras.c_d: .* named capture-c-d"),
        (watching("Hall"), "demo", "cameras: Hall: use lower-case letters"),
        (watching("c" * 33), "demo", f"cameras: {'c' * 33}: use lower-case letters"),
        (watching("c" * 64), "demo", "at most 32"),
        (watching("../x"), "demo", "cameras: …: use lower-case letters"),
        (watching("rtsp://u:s3cret@h/1"), "demo", "cameras: …: use lower-case letters"),
        (watching("yard_"), "demo", "cameras: yard_: "),
        (watching("triton-2"), "demo", "cameras: triton-2: "),
        (
            {
                "nodes": [],
                "daemonSet": {"enabled": True, "cameras": {"A": {"source": "synthetic"}}},
                "state": {"type": "none"},
            },
            "demo",
            "cameras: A: use lower-case letters",
        ),
    ],
)
def test_names_that_collide_or_are_impossible_are_refused(
    values: dict[str, Any], release: str, fault: str
) -> None:
    """Kubernetes would have refused the objects, or one of a pair would have replaced the other."""
    with pytest.raises(helm.HelmError, match=fault) as refused:
        render(values, release)
    assert "s3cret" not in str(refused.value)


def test_keys_that_are_null_render() -> None:
    render({"mqtt": {"host": None}, "tracing": {"endpoint": None, "collector": {"endpoint": None}}})


def test_names_that_fit_are_accepted() -> None:
    for values, release in (
        (nodes("a", "a-b", "all", "test", "tridetr", "broker-2"), "demo"),
        (nodes("a"), LONG),
        (nodes("a", "b"), "r" * 48),
        (watching("c-d", "c-d-e", "d_c", "0", "c" * 32, "tritons"), "demo"),
    ):
        manifests = render(values, release)
        test_names_are_unique(manifests)
        for _, pod in pods(manifests):
            names = [container["name"] for container in pod["containers"]]
            assert len(names) == len(set(names))


def with_url(key: str, url: str) -> dict[str, Any]:
    """Return values with this text in place of an address."""
    return {
        "source": camera(source=url),
        "view": camera(source="rtsp://camera/2", view=url),
        "tracing.endpoint": {"tracing": {"endpoint": url}},
        "tracing.collector.endpoint": {
            "tracing": {"collector": {"enabled": True, "endpoint": url}}
        },
        "mqtt.host": {"mqtt": {"host": url}},
        "config.triton.url": {"config": {"triton": {"url": url}}},
    }[key]


@pytest.mark.parametrize("key", ["source", "view"])
@pytest.mark.parametrize("url", [*LEAKS, "ftp://camera/1", ":1@rtsp://camera"])
def test_a_camera_url_with_a_password_is_refused_and_not_repeated(key: str, url: str) -> None:
    """It became readable in the ConfigMap, and only the pod refused it."""
    with pytest.raises(helm.HelmError, match=rf"cameras.x.{key}: .*credentialsSecret") as refused:
        render(with_url(key, url))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "url", "remedy"),
    [
        ("tracing.endpoint", "http://me:S3cret@collector:4318", "tracing.collector.headersSecret"),
        (
            "tracing.endpoint",
            "https://collector/?api-key=S3cret",
            "tracing.collector.headersSecret",
        ),
        ("tracing.collector.endpoint", "https://me:S3cret@otlp", "tracing.collector.headersSecret"),
        ("tracing.collector.endpoint", "https://otlp?k=S3cret", "tracing.collector.headersSecret"),
        ("mqtt.host", "me:S3cret@broker", "mqtt.passwordSecret"),
        ("mqtt.host", "mqtt://me:S3cret@broker", "mqtt.passwordSecret"),
        ("config.triton.url", "me:S3cret@gpu:8001", "host:port"),
        ("config.triton.url", "grpc://gpu:8001", "host:port"),
    ],
)
def test_an_address_with_a_login_is_refused_and_not_repeated(
    key: str, url: str, remedy: str
) -> None:
    with pytest.raises(helm.HelmError, match=f"{key}: .*{remedy}") as refused:
        render(with_url(key, url))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("secret", ["https://ntfy.sh/S3cret", "/hook/S3cret"])
@pytest.mark.parametrize("key", ["url_file", "secret_file"])
def test_a_secret_in_place_of_its_file_is_not_repeated(key: str, secret: str) -> None:
    target = {"name": "a", "kind": "webhook", "url_file": "/etc/tridetr/notify/a", key: secret}
    for config in ({"notify": [target]}, {"triton": {"secret_file": secret}}):
        with pytest.raises(
            helm.HelmError, match=f"{key if 'notify' in config else ''}: "
        ) as refused:
            render({"notify": {"secret": "n"}, "config": config})
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("source", "RTSPS://camera/1"),
        ("source", "http://[fe80::1]:8080/video"),
        ("source", "https://guest@camera/stream?channel=1&stream=0&passive=1&pasta=2&xpw=3"),
        ("source", "rtsp://camera/h264:1/tokens"),
        ("source", "rtsp://{user}:{password}@camera/1"),
        ("source", "http://camera/flv?user={user}&password={password}"),
        ("source", "rtsp://camera/user={user}_password={password}_channel=1_stream=0.sdp"),
        ("source", "http://camera/?auth=yes&name=me%20%26%25&n=100%25"),
        ("view", "rtsp://camera:8554/1"),
        ("tracing.endpoint", "http://otel-collector:4318"),
        ("config.triton.url", "gpu:8001"),
        ("config.triton.url", "unix:/run/triton/grpc@0"),
    ],
)
def test_an_address_without_a_password_is_accepted(key: str, url: str) -> None:
    values = with_url(key, url)
    if "{password}" in url:
        values["nodes"][0]["cameras"]["x"]["credentialsSecret"] = "login"
    assert configurations(render(values)), "the node accepts it, too"


@pytest.mark.parametrize("name", ["a", "A", "-a", "_a", "a_b-c", "c" * 32, "c" * 33, "", "triton"])
def test_the_chart_accepts_the_camera_names_that_a_node_accepts(name: str) -> None:
    try:
        render(watching(name))
    except helm.HelmError:
        assert camera_name_fault(name) is not None
    else:
        assert camera_name_fault(name) is None


def test_schema_and_readme_are_up_to_date() -> None:
    script = CHART.parents[1] / "tools" / "chart_docs.py"
    answer = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
