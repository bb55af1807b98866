"""Check the configuration for contradicting keys and missing files."""

from __future__ import annotations

import contextlib
import ssl
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tridetr.broker_tls import present_certificate, trust_authorities
from tridetr.config import CameraSection, Config, SentrySection
from tridetr.config.secrets import (
    camera_credentials,
    gateway_token,
    lacks_mqtt_user,
    mqtt_password,
    notify_url,
    read_secret,
    signing_key,
)
from tridetr.config.source import CameraSource
from tridetr.doctor.finding import Finding
from tridetr.errors import ConfigError, TridetrError
from tridetr.local_time import time_zone_fault
from tridetr.paths import TRITON_MARKS, refuse_other_folder
from tridetr.recorder.evidence_files import refuse_other_files

_MQTTS_PORT = 8883
_USUAL_FPS = 25.0  # of a camera, where `fps` does not limit it


def check_configuration(config: Config) -> Iterator[Finding]:
    """Yield what the schema cannot check: keys that contradict each other, missing files, unreadable secrets."""
    found = [*_check_mqtt(config), *_check_ports(config), *_check_sources(config)]
    found += [*_check_cameras(config), *_check_notify(config), *_check_time_zone(config)]
    found += [*_check_secrets(config), *_check_modes(config), *_check_toy_model(config)]
    found += _check_folders(config)
    yield from found
    if not any(finding.level == "fault" for finding in found):
        yield Finding("configuration", "ok", "no contradictions")


def _check_folders(config: Config) -> Iterator[Finding]:
    checks: dict[str, Callable[[], None]] = {}
    if (evidence := config.evidence_dir) is not None:
        checks["evidence.path"] = partial(refuse_other_files, evidence)
    if config.triton.url is None:
        triton = config.run_dir / "triton"
        checks["run_dir"] = partial(refuse_other_folder, triton, TRITON_MARKS, "run_dir")
    for key, check in checks.items():
        try:
            check()
        except TridetrError as error:
            text, _, remedy = str(error).partition(". Remedy: ")
            yield _fault(key, text, remedy)
        except OSError:  # another check reports it
            continue


def _fault(subject: str, text: str, remedy: str) -> Finding:
    return Finding(subject, "fault", text, remedy)


def _check_mqtt(config: Config) -> Iterator[Finding]:
    mqtt = config.mqtt
    embedded = mqtt.host == "embedded"
    if embedded and mqtt.tls is not None:
        yield _fault("mqtt.tls", "the embedded broker does not support TLS", "remove mqtt.tls")
    if not embedded and mqtt.port == 0:
        yield _fault(
            "mqtt.port",
            "0 (any free port) works with `mqtt.host: embedded` only",
            "set mqtt.port to the broker's port",
        )
    if embedded and (mqtt.username or mqtt.password_file):
        yield Finding(
            "mqtt.username",
            "warning",
            "the embedded broker does not check logins",
            "remove mqtt.username and mqtt.password_file",
        )
    if not embedded and mqtt.port == _MQTTS_PORT and mqtt.tls is None:
        yield Finding(
            "mqtt.tls",
            "warning",
            f"port {_MQTTS_PORT} is for MQTT over TLS, but mqtt.tls is not set",
            "set mqtt.tls: {}",
        )
    if lacks_mqtt_user(config):
        yield _fault(
            "mqtt.username", "an MQTT password is set, but no user name", "set mqtt.username"
        )
    if mqtt.tls is not None and mqtt.tls.key_file and not mqtt.tls.cert_file:
        yield _fault(
            "mqtt.tls.cert_file",
            "mqtt.tls.key_file is set, but mqtt.tls.cert_file is not",
            "set mqtt.tls.cert_file",
        )


def _check_ports(config: Config) -> Iterator[Finding]:
    ports = [("gateway.port", config.gateway.port)]
    if config.triton.url is None:
        ports.append(("triton.metrics_port", config.triton.metrics_port))
    if config.mqtt.host == "embedded":
        ports.append(("mqtt.port", config.mqtt.port))
    for port, times in Counter(port for _, port in ports).items():
        if port and times > 1:
            keys = " and ".join(key for key, other in ports if other == port)
            yield _fault(keys, f"the same port, {port}", "choose different ports")


