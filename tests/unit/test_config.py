"""Loading the configuration: what is rejected, and that the error message helps."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import jsonschema
import pytest
import yaml

from support.data import shared
from tridetr import files
from tridetr.config import Config, load_config
from tridetr.config.examples import DEMO, EXAMPLE, REFERENCE
from tridetr.config.load import parse_config
from tridetr.config.secrets import camera_credentials, mqtt_password
from tridetr.config.section import SECRET_FILES
from tridetr.doctor.configuration import check_configuration
from tridetr.errors import ConfigError

MINIMAL = "cameras: {hall: {source: synthetic}}\n"


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, origin=Path("node.yaml"))
    return str(caught.value)


@pytest.mark.parametrize("file", [DEMO, EXAMPLE, REFERENCE])
def test_packaged_configurations_are_valid(file: Path) -> None:
    assert load_config(file).cameras


def test_the_reference_shows_every_key_with_its_default() -> None:
    """A key added to the schema must be explained in the reference."""
    data = yaml.safe_load(REFERENCE.read_text())
    not_shown = {"run_dir", "state_dir"}
    assert set(data) == set(Config.model_fields) - not_shown
    for section, field in Config.model_fields.items():
        if isinstance(data.get(section), dict) and section != "cameras":
            assert set(data[section]) == set(
                type(field.get_default(call_default_factory=True)).model_fields
            )
    defaults = parse_config(MINIMAL, origin=Path("x.yaml")).model_dump(mode="json")
    for section in (
        "model",
        "triton",
        "detect",
        "alarm",
        "sentry",
        "mqtt",
        "gateway",
        "otel",
        "log",
    ):
        assert data[section] == defaults[section]
    camera_keys = set(type(load_config(REFERENCE).cameras["hall"]).model_fields)
    assert set(data["cameras"]["hall"]) == camera_keys


# Each mapping merges the one before twice
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], y{n}: 1}}\n" for n in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cameras: {hall: {sorce: a.mp4}}", "did you mean `source`?"),
        (MINIMAL + "mqt: {}", "mqt: unknown key; did you mean `mqtt`?"),
        (MINIMAL + "sentry: {zzzzzz: 1}", "known keys: confirm_frames"),
        ("cameras: {hall: {source: synthetic, sentry: {clear: 1}}}", "did you mean `clear_s`?"),
        ("cameras: {}", "at least 1 item"),
        ("cameras: {Hall: {source: synthetic}}", "lower-case"),
        ("cameras: {triton: {source: synthetic}}", "reserved"),
        ("cameras: {hall: {source: 'rtsp://u:secret@h/x'}}", "credentials_file"),
        ("cameras: {hall: {source: 'ftp://camera/1'}}", "ftp:// is not supported; use rtsp://"),
        ("cameras: {hall: {source: /dev/video0, realtime: false}}", "video files only"),
        ("cameras: {hall: {source: synthetic, width: 640}}", "both width and height"),
        ("cameras: {hall: {source: synthetic, alarm: {zone: [[0, 0], [1, 1]]}}}", "3 points"),
        ("cameras: {hall: {source: synthetic, alarm: {zone: [[0, 0], [1, 1], [0, 9]]}}}", "0..1"),
        (
            "cameras: {hall: {source: synthetic, alarm: {zone: [[0, 0], [1, 1], [0.5, 0.5]]}}}",
            "one line",
        ),
        (MINIMAL + "gateway: {port: 70000}", "65535"),
        (MINIMAL + "instance: Not-Good", "instance"),
        (MINIMAL + "mqtt: {device: a/b}", "letters"),
        (MINIMAL + "mqtt: {prefix: '#'}", "mqtt.prefix"),
        (
            MINIMAL + "device: cpu\nmodel: {provider: cuda}",
            "model.provider: cuda needs a GPU",
        ),
        (MINIMAL + "device: cpu\nmodel: {provider: tensorrt}", "device: cpu rules it out"),
        (MINIMAL + "device: cpu\nmodel: {name: rfdetr_trt}", "Set device: auto"),
        (
            MINIMAL + "device: cuda\nmodel: {provider: openvino}",
            "openvino runs on the CPU, but device: cuda rules that out",
        ),
        (
            "cameras: {hall: {source: 'rtsp://c/2', view: 'rtsp://u:secret@c/1'}}",
            "credentials_file",
        ),
        (
            "cameras: {hall: {source: 'rtsp://c/2', view: 'rtsp://{user}@c/1'}}",
            "view contains {user}",
        ),
        ("cameras: {hall: {source: a.mp4, view: 'rtsp://c/1'}}", "main stream of a network camera"),
        ("cameras: {hall: {source: 'rtsp://c/2', view: a.mp4}}", "both must be rtsp(s)://"),
        (
            "cameras: {hall: {source: 'rtsp://c/2', view: 'rtsp://c/1', mask: [[[0, 0], [1, 0], [1, 1]]]}}",
            "view and mask cannot be combined: packets cannot be masked",
        ),
        (
            "cameras: {hall: {source: a, mask: [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]], [[0.5, 0], [1, 0], [1, 1], "
            "[0.5, 1]]]}}",
            "cameras.hall.mask covers the whole picture",
        ),
        (
            "alarm: {zone: [[0.1, 0.1], [0.4, 0.1], [0.4, 0.9]]}\n"
            "cameras: {hall: {source: a, mask: [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}}",
            "cameras.hall.mask covers the whole of alarm.zone",
        ),
        (
            "alarm: {zone: [[0.087, 0.1], [0.1, 0.1], [0.1, 0.3], [0.087, 0.3]]}\n"
            "cameras: {hall: {source: a, mask: [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}}",
            "cameras.hall.mask covers the whole of alarm.zone",
        ),
        (
            MINIMAL + "alarm: {zone: [[0, 0], [1, 0], [0, 1], [1, 1]]}",
            "zone: edges of the polygon cross",
        ),
        (
            "cameras: {hall: {source: a, mask: [[[0, 0], [1, 0], [0, 1], [1, 1]]]}}",
            "mask: edges of the polygon cross",
        ),
        (MINIMAL + "alarm: {min_area: 1}", "alarm.min_area: 1 means 100 %"),
        (MINIMAL + "alarm: {min_score: 1}", "alarm.min_score: 1 means 100 %"),
        (MINIMAL + "detect: {min_score: 1}", "detect.min_score: 1 means 100 %"),
        ("- a list", "expected keys"),
        ("cameras: [", "not valid YAML"),
        ("cameras: {hall: {source: a}, hall: {source: b}}", "duplicate key"),
        ("cameras: {hall: {source: ~nosuchuser/a.mp4}}", "no such user"),
        (
            "cameras: {off: {source: synthetic}}",
            "cameras: YAML reads `off`, `no` and `false` as a truth value: write the name in quotes",
        ),
        ("cameras: {12: {source: synthetic}}", "cameras: YAML reads 12 as a number: write the"),
        (
            "cameras: {~: {source: synthetic}}",
            "cameras: YAML reads this name as nothing: write the",
        ),
        (MINIMAL + f"gateway: {{port: {'9' * 5000}}}", "line 2, column 17: not a valid number or"),
        (MINIMAL + f"gateway: {{port: 0x{'f' * 5000}}}", "gateway.port"),
        ("cameras: {2026-13-45: {source: synthetic}}", "column 11: not a valid number or date"),
        (MERGE_BOMB, "too many keys to merge"),
    ],
)
def test_errors_name_the_fault(text: str, expected: str) -> None:
    assert expected in refused(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: *S3cret", "line 1, column 4: found undefined alias"),
        ("a: !S3cret x", "line 1, column 4: could not determine a constructor for the tag"),
        ("a: !S3cret!b x", "line 1, column 4: found undefined tag handle"),
        ("S3cret://u:p@x/1: 1\nS3cret://u:p@x/1: 2", "line 2, column 1: duplicate key"),
        ("a: &S3cret 1\nb: &S3cret 2", "line 2, column 4: duplicate anchor"),
        ("a: &x'S3cret 1", "line 1, column 6: expected alphabetic or numeric character"),
        ('a: "\\qS3cret"', "line 1, column 6: found unknown escape character"),
        ("a: @S3cret", "line 1, column 4: found character … that cannot start any token"),
        ("a: 1\nb: \x07S3cret", "line 2, column 4: found a character that YAML does not allow"),
        ("a: !!int S3cret", "line 1, column 4: not a valid number"),
        ("a: !!bool S3cret", "line 1, column 4: not a valid number"),
        ("a: !!timestamp S3cret", "line 1, column 4: not a valid number"),
        ("<<: S3cret", "line 1, column 5: expected a mapping"),
    ],
)
def test_errors_of_yaml_repeat_nothing_of_the_file(text: str, expected: str) -> None:
    """A secret that was written in place of its file's path was shown, in part or whole."""
    message = refused(text)
    assert message.startswith(f"node.yaml: not valid YAML: {expected}")
    assert ("Remove one" if "duplicate" in expected else "in quotes") in message
    for hidden in ("S3", "cret", "'", '"', "@"):
        assert hidden not in message


