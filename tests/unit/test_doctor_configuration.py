"""The doctor's checks of the configuration: contradictions, missing files, unknown class names."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import pytest

from support.mosquitto import make_certificates
from support.tiny_export import tiny_export
from tridetr.config import load_config
from tridetr.config.examples import DEMO, EXAMPLE, REFERENCE
from tridetr.config.load import parse_config
from tridetr.doctor.configuration import check_configuration
from tridetr.doctor.parts import check_model, check_model_runs
from tridetr.models.fuse import fuse
from tridetr.models.onnx_file import set_metadata
from tridetr.triton import trial

CAMERA = "cameras: {hall: {source: synthetic}}\n"


def problems(text: str, folder: Path) -> dict[str, tuple[str, str]]:
    config = parse_config(text, origin=folder / "node.yaml")
    found = [*check_configuration(config), *check_model(config)]
    assert all(finding.remedy for finding in found if finding.level != "ok")
    return {f.subject: (f.level, f.text) for f in found if f.level != "ok"}


@pytest.mark.parametrize("file", [DEMO, EXAMPLE, REFERENCE])
def test_packaged_configurations_have_no_fault(file: Path) -> None:
    assert {finding.level for finding in check_configuration(load_config(file))} == {"ok"}


@pytest.mark.parametrize(
    ("text", "subject", "level"),
    [
        (CAMERA + "mqtt: {host: embedded, tls: {}}", "mqtt.tls", "fault"),
        (CAMERA + "mqtt: {host: b, port: 0}", "mqtt.port", "fault"),
        (CAMERA + "mqtt: {host: b, port: 8883}", "mqtt.tls", "warning"),
        (CAMERA + "mqtt: {host: b, password_file: p}", "mqtt.username", "fault"),
        (CAMERA + "mqtt: {host: b, username: u, password_file: none}", "mqtt.password_file", "fault"),
        (CAMERA + "mqtt: {host: b, tls: {ca_file: none}}", "mqtt.tls.ca_file", "fault"),
        (CAMERA + "gateway: {token_file: none}", "gateway.token_file", "fault"),
        (CAMERA + "mqtt: {host: embedded, port: 8080}", "gateway.port and mqtt.port", "fault"),
        (CAMERA + "triton: {metrics_port: 8080}", "gateway.port and triton.metrics_port", "fault"),
        (CAMERA + "model: {file: none.onnx}", "model", "fault"),
        (CAMERA + "alarm: {classes: [persn]}", "camera hall alarm.classes", "fault"),
        (CAMERA + "detect: {classes: [car]}", "cameras.hall.alarm.classes", "fault"),
        (CAMERA + "detect: {min_score: 0.6}\nalarm: {min_score: 0.3}", "cameras.hall.alarm.min_score", "warning"),
        (CAMERA + "notify: [{name: p, kind: ntfy, url_file: p, classes: [Person]}]", "notify.p.classes", "fault"),
        (CAMERA + "sentry: {standby_fps: 0.1}", "cameras.hall.sentry.unknown_s", "fault"),
        ("cameras: {hall: {source: synthetic, fps: 0.25}}", "cameras.hall.fps", "warning"),
        (CAMERA + "sentry: {confirm_frames: 1000}", "cameras.hall.sentry.confirm_frames", "warning"),
        (CAMERA + "sentry: {confirm_s: 15}", "cameras.hall.sentry.confirm_s", "warning"),
        (CAMERA + "sentry: {unknown_s: 300}", "cameras.hall.sentry.unknown_s", "warning"),
        (CAMERA + "sentry: {hold_s: 1}", "cameras.hall.sentry.hold_s", "warning"),
        ("cameras: {a: {source: 'rtsp://h/1', frozen_s: 3600}}", "cameras.a.frozen_s", "warning"),
        ("cameras: {a: {source: 'rtsp://h/1', timeout_s: 15}}", "cameras.a.timeout_s", "warning"),
        ("cameras: {a: {source: /dev/video0}, b: {source: /dev/video0}}", "cameras", "fault"),
        ("cameras: {a: {source: 'rtsp://h/1', credentials_file: none}}", "cameras.a.credentials_file", "fault"),
        ("cameras: {a: {source: 'rtsps://h/1', tls_ca_file: none}}", "cameras.a.tls_ca_file", "fault"),
        ("cameras: {a: {source: clip.mp4}}", "model", "warning"),
    ],
)  # fmt: skip
def test_contradictions_are_reported_under_their_key(
    tmp_path: Path, text: str, subject: str, level: str
) -> None:
    (tmp_path / "p").write_text("word")
    found = problems(text, tmp_path)
    assert found[subject][0] == level


def test_cameras_with_the_same_source_are_reported_without_credentials(tmp_path: Path) -> None:
    source = "{source: 'rtsp://h/1?pin=k7w2'}"
    found = problems(
        f"cameras: {{a: {source}, b: {source}, c: {{source: 'rtsp://h/2'}}}}", tmp_path
    )
    level, text = found["cameras"]
    assert level == "warning"
    assert text.startswith("rtsp://h is the source of 2 cameras (a, b), so")


@pytest.mark.parametrize(
    ("zone", "works"),
    [
        ("Europe/Berlin", True),
        (":UTC", True),
        ("CET-1CEST,M3.5.0,M10.5.0/3", True),
        ("<+03>-3", True),
        ("", True),
        ("Europe/Berln", False),
        ("Europe", False),
        ("tzdata.zi", False),
        ("UTC2/Berlin", False),
    ],
)
def test_a_misspelled_time_zone_is_a_fault_where_there_are_schedules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, works: bool
) -> None:
    """The C library takes it for UTC without a word."""
    monkeypatch.setenv("TZ", zone)
    found = problems(CAMERA + "armed: {schedule: ['22:00-06:00']}", tmp_path)
    assert ("TZ" not in found) is works
    assert "TZ" not in problems(CAMERA, tmp_path)


def test_secrets_that_every_user_can_read_are_reported() -> None:
    text = (
        "cameras: {a: {source: 'rtsp://h/1', credentials_file: camera}}\n"
        "mqtt: {host: b, username: u, password_file: broker}\n"
        "gateway: {token_file: token}"
    )
    # Not pytest's folder, which other users cannot enter
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file, mode in (("camera", 0o644), ("broker", 0o600), ("token", 0o640)):
            (folder / file).write_text("user:0123456789abcdef")
            (folder / file).chmod(mode)
        found = problems(text, folder)
        assert found["cameras.a.credentials_file"][0] == "warning"
        assert not {"mqtt.password_file", "gateway.token_file"} & found.keys()
        folder.chmod(0o700)
        assert "cameras.a.credentials_file" not in problems(text, folder)


@pytest.mark.parametrize(
    ("process", "level", "text"),
    [
        ("exit 0", None, ""),
        ("kill -SEGV $$", "fault", "ended by signal 11"),
        (
            "echo; echo log >&2; echo 'bad. Remedy: do that' >&2; exit 1",
            "fault",
            "does not run: bad.",
        ),
        ("exit 1", "fault", "no reason given"),
        ("kill -ALRM $$", "warning", "not loaded within"),
        ("kill -KILL $$", "warning", "for want of memory"),
    ],
)
def test_a_model_that_does_not_load_or_takes_too_long_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: str, level: str | None, text: str
) -> None:
    monkeypatch.setattr(trial, "module_command", lambda *_: ["sh", "-c", f"exec 1>&2; {process}"])
    config = parse_config(CAMERA + "device: cpu", origin=tmp_path / "node.yaml")
    found = list(check_model_runs(config))
    assert [finding.level for finding in found] == ([level] if level else [])
    assert all(text in finding.text and finding.remedy for finding in found)


def test_the_checks_load_without_onnx_runtime() -> None:
    """Without the extra `server`, `tridetr doctor` ended with a ModuleNotFoundError."""
    code = "import sys; sys.modules['onnxruntime'] = None; import tridetr.doctor.parts"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("provider", "is_refused"), [("openvino", True), ("cpu", False)])
def test_a_model_that_was_quantised_for_another_engine_is_a_fault(
    tmp_path: Path, provider: str, is_refused: bool
) -> None:
    """`config check` and `doctor` had nothing to say about a node that detected nothing."""
    graph = fuse(tiny_export(), classes={"person": 1}, source="test")
    set_metadata(graph, {"tridetr.quantized_for": "tensorrt"})
    onnx.save(graph, tmp_path / "m.onnx")
    text = f"{CAMERA}device: cpu\nmodel: {{file: {tmp_path}/m.onnx, provider: {provider}}}\n"
    config = parse_config(text, origin=tmp_path / "node.yaml")
    faults = [finding for finding in check_model(config) if finding.level == "fault"]
    assert len(faults) == is_refused
    for fault in faults:
        assert fault.text.startswith("the model was quantised for TensorRT, but OpenVINO would")
        assert "--target cpu" in fault.remedy


@pytest.mark.parametrize(
    ("table", "level", "text"),
    [
        (None, "warning", "does not name its classes: COCO's ids 1 to 90 are assumed"),
        ('{"person": 1}', None, ""),
        ('{"person": 70001}', "fault", "the id 70001 is not from 0 to 65535"),
        ('{"person": -1}', "fault", "the id -1 is not from 0 to 65535"),
    ],
)
def test_missing_and_impossible_class_ids_are_reported(
    tmp_path: Path, table: str | None, level: str | None, text: str
) -> None:
    """Their detections were dropped without a word: all quiet with a person in view."""
    graph = fuse(tiny_export(), classes={"person": 1}, source="test")
    del graph.metadata_props[:]
    if table is not None:
        set_metadata(graph, {"tridetr.classes": table})
    onnx.save(graph, tmp_path / "m.onnx")
    found = problems(f"{CAMERA}model: {{file: {tmp_path}/m.onnx}}\n", tmp_path)
    assert [shown for shown, _ in found.values()] == ([level] if level else [])
    assert all(text in shown for _, shown in found.values())


def test_the_closest_class_name_is_suggested(tmp_path: Path) -> None:
    config = parse_config(CAMERA + "alarm: {classes: [persn]}", origin=tmp_path / "node.yaml")
    assert [f.remedy for f in check_model(config) if f.level == "fault"] == [
        "did you mean 'person'?"
    ]


def test_a_client_key_that_needs_a_passphrase_is_reported(tmp_path: Path) -> None:
    """OpenSSL asked for it at the terminal, and the controller ended without one."""
    made, key = make_certificates(tmp_path), tmp_path / "encrypted.key"
    command = "openssl", "pkey", "-in", made.key, "-aes256", "-passout", "pass:word", "-out", key
    subprocess.run(command, check=True)
    for file, level in ((made.key, None), (key, "fault")):
        tls = f"{{ca_file: {made.ca}, cert_file: {made.certificate}, key_file: {file}}}"
        found = problems(CAMERA + f"mqtt: {{host: b, tls: {tls}}}", tmp_path)
        assert found.get("mqtt.tls.cert_file", (None, ""))[0] == level
    assert f"the key in {key} is encrypted" in found["mqtt.tls.cert_file"][1]
