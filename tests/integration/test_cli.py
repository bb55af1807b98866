"""The command line as users see it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import yaml

from support.clips import write_clip
from support.faults import whole_node
from support.node import running_node
from support.waiting import wait_for
from tridetr.config import Config
from tridetr.config.examples import EXAMPLE, REFERENCE
from tridetr.models.installed_models import configured_model
from tridetr.shm.names import list_instance


def tridetr(*words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tridetr", *words],
        capture_output=True,
        text=True,
        timeout=60,
        input=typed,
    )


def test_help_lists_every_command() -> None:
    answer = tridetr("--help")
    for command in (
        "up",
        "capture",
        "detect",
        "control",
        "serve",
        "triton",
        "doctor",
        "init",
        "config",
        "models",
    ):
        assert command in answer.stdout


@pytest.mark.parametrize(
    "command",
    ["up", "capture", "detect", "control", "serve", "triton", "doctor", "config", "models"],
)
def test_every_command_has_help(command: str) -> None:
    answer = tridetr(command, "--help")
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout) > 200


def test_config_commands(tmp_path: Path) -> None:
    for command, packaged in (("example", EXAMPLE), ("reference", REFERENCE)):
        assert tridetr("config", command).stdout == packaged.read_text()
    assert json.loads(tridetr("config", "schema").stdout) == Config.model_json_schema()
    file = tmp_path / "node.yaml"
    file.write_text("cameras: {hall: {source: synthetic}}")
    assert "valid, 1 camera(s): hall" in tridetr("config", "check", "-c", str(file)).stdout
    assert (
        yaml.safe_load(tridetr("config", "show", "-c", str(file)).stdout)["sentry"]["clear_s"] == 3
    )


def test_errors_are_one_message_and_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("camera: {}")
    for words in (["up"], ["config", "check"], ["detect"], ["capture", "hall"]):
        answer = tridetr(*words, "-c", str(file))
        assert answer.returncode == 2
        assert "did you mean `cameras`?" in answer.stderr
        assert "Traceback" not in answer.stderr
    file.write_text("cameras: {hall: {source: synthetic}}")
    answer = tridetr("capture", "halle", "-c", str(file))
    assert answer.returncode == 2
    assert "no camera 'halle'" in answer.stderr


def test_doctor_shows_any_address(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(
        "cameras:\n"
        "  a: {source: 'rtsp://[::1]:9/x'}\n  b: {source: '/dev/[/bold]'}\n"
        "  c: {source: '[/red]none.mp4'}\nmqtt: {host: '[::1]', port: 9}"
    )
    answer = tridetr("doctor", "-c", str(file))
    assert answer.returncode == 1
    assert "[/bold]" in answer.stdout
    assert "Traceback" not in answer.stderr


class TestInit:
    def test_writes_the_shortest_configuration_with_the_password_in_a_file(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "node.yaml"
        words = ["init", "-c", str(file), "--model", "bundled", "--broker", "embedded"]
        source = "rtsp://admin:s%20cret@127.0.0.1:9/1"
        answer = tridetr(*words, "--name", "door", "--camera", source)
        assert answer.returncode == 0, answer.stderr
        assert "refused" in answer.stdout
        assert yaml.safe_load(file.read_text()) == {
            "cameras": {
                "door": {"source": "rtsp://127.0.0.1:9/1", "credentials_file": "door.credentials"}
            },
            "mqtt": {"host": "embedded"},
        }
        secret = tmp_path / "door.credentials"
        assert secret.read_text() == "admin:s cret\n"
        assert secret.stat().st_mode & 0o777 == 0o600
        assert "cret" not in answer.stdout.replace("door.credentials", "")
        again = tridetr(*words, "--camera", "synthetic")
        assert again.returncode == 2
        assert "--force" in again.stderr

    def test_asks_and_tries_the_camera(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "clip.mp4", 30)
        file = tmp_path / "node.yaml"
        answer = tridetr("init", "-c", str(file), typed="clip.mp4\nbundled\nembedded\n")
        assert answer.returncode == 0, answer.stderr
        assert "h264 320x240" in answer.stdout
        assert tridetr("config", "check", "-c", str(file)).returncode == 0

    def test_rejected_url_is_not_printed(self, tmp_path: Path) -> None:
        words = ["--model", "bundled", "--broker", "embedded", "-c", str(tmp_path / "node.yaml")]
        answer = tridetr("init", "--camera", "http://h/?password=S3cret", *words)
        assert answer.returncode == 2
        assert "credentials_file" in answer.stderr
        assert "S3cret" not in answer.stdout + answer.stderr


def test_config_check_reports_contradictions(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(
        "cameras: {hall: {source: synthetic}}\nalarm: {classes: [persn]}\nmodel: {file: broken.onnx}"
    )
    model = onnx.load(configured_model(None))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "broken.onnx")
    answer = tridetr("config", "check", "-c", str(file))
    assert answer.returncode == 1
    assert "did you mean 'person'?" in answer.stdout
    # Only ONNX Runtime notices it
    assert "broken.onnx does not run" in answer.stdout
    assert "NoSuchOperator" in answer.stdout


def test_undecodable_path_is_an_error_without_traceback(tmp_path: Path) -> None:
    answer = tridetr("config", "check", "-c", os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr"))
    assert answer.returncode == 2
    assert "no such file" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_doctor_shows_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(
        "cameras: {hall: {source: none.mp4}}\nmqtt: {host: 127.0.0.1, port: 1}\nmodel: {file: none.onnx}"
    )
    answer = tridetr("doctor", "-c", str(file), "--json")
    assert answer.returncode == 1
    findings = {row["subject"]: row for row in json.loads(answer.stdout)}
    for subject in ("camera hall", "MQTT broker", "model"):
        assert findings[subject]["level"] == "fault"
        assert findings[subject]["remedy"]
    assert findings["/dev/shm"]["level"] == "ok"
    assert "needed" in findings["message queues"]["text"]


def test_two_runs_of_one_instance_are_refused(tmp_path: Path) -> None:
    cameras = {"street": {"source": "synthetic", "width": 320, "height": 180, "fps": 5}}
    with running_node(tmp_path, cameras) as node:
        wait_for(lambda: node.children().get("detect"), 60)
        answer = tridetr("up", "-c", str(node.file), "--duration", "1")
        assert answer.returncode == 2
        assert "is already running" in answer.stderr


def test_summary_has_the_promised_shape(tmp_path: Path) -> None:
    with whole_node(tmp_path) as (node, _):
        summary = node.stop()
    camera = summary["cameras"]["street"]
    assert set(camera) == {
        "frames_published", "frames_inferred", "frames_skipped", "frames_paced", "frames_unchanged", "detections",
        "state_changes", "events_published", "frame_age_ms", "infer_ms", "total_ms",
    }  # fmt: skip
    assert camera["frames_published"] >= camera["frames_inferred"] > 0
    for key in ("frame_age_ms", "infer_ms", "total_ms"):
        assert 0 < camera[key]["p50"] <= camera[key]["p95"]
    assert summary["model"]["name"]
    assert summary["model"]["engine"] == "onnxruntime"
    assert summary["model"]["provider"]
    assert summary["duration_s"] > 0


def test_duration_ends_the_run(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "cameras": {"street": {"source": "synthetic"}},
                "mqtt": {"host": "embedded", "port": 0},
                "run_dir": str(tmp_path / "run"),
            }
        )
    )
    answer = tridetr("up", "-c", str(file), "--duration", "1", "--only", "broker", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["duration_s"] >= 1


@pytest.mark.parametrize("process", ["gateway", "broker"])
def test_port_in_use_is_a_clear_error(tmp_path: Path, process: str) -> None:
    """The node must not keep running without a viewer."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = {
            "instance": "t" + uuid.uuid4().hex[:10],
            "cameras": {"street": {"source": "synthetic"}},
            "mqtt": {"host": "embedded", "port": port if process == "broker" else 0},
            "gateway": {"port": port if process == "gateway" else 0},
            "run_dir": str(tmp_path / "run"),
            "state_dir": str(tmp_path / "state"),
        }
        file = tmp_path / "node.yaml"
        file.write_text(yaml.safe_dump(config))
        answer = tridetr("up", "-c", str(file), "--duration", "30", "--only", process)
    assert answer.returncode == 2
    assert str(port) in answer.stderr
    assert "Address already in use" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.fixture