@pytest.mark.parametrize(("lowest", "is_valid"), [(0.98, True), (0.99, False)])
def test_a_mask_may_leave_a_strip_in_which_something_can_be_recognised(
    lowest: float, is_valid: bool
) -> None:
    mask = f"[[0, 0], [1, 0], [1, {lowest}], [0, {lowest}]]"
    text = f"cameras: {{hall: {{source: a, mask: [{mask}]}}}}"
    if is_valid:
        parse_config(text, origin=Path("node.yaml"))
    else:
        assert "all but strips of less than 1/64" in refused(text)


def test_device_cpu_is_allowed_with_a_gpu_model_on_an_external_server() -> None:
    text = MINIMAL + "device: cpu\nmodel: {name: rfdetr_trt}\ntriton: {url: 'host:8001'}"
    assert parse_config(text, origin=Path("node.yaml")).device == "cpu"


def test_all_faults_are_listed_together_without_their_consequences() -> None:
    message = refused("instance: NO\ncameras: {hall: {source: synthetic, fps: -1}}\nmqt: {}")
    assert message.startswith("node.yaml: 3 fault(s)")
    assert "run_dir" not in message


@pytest.mark.parametrize(
    "section",
    [
        "mqtt: {host: 'mqtt://me:sekret@broker'}",
        "mqtt: {host: 'me:sekret@broker'}",
        "triton: {url: 'grpc://me:sekret@gpu:8001'}",
        "triton: {url: 'me:sekret@gpu:8001'}",
        "otel: {endpoint: 'http://me:sekret@collector:4318'}",
        "otel: {endpoint: 'https://collector/?api-key=sekret'}",
        "otel: {endpoint: 'me:sekret@collector'}",
    ],
)
def test_addresses_with_a_login_are_refused(section: str) -> None:
    """They are logged, and the endpoint is among the arguments of Triton's server."""
    assert "sekret" not in refused("cameras: {hall: {source: synthetic}}\n" + section)


