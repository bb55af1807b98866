"""The liveness probe of the chart's broker, run against a real mosquitto with the chart's configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.chart import of_kind, pods, render
from support.mosquitto import MOSQUITTO, Mosquitto, free_port, make_certificates
from support.waiting import wait_for

PROBE_PORT = "1883"  # of a broker with TLS on another port

pytestmark = pytest.mark.skipif(
    MOSQUITTO is None or shutil.which("mosquitto_sub") is None,
    reason="mosquitto and mosquitto-clients are not installed",
)


@pytest.mark.parametrize("secrets", [(), ("password",), ("tls",), ("password", "tls")])
def test_a_broker_that_hangs_fails_its_liveness_probe(
    tmp_path: Path, secrets: tuple[str, ...]
) -> None:
    """The kernel accepts its connections, so that it passed."""
    broker = Mosquitto(tmp_path)
    values: dict[str, Any] = {"mqtt": {"port": broker.port}, "broker": {}}
    if "password" in secrets:
        values["broker"]["passwordSecret"] = "passwords"
        tool = shutil.which("mosquitto_passwd")
        assert tool is not None
        command = [tool, "-b", "-c", str(tmp_path / "passwd"), "garage", "secret"]
        subprocess.run(command, check=True)
    if "tls" in secrets:
        values["broker"]["tls"] = {"secret": "tls"}
        made = make_certificates(tmp_path)
        made.certificate.rename(tmp_path / "tls.crt")
        made.key.rename(tmp_path / "tls.key")
    manifests = render(values)
    (text,) = (
        manifest["data"]["mosquitto.conf"]
        for manifest in of_kind(manifests, "ConfigMap")
        if "mosquitto.conf" in manifest["data"]
    )
    (container,) = dict(pods(manifests))["demo-broker"]["containers"]
    port = str(free_port())
    for folder in ("/etc/tls", "/etc/passwd-mqtt", "/mosquitto/data"):
        text = text.replace(folder, str(tmp_path))
    text = text.replace(f"listener {PROBE_PORT} ", f"listener {port} ")
    if os.geteuid() == 0:
        text += "user root\n"
    broker._file.write_text(text)
    probe = container["livenessProbe"]
    command = [
        word.replace(f"-p {PROBE_PORT} ", f"-p {port} ") for word in probe["exec"]["command"]
    ]

    def is_alive() -> bool:
        done = subprocess.run(command, check=False, timeout=probe["timeoutSeconds"])
        return done.returncode == 0

    broker.start()
    try:
        wait_for(is_alive, 30, "the probe fails")
        broker.freeze()
        assert not is_alive()
        broker.thaw()
        wait_for(is_alive, 30, "the probe fails after a pause")
    finally:
        broker.kill()
    assert not is_alive()
