"""The examples, run as their README says, against a node with a camera and a webhook."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.mosquitto import free_port
from support.node import Node, running_node
from support.waiting import wait_for

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CAMERAS = {"street": {"source": "synthetic", "width": 640, "height": 360, "fps": 10, "seed": 7}}
pytestmark = pytest.mark.timeout(300)


def run(*words: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=timeout_s
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_node(tmp_path_factory.mktemp("node"), CAMERAS) as running:
        command = (sys.executable, "-m", "tridetr", "status", "-c", running.file)
        wait_for(lambda: run(*command).returncode == 0, 120)
        yield running


def test_read_frames_from_python(node: Node, tmp_path: Path) -> None:
    script = EXAMPLES / "read_frames_python" / "read_frames.py"
    picture = tmp_path / "picture.jpg"
    words = (script, node.instance, "street", "--count", 3, "--save", picture)
    answer = run(sys.executable, *words)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("640x360") == 3
    assert picture.read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_read_frames_from_cpp(node: Node, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    built = subprocess.run(
        [EXAMPLES / "read_frames_cpp" / "build", tmp_path],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    answer = run(tmp_path / "read_frames", node.instance, "street", 3)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("640x360") == 3
    absent = run(tmp_path / "read_frames", node.instance, "yard", 3)
    assert absent.returncode == 1
    assert "is the node running?" in absent.stderr


def test_ask_triton_about_a_frame_in_shared_memory(node: Node) -> None:
    script = EXAMPLES / "triton_shared_memory" / "client.py"
    for _ in range(2):  # it leaves no registration behind
        answer = run(sys.executable, script, "-c", node.file, "street")
        assert answer.returncode == 0, answer.stderr
        assert "candidates, best first" in answer.stdout


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    model = tmp_path / "bright.onnx"
    made = run(sys.executable, EXAMPLES / "custom_model" / "make_model.py", model)
    assert made.returncode == 0, made.stderr
    info = run(sys.executable, "-m", "tridetr", "models", "info", model, "--json")
    assert json.loads(info.stdout)["tensors"]["scores"] == ["B", 1]
    sections = {"model": {"file": str(model)}, "alarm": {"classes": ["bright"], "min_score": 0.1}}
    with running_node(tmp_path, CAMERAS, **sections) as running:

        def found() -> bool:
            words = ("events", "-c", running.file, "--json")
            events = run(sys.executable, "-m", "tridetr", *words).stdout
            return any(e["kind"] == "bright_arrived" for e in json.loads(events)["events"])

        wait_for(found, 120)


def test_receive_signed_notifications(tmp_path: Path) -> None:
    secret, url = tmp_path / "secret", tmp_path / "url"
    port = free_port()
    secret.write_text(base64.b64encode(b"0123456789abcdef0123456789abcdef").decode())
    url.write_text(f"http://127.0.0.1:{port}/tridetr")
    secret.chmod(0o600)
    url.chmod(0o600)
    target = {
        "name": "receiver", "kind": "webhook", "url_file": str(url), "secret_file": str(secret),
    }  # fmt: skip
    config = tmp_path / "node.yaml"
    config.write_text(yaml.safe_dump({"cameras": CAMERAS, "notify": [target]}))
    script = EXAMPLES / "webhook_receiver" / "receiver.py"
    command = [sys.executable, str(script), "--port", str(port), "--secret-file", str(secret)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout
        try:
            assert "listening" in receiver.stdout.readline()
            answer = run(
                sys.executable, "-m", "tridetr", "notify", "test", "receiver", "-c", config
            )
            assert answer.returncode == 0, answer.stderr
            assert receiver.stdout.readline().strip()
            forged = urllib.request.Request(url.read_text(), data=b"{}", method="POST")
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                urllib.request.urlopen(forged, timeout=10)
            refused.value.close()
        finally:
            receiver.terminate()