def test_pictures_are_not_for_the_embedded_broker() -> None:
    """It has no passwords, so every user of the machine could read them, in spite of the viewer's token."""
    message = refused(MINIMAL + "mqtt: {host: embedded, pictures: true}")
    assert "mqtt: pictures: true" in message
    assert "every user of the machine" in message
    assert "mqtt.host" in message, "the remedy"
    for section in ("{host: embedded}", "{host: embedded, pictures: false}", "{pictures: true}"):
        parse_config(f"{MINIMAL}mqtt: {section}", origin=Path("node.yaml"))


def test_a_rejected_password_is_not_repeated_in_the_message() -> None:
    assert "secret" not in refused("cameras: {hall: {source: 'rtsp://u:secret@h/x'}}")


def with_secret_file(key: str, value: object) -> str:
    """Return a configuration with this value of a key that names a file with a secret."""
    value = json.dumps(value)
    return {
        "credentials_file": f"cameras: {{a: {{source: 'rtsp://h/1', credentials_file: {value}}}}}",
        "key_file": MINIMAL + f"mqtt: {{host: b, tls: {{key_file: {value}}}}}",
        "password_file": MINIMAL + f"mqtt: {{host: b, username: u, password_file: {value}}}",
        "secret_file": MINIMAL + f"triton: {{secret_file: {value}}}",
        "token_file": MINIMAL + f"gateway: {{token_file: {value}}}",
        "url_file": MINIMAL + f"notify: [{{name: p, kind: ntfy, url_file: {value}}}]",
    }[key]


