"""A running node from an attacker's view: open ports, files, process list, log, printed configuration."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.subscribe as subscribe
import posix_ipc
import psutil
import pytest
import yaml

from support.faults import STREET, whole_node
from support.grpc_triton import grpc_triton
from support.node import Node
from support.proc import listening
from support.waiting import wait_for
from tridetr.shm.names import CONSUMERS, RingName, list_instance

TOKEN, PASSWORD, CAMERA = "viewer-token-4711", "broker-password-4712", "camera-password-4713"


@dataclass
class Found:
    node: Node
    processes: list[psutil.Process]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    folder: Path = tmp_path_factory.mktemp("node")
    for name, text in (("token", TOKEN), ("password", PASSWORD), ("camera", f"user:{CAMERA}")):
        (folder / name).write_text(text)
    sources = {
        "door": "rtsp://127.0.0.1:9/none",
        "query": "http://127.0.0.1:9/flv?user={user}&password={password}",
        "path": "rtsp://127.0.0.1:9/user={user}_password={password}_1.sdp",
        "info": "http://{user}:{password}@127.0.0.1:9/video",
    }
    keys = {"credentials_file": str(folder / "camera"), "timeout_s": 1}
    cameras = {**STREET, **{name: {"source": url, **keys} for name, url in sources.items()}}
    # A permissive umask must not make our files accessible.
    before = os.umask(0)
    try:
        with grpc_triton() as triton:
            sections = {
                "triton": {"url": triton.url},
                "mqtt": {
                    "host": "embedded",
                    "port": 0,
                    "username": "me",
                    "password_file": str(folder / "password"),
                },
                "log": {"level": "debug"},
            }
            with whole_node(folder, cameras, whole_cameras=("street",), **sections) as (node, _):
                assert node.process
                parent = psutil.Process(node.process.pid)
                yield Found(node, [parent, *parent.children(recursive=True)])
    finally:
        os.umask(before)


def test_listens_on_loopback_only(found: Found) -> None:
    addresses = {host for process in found.processes for host, _ in listening(process.pid)}
    assert addresses == {"127.0.0.1"}


def test_files_segments_and_queues_are_private(found: Found) -> None:
    node = found.node
    folders = [Path(node.config["run_dir"]), Path(node.config["state_dir"])]
    for folder in folders:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    files = [*list_instance(node.instance), *folders[1].iterdir()]
    assert len(files) >= 5
    loose = {str(path): oct(path.stat().st_mode) for path in files if path.stat().st_mode & 0o007}
    assert not loose
    seen = 0
    for kind, consumers in CONSUMERS.items():
        ring = RingName(node.instance, "street", kind)
        for consumer in (
            consumers if ring.generations() else ()
        ):  # a synthetic camera has no packets
            queue = posix_ipc.MessageQueue(ring.queue(consumer))
            seen += 1
            assert not stat.S_IMODE(os.fstat(queue.mqd).st_mode) & 0o007
            queue.close()
    assert seen >= 4


def test_secrets_are_not_in_the_process_list_the_log_or_the_run_folder(found: Found) -> None:
    node = found.node
    texts = {"log": node.log.read_text(errors="replace")}
    texts |= {f"cmdline {p.pid}": " ".join(p.cmdline()) for p in found.processes if p.is_running()}
    for path in Path(node.config["run_dir"]).rglob("*"):
        if path.is_file():
            texts[str(path)] = path.read_bytes().decode(errors="replace")
    inherited = next(
        Path(words[-1].replace("self", str(process.pid)))
        for process in found.processes
        if "tridetr.role" in (words := process.cmdline())
    )
    texts["configuration"] = inherited.read_text()
    assert "rtsp://127.0.0.1:9/none" in texts["configuration"]
    for secret in (TOKEN, PASSWORD, CAMERA):
        for form in (secret, base64.b64encode(f"user:{secret}".encode()).decode()):
            assert not [name for name, text in texts.items() if form in text]


def test_published_camera_urls_are_scheme_host_and_port(found: Found) -> None:
    node = found.node

    def messages() -> dict[str, str]:
        rows = {name: row["status"] for name, row in node.cameras().items()}
        return {name: row["message"] for name, row in rows.items() if "://" in row["message"]}

    wait_for(lambda: {"door", "query", "path", "info"} <= set(messages()), 60)
    texts = {"api": json.dumps(messages()), "log": node.log.read_text(errors="replace")}
    broker = json.loads((Path(node.config["run_dir"]) / "broker.json").read_text())
    topics = ["tridetr/+/+/status", "tridetr/+/+/problem", "tridetr/+/node"]
    retained = subscribe.simple(  # type: ignore[no-untyped-call]  # untyped
        topics,
        hostname=broker["host"],
        port=broker["port"],
        msg_count=2 * len(node.cameras()) + 1,
        keepalive=10,
    )
    texts["mqtt"] = "\n".join(f"{m.topic} {m.payload.decode()}" for m in retained)
    assert "rtsp://127.0.0.1:9" in texts["mqtt"]
    for name, text in texts.items():
        for secret in (CAMERA, "user=", "password=", "/none", "/flv"):
            assert secret not in text, name


def test_config_show_prints_no_secret(found: Found, tmp_path: Path) -> None:
    environment = {**os.environ, "TRIDETR_MQTT_PASSWORD": PASSWORD, "TRIDETR_GATEWAY_TOKEN": TOKEN}
    line = [sys.executable, "-m", "tridetr", "config", "show", "--config", str(found.node.file)]
    shown = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert yaml.safe_load(shown.stdout)["instance"] == found.node.instance
    for secret in (TOKEN, PASSWORD, CAMERA):
        assert secret not in shown.stdout + shown.stderr
