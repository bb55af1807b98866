"""The scrape job of the chart's collector, in a real Prometheus, gets the metrics of a gateway that needs a token."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from support.chart import Manifest, of_kind, render
from support.chart_values import COLLECTOR
from support.gateway import Gateway, cameras
from support.prometheus import running_prometheus
from support.waiting import wait_for

TOKEN = "a-long-token-for-tests"


def scrape_job(manifests: list[Manifest]) -> dict[str, Any]:
    (found,) = (m for m in of_kind(manifests, "ConfigMap") if "collector.yaml" in m["data"])
    collector = yaml.safe_load(found["data"]["collector.yaml"])
    (job,) = collector["receivers"]["prometheus"]["config"]["scrape_configs"]
    return dict(job)


def secret_file(manifests: list[Manifest], path: PurePosixPath) -> tuple[str, str]:
    """Return (Secret, key) of a file in the collector's container."""
    (found,) = (
        m for m in of_kind(manifests, "Deployment") if m["metadata"]["name"] == "demo-collector"
    )
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = (m for m in container["volumeMounts"] if m["mountPath"] == str(path.parent))
    assert mount["readOnly"] is True
    (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
    assert pod["securityContext"]["fsGroup"], "the container's user can read the file by its group"
    return volume["secret"]["secretName"], path.name


def test_the_collector_sends_the_viewers_token(tmp_path: Path) -> None:
    """It sent none, so that the gateway answered each scrape with 401."""
    manifests = render(COLLECTOR)
    job = scrape_job(manifests)
    authorization = job["authorization"]
    file = PurePosixPath(authorization["credentials_file"])
    assert secret_file(manifests, file) == ("viewer", "token")
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    here = {"authorization": {**authorization, "credentials_file": str(token)}}
    with (
        cameras(tmp_path, "hall", gateway={"token_file": token}) as (config, _),
        Gateway(config) as gateway,
    ):
        (config.run_dir / "metrics").mkdir(parents=True)  # where the node's processes write theirs
        target = f"127.0.0.1:{gateway.port}"
        with running_prometheus(tmp_path / "prometheus", target, here) as server:
            wait_for(lambda: server.value("up") is not None, 60, "nothing was scraped")
            assert server.value("up") == 1


def test_without_a_token_the_collector_mounts_no_secret() -> None:
    manifests = render({"tracing": COLLECTOR["tracing"]})
    assert "authorization" not in scrape_job(manifests)
    (found,) = (
        m for m in of_kind(manifests, "Deployment") if m["metadata"]["name"] == "demo-collector"
    )
    volumes = found["spec"]["template"]["spec"]["volumes"]
    assert not [volume for volume in volumes if "secret" in volume]