@pytest.mark.parametrize("key", sorted(SECRET_FILES))
def test_a_secret_in_place_of_its_file_is_not_repeated(tmp_path: Path, key: str) -> None:
    for secret in ("me:sekret", "https://ntfy.sh/sekret", "sekret\nsekret", ["sekret"], 73537):
        message = refused(with_secret_file(key, secret))
        assert key in message
        assert str(secret) not in message
        assert "sekret" not in message
    assert "sekret" not in refused(with_secret_file(key, "~sekret"))
    # These may be file names. The key is reported, by doctor and by what reads the file
    for secret in ("sekret", "/sekret/x", "sekret" * 50, "sekret\0"):
        config = parse_config(with_secret_file(key, secret), origin=tmp_path / "node.yaml")
        faults = [f"{found.subject} {found.text}" for found in check_configuration(config)]
        assert any(key in fault and "cannot be read" in fault for fault in faults)
        assert not any("sekret" in fault for fault in faults)


@pytest.mark.parametrize("key", sorted(SECRET_FILES))
def test_a_secret_s_file_that_exists_is_named(tmp_path: Path, key: str) -> None:
    (tmp_path / "with:colon").touch()
    config = parse_config(with_secret_file(key, "./with:colon"), origin=tmp_path / "node.yaml")
    assert any(f"{tmp_path}/with:colon" in found.text for found in check_configuration(config))


def test_all_keys_of_files_with_secrets_are_known() -> None:
    """A new key that ends in `_file` is either in SECRET_FILES or public."""

    def keys(schema: object) -> set[str]:
        if isinstance(schema, list):
            return set[str]().union(*map(keys, schema))
        if not isinstance(schema, dict):
            return set()
        return {key for key in schema if key.endswith("_file")}.union(*map(keys, schema.values()))

    assert keys(Config.model_json_schema()) == SECRET_FILES | {
        "ca_file",
        "cert_file",
        "tls_ca_file",
    }


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tridetr config example"):
        load_config(tmp_path / "none.yaml")


def test_relative_paths_are_resolved_against_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    file = tmp_path / "node.yaml"
    file.write_text("cameras: {a: {source: clip.mp4}, b: {source: /dev/video0}}\nrun_dir: run")
    config = load_config(file)
    assert config.cameras["a"].source.text == str(tmp_path / "clip.mp4")
    assert config.cameras["b"].source.text == "/dev/video0"
    assert config.run_dir == tmp_path / "run"


def test_a_configuration_survives_a_round_trip_through_json(tmp_path: Path) -> None:
    config = load_config(REFERENCE)
    file = tmp_path / "copy.yaml"
    file.write_text(config.model_dump_json())
    assert load_config(file) == config


def test_merge_keys_load_as_yaml_specifies() -> None:
    config = parse_config(
        "cameras:\n"
        "  front: &base {source: synthetic, fps: 5}\n"
        "  back: {<<: *base, seed: 2}\n"
        "  side: &own {<<: *base, fps: 7}\n"
        "  yard: {<<: *own}\n",
        origin=Path("node.yaml"),
    )
    cameras = config.cameras
    assert (cameras["back"].fps, cameras["back"].seed) == (5, 2)
    assert (cameras["side"].fps, cameras["yard"].fps) == (7, 7)