def _check_sources(config: Config) -> Iterator[Finding]:
    users: dict[CameraSource, list[str]] = {}
    for name, camera in config.cameras.items():
        users.setdefault(camera.source, []).append(name)
    for source, names in users.items():
        text = f"{source.shown} is the source of {len(names)} cameras ({', '.join(names)})"
        if len(names) > 1 and source.kind == "v4l2":
            yield _fault("cameras", text, "use each device for one camera only")
        elif len(names) > 1 and source.is_network:
            text += ", so every visit is reported by each of them"
            yield Finding("cameras", "warning", text, "correct the source, or keep one of them")


def _check_cameras(config: Config) -> Iterator[Finding]:
    for name, camera in config.cameras.items():
        subject = f"cameras.{name}"
        if unseen := config.unpublished_classes(name):
            yield _fault(
                f"{subject}.alarm.classes",
                f"{', '.join(unseen)}: not in detect.classes, so it never raises the alarm",
                "add it to detect.classes",
            )
        least, alarming = config.detect_for(name).min_score, config.alarm_for(name).min_score
        if least is not None and alarming is not None and alarming < least:
            yield Finding(
                f"{subject}.alarm.min_score",
                "warning",
                f"{alarming:g}, but detect.min_score, the least score that is published, is {least:g}",
                "lower detect.min_score",
            )
        sentry = config.sentry_for(name)
        slowest = min(sentry.standby_fps, camera.fps or sentry.standby_fps)
        if camera.source.kind != "file" and 1 / slowest >= sentry.unknown_s:
            yield _fault(
                f"{subject}.sentry.unknown_s",
                f"a frame comes every {1 / slowest:g} s, but the state is Unknown after {sentry.unknown_s:g} s "
                "without one",
                "raise unknown_s or standby_fps",
            )
        elif camera.source.kind != "file" and 1 / slowest > sentry.longest_interval_s:
            yield Finding(
                f"{subject}.fps",
                "warning",
                f"a frame comes every {1 / slowest:g} s, too seldom to confirm a person who passes quickly",
                "raise fps, or sentry.unknown_s if the camera is to be that slow",
            )
        if camera.source.kind in ("rtsp", "http", "v4l2") and camera.timeout_s > sentry.unknown_s:
            yield Finding(
                f"{subject}.timeout_s",
                "warning",
                f"{camera.timeout_s:g}, but the state is Unknown after {sentry.unknown_s:g} s without a picture: a "
                "camera whose pictures come that seldom counts as not watched",
                "raise sentry.unknown_s as well, or lower timeout_s",
            )
        yield from _check_times(subject, camera, sentry)
        if camera.decode == "gpu" and config.device == "cpu":
            yield Finding(
                f"{subject}.decode",
                "warning",
                "decode: gpu has no effect with device: cpu",
                "set decode: cpu",
            )


def _check_times(subject: str, camera: CameraSection, sentry: SentrySection) -> Iterator[Finding]:
    """Yield times that delay an alarm, or the report that a camera is not watched, more than anyone expects."""
    counted_s = (sentry.confirm_frames - 1) / (camera.fps or _USUAL_FPS)
    slow = "someone must be in view that long for an alarm"
    late = "that long passes before it is reported that the camera is not watched"
    for key, seconds, longest_s, effect in (
        ("sentry.confirm_frames", counted_s, 10, slow),
        ("sentry.confirm_s", sentry.confirm_s, 10, slow),
        ("sentry.unknown_s", sentry.unknown_s, 60, late),
        ("frozen_s", camera.frozen_s, 600, late),
    ):
        if seconds > longest_s:
            text = f"{seconds:.0f} s: {effect}"
            yield Finding(f"{subject}.{key}", "warning", text, f"lower {key}")
    if sentry.hold_s < sentry.unknown_s:
        yield Finding(
            f"{subject}.sentry.hold_s",
            "warning",
            f"{sentry.hold_s:g}, but the state is Unknown after {sentry.unknown_s:g} s without a result, so a visit "
            "ends as lost at once instead of being held",
            "raise hold_s",
        )


