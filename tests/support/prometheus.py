"""A real Prometheus on a free port, and promtool."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.mosquitto import free_port
from support.waiting import wait_for

RULES = Path(__file__).resolve().parents[2] / "helm" / "tridetr" / "files" / "rules.yaml"


def promtool(*words: str) -> str:
    """Run promtool; fail with its output."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    answer = subprocess.run([program, *words], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _ask(self, path: str, **query: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def names(self) -> set[str]:
        """Return the names of all series."""
        return set(self._ask("label/__name__/values"))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query."""
        return list(self._ask("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """Return the value of the first series of an instant query; None if there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with their health."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]


@contextlib.contextmanager
def running_prometheus(
    folder: Path, target: str, job: dict[str, Any] | None = None
) -> Iterator[Prometheus]:
    """Run a server that scrapes ``target`` (host:port) and evaluates the chart's rules every second.

    Args:
        folder: For its configuration, data and log; made if it is not there.
        target: What it scrapes.
        job: Further keys of the scrape configuration, such as ``authorization``.
    """
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (apt-get install prometheus)")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {**(job or {}), "job_name": "tridetr", "static_configs": [{"targets": [target]}]}
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    argv = [
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    server = Prometheus(f"http://{address}")

    def ready() -> bool:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{server.url}/-/ready", timeout=5).close()
            return True
        return False

    try:
        wait_for(ready, 60, "Prometheus does not start")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