def heeds_hangups() -> Iterator[None]:
    """The tests may run under `nohup`, and children inherit signals that are ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heeds_hangups")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_hangup_and_ctrl_c_leave_nothing_behind(tmp_path: Path, number: int) -> None:
    """After a hangup, the supervisor must clean up its segments too."""
    cameras = {"street": {"source": "synthetic", "width": 320, "height": 180, "fps": 5}}
    with running_node(tmp_path, cameras) as node:
        wait_for(lambda: list_instance(node.instance), 60)
        assert node.process
        node.process.send_signal(number)
        assert node.process.wait(60) in (0, 1)  # 1: nothing was inferred yet
        assert not node.leftovers()
        assert "Traceback" not in node.log_tail()


def test_ctrl_c_during_imports_prints_no_traceback() -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Late:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tridetr.cli.main': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Late())\n"
        "from tridetr.__main__ import main; main()"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 130
    assert not answer.stderr


def test_folders_that_cannot_be_used_are_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    file = tmp_path / "node.yaml"
    for key, folder, why in (
        ("run_dir", tmp_path / "node.yaml" / "run", "Not a directory"),
        ("run_dir", tmp_path / "open", "by every user"),
        ("state_dir", tmp_path / "open", "by every user"),
    ):
        folders = {"run_dir": str(tmp_path / "run"), "state_dir": str(tmp_path / "state")}
        config = {"cameras": {"street": {"source": "synthetic"}}, **folders, key: str(folder)}
        file.write_text(yaml.safe_dump(config))
        answer = tridetr("up", "-c", str(file), "--duration", "1", "--only", "controller")
        assert answer.returncode == 2
        assert why in answer.stderr
        assert key in answer.stderr
        assert "Traceback" not in answer.stderr