def _check_notify(config: Config) -> Iterator[Finding]:
    for target in config.notify:
        if silent := config.silent_classes(target):
            yield _fault(
                f"notify.{target.name}.classes",
                f"{', '.join(silent)}: in alarm.classes of none of its cameras, so never notified",
                "correct the name, or add it to alarm.classes",
            )


def _check_time_zone(config: Config) -> Iterator[Finding]:
    if config.has_schedules and (fault := time_zone_fault()):
        yield _fault(
            "TZ",
            fault,
            "set TZ to a name such as Europe/Berlin, or unset it for the machine's zone",
        )


def _check_secrets(config: Config) -> Iterator[Finding]:
    reads: list[tuple[str, Callable[[], object]]] = [
        ("mqtt.password_file", partial(mqtt_password, config)),
        ("gateway.token_file", partial(gateway_token, config)),
    ]
    files: list[tuple[str, Path | None]] = []
    if (file := config.triton.secret_file) is not None:
        reads.append(("triton.secret_file", partial(read_secret, file, "triton.secret_file")))
    if (tls := config.mqtt.tls) is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        reads.append(("mqtt.tls.ca_file", partial(trust_authorities, context, tls)))
        if tls.cert_file is not None:
            reads.append(("mqtt.tls.cert_file", partial(present_certificate, context, tls)))
        elif (file := tls.key_file) is not None:
            reads.append(("mqtt.tls.key_file", partial(read_secret, file, "mqtt.tls.key_file")))
    for name, camera in config.cameras.items():
        if (file := camera.credentials_file) is not None:
            key = f"cameras.{name}.credentials_file"
            reads.append((key, partial(camera_credentials, file)))
        files.append((f"cameras.{name}.tls_ca_file", camera.tls_ca_file))
    for target in config.notify:
        key = f"notify.{target.name}"
        reads.append((f"{key}.url_file", partial(notify_url, target.url_file)))
        if (file := target.secret_file) is not None:
            reads.append((f"{key}.secret_file", partial(signing_key, file)))
    for key, read in reads:
        try:
            read()
        except ConfigError as error:
            yield _fault(key, str(error), f"correct the file, or {key}")
    for key, path in files:
        if path is not None and not path.is_file():
            yield _fault(key, f"{path}: no such file", f"create the file, or correct {key}")


def _check_modes(config: Config) -> Iterator[Finding]:
    for key, path in _secret_files(config):
        if path is not None and _is_open_to_all(path):
            yield Finding(
                key,
                "warning",
                f"every user of this machine can read {path}",
                f"run `chmod 600 {path}`, as the user that runs tridetr",
            )


def _secret_files(config: Config) -> Iterator[tuple[str, Path | None]]:
    yield "mqtt.password_file", config.mqtt.password_file
    if config.mqtt.tls is not None:
        yield "mqtt.tls.key_file", config.mqtt.tls.key_file
    yield "gateway.token_file", config.gateway.token_file
    yield "triton.secret_file", config.triton.secret_file
    for name, camera in config.cameras.items():
        yield f"cameras.{name}.credentials_file", camera.credentials_file
    for target in config.notify:
        yield f"notify.{target.name}.url_file", target.url_file
        yield f"notify.{target.name}.secret_file", target.secret_file


def _is_open_to_all(path: Path) -> bool:
    """Return whether every user can read a file: by its mode, and by those of the folders that lead to it."""
    with contextlib.suppress(OSError, ValueError):
        file = path.resolve()
        reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in file.parents)
        return reachable and bool(file.stat().st_mode & stat.S_IROTH)
    return False


def _check_toy_model(config: Config) -> Iterator[Finding]:
    real = real_cameras_of_the_toy_model(config)
    if real:
        yield Finding(
            "model",
            "warning",
            f"the bundled demonstration model does not recognise people in {', '.join(real)}",
            "download a model with `tridetr models pull` and set model.file (docs/models.md)",
        )


def real_cameras_of_the_toy_model(config: Config) -> list[str]:
    """Return the names of real cameras on the bundled model, which only recognises drawn people.

    Empty if the configuration uses another model or an external server.
    """
    if config.model.file is not None or config.triton.url is not None:
        return []
    return [name for name, cam in config.cameras.items() if cam.source.kind != "synthetic"]