def test_the_shared_example_with_merge_keys_loads() -> None:
    assert load_config(shared("cases", "merge_key.yaml")).cameras["back"].seed == 2


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    for name in ("node.yaml", "camera"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_config(tmp_path / "node.yaml").cameras
    assert camera_credentials(tmp_path / "camera")[0] == "cameras"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_the_error_for_a_wrong_encoding_names_utf_8(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "node.yaml"
    file.write_bytes((MINIMAL + "# für den Flur\n").encode(encoding))
    with pytest.raises(ConfigError, match="save the file as UTF-8"):
        load_config(file)
    with pytest.raises(ConfigError, match="save the file as UTF-8"):
        camera_credentials(file)


def test_a_folder_whose_name_is_not_utf_8_is_a_clear_error(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr"))
    folder.mkdir()
    (folder / "node.yaml").write_text(MINIMAL)
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(folder / "node.yaml")


def test_a_user_without_a_home_folder_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert "state_dir" in refused(MINIMAL)
    assert "no home folder" in refused(MINIMAL + "state_dir: ~/state")


def test_common_and_camera_sections_merge_key_by_key() -> None:
    text = (
        "cameras:\n  hall: {source: synthetic, sentry: {clear_s: 9}, alarm: {min_area: 0.1}}\n"
        "  yard: {source: synthetic}\n"
        "sentry: {unknown_s: 7}\nalarm: {classes: [car]}\n"
    )
    config = parse_config(text, origin=Path("node.yaml"))
    again = parse_config(config.model_dump_json(), origin=Path("copy.yaml"))
    for read in (config, again):
        hall, yard = read.sentry_for("hall"), read.sentry_for("yard")
        assert (hall.clear_s, hall.unknown_s) == (9, 7)
        assert (yard.clear_s, yard.unknown_s) == (3, 7)
        alarm = read.alarm_for("hall")
        assert (alarm.min_area, alarm.classes) == (0.1, ("car",))


def test_schema_is_valid_and_accepts_the_reference() -> None:
    schema = Config.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(json.dumps(yaml.safe_load(REFERENCE.read_text()))), schema)


@pytest.mark.parametrize(
    ("file", "expected"),
    [("/dev/zero", "more than 4 MiB"), ("fifo", "nothing was written to it within")],
)
def test_a_file_that_never_ends_or_never_answers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, expected: str
) -> None:
    monkeypatch.setattr(files, "_PATIENCE_S", 0.1)
    os.mkfifo(tmp_path / "fifo")
    for read in (load_config, camera_credentials):
        with pytest.raises(ConfigError, match=expected):
            read(tmp_path / file)


def test_a_configuration_can_be_piped() -> None:
    """Such as `tridetr up -c <(sops -d tridetr.yaml)`."""
    reading, writing = os.pipe()

    def write() -> None:
        os.write(writing, MINIMAL.encode())
        os.close(writing)

    slow = threading.Timer(0.1, write)
    slow.start()
    assert load_config(Path(f"/dev/fd/{reading}")).cameras
    os.close(reading)
    slow.join()


def test_secrets_come_from_files_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("from-file\n")
    (tmp_path / "camera").write_text("admin:with:colon\n")
    base = parse_config(MINIMAL, origin=tmp_path / "x.yaml")
    monkeypatch.setenv("TRIDETR_MQTT_PASSWORD", "from-environment")
    assert mqtt_password(base) == "from-environment"
    text = "cameras: {hall: {source: 'rtsp://h/x', credentials_file: camera}}\nmqtt: {password_file: password}"
    config = parse_config(text, origin=tmp_path / "x.yaml")
    assert mqtt_password(config) == "from-file"
    file = config.cameras["hall"].credentials_file
    assert file
    assert camera_credentials(file) == ("admin", "with:colon")
    (tmp_path / "camera").write_text("no colon")
    with pytest.raises(ConfigError, match="user:password"):
        camera_credentials(file)
