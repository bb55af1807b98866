"""The configuration: one pydantic model, every key documented and bounded, unknown keys refused."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    field_validator,
    model_validator,
)

from tridetr.config.schedule import WeeklyTime
from tridetr.config.source import CameraSource
from tridetr.errors import ConfigError
from tridetr.paths import default_run_dir
from tridetr.shm.names import camera_name_fault

GPU_PROVIDERS = ("cuda", "tensorrt", "tensorrt-rtx")
DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Score = Annotated[float, Field(ge=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65_535)]
FrameAncestor = Annotated[str, Field(pattern=r"^(self|https?://[^\s/;,'\"]+)$")]
Point = Annotated[tuple[float, float], Field(description="x, y as fractions of the frame")]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen and checked."""

    # Deferred: built once, as parts of Config, in each of the node's processes.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)


class ModelSection(Section):
    """Which model serves the cameras."""

    name: Literal["rfdetr_ort", "rfdetr_trt"] = Field(
        "rfdetr_ort", description="Entry of the model repository: ONNX Runtime or TensorRT."
    )
    file: Path | None = Field(
        None,
        description="An ONNX of the contract (`tridetr models fuse`) instead of the bundled one.",
    )
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx"] = Field(
        "auto", description="ONNX Runtime execution provider; auto takes the fastest that works."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic inside the engine; auto decides by what the CPU or GPU has."
    )
    threads: int = Field(
        0, ge=0, le=256, description="Threads of one inference on the CPU; 0 = all cores."
    )


class TritonSection(Section):
    """The inference server: embedded by default, or an external one."""

    url: str | None = Field(
        None, description="host:port (gRPC) of an external Triton; null starts the embedded one."
    )
    server_dir: Path | None = Field(
        None,
        description="Folder of the server to start (bin/, backends/); null = NVIDIA's or the wheel's.",
    )
    secret_file: Path | None = Field(
        None,
        description="File with the key of Triton's restricted APIs; null = made afresh at start.",
    )
    infer_timeout_s: Seconds = Field(
        10.0, description="After this time without an answer the server counts as unhealthy."
    )
    metrics_port: Port = Field(
        8002, description="Triton's Prometheus port on loopback; 0 turns it off."
    )


class SentrySection(Section):
    """When a camera becomes alarmed and calm again (times are the frames' own)."""

    confirm_frames: int = Field(
        3,
        ge=1,
        le=1000,
        description="Frames with a person before tracking starts; each one without takes one back.",
    )
    confirm_s: float = Field(
        0.5, ge=0, le=60, description="Time with a person before tracking starts (both must hold)."
    )
    clear_s: Seconds = Field(3.0, description="Time without a person before the all-clear.")
    unknown_s: Seconds = Field(5.0, description="Time without any result before Unknown.")
    hold_s: Seconds = Field(
        60.0, description="Time that an open visit is kept while Unknown; then it ends as lost."
    )
    standby_fps: float = Field(3.0, gt=0, le=120, description="Frame rate while nobody is there.")
    standby_decode: Literal["all", "keyframes"] = Field(
        "all",
        description="What is decoded of an RTSP or HTTP camera while nobody is there; keyframes saves CPU, and "
        "notices a person at the next key frame only.",
    )


class DetectSection(Section):
    """What counts as a detection."""

    min_score: Score | None = Field(
        None, description="Least score that is published; null = the model's own default."
    )
    classes: tuple[str, ...] = Field(
        (), description="Class names that are published; empty = all that the model knows."
    )
    motion_gate_s: float = Field(
        5.0,
        ge=0,
        le=60,
        description="In standby, the longest time that a picture without motion goes without inference; "
        "0 = infer every frame.",
    )


class PacketsSection(Section):
    """How much of each camera's own video is kept in memory, for viewers and recordings."""

    seconds: float = Field(10.0, ge=1, le=60, description="Seconds of the stream to keep.")
    max_mib: float = Field(
        24.0, ge=1, le=1024, description="Most memory per camera for that, in /dev/shm."
    )


def _area(a: Point, b: Point, c: Point) -> float:
    """Return the area of a triangle."""
    return abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])) / 2


class EvidenceSection(Section):
    """What is kept on disk of each visit. Without this section nothing is."""

    pictures: bool = Field(True, description="Keep the best picture of each visit.")
    clips: bool = Field(True, description="Keep a video of each visit.")
    before_s: float = Field(
        5.0, ge=0, le=55, description="Seconds of video before the first detection."
    )
    after_s: float = Field(
        10.0, ge=0, le=300, description="Seconds of video after the last detection."
    )
    keep_days: float = Field(7.0, gt=0, le=3650, description="Days after which a visit is removed.")
    max_mib: float = Field(
        2048.0, ge=16, le=16_777_216, description="Most disk space; the oldest visits make room."
    )
    path: Path | None = Field(
        None, description="Folder of pictures and clips; null = `evidence` in state_dir."
    )


class AlarmSection(Section):
    """Which detections raise the alarm of a camera."""

    classes: tuple[str, ...] = Field(("person",), min_length=1, description="Names that alarm.")
    min_score: Score | None = Field(
        None, description="Least score that alarms; null = the camera's detect.min_score."
    )
    min_area: float = Field(
        0.0, ge=0, le=1, description="Least box area as a fraction of the frame."
    )
    zone: tuple[Point, ...] = Field(
        (),
        description="Polygon (at least 3 points) that the middle of the box's lower edge must be in.",
    )

    @field_validator("zone")
    @classmethod
    def _zone_is_polygon(cls, zone: tuple[Point, ...]) -> tuple[Point, ...]:
        if zone and len(zone) < 3:
            raise ValueError("a zone needs at least 3 points, or none for the whole frame")
        _require_fractions("zone", zone)
        if zone and max(_area(zone[0], b, c) for b, c in itertools.combinations(zone, 2)) < 1e-4:
            raise ValueError(
                "the zone's points lie on one line or nearly in one place, so nobody could ever stand in it"
            )
        return zone


class ArmedSection(Section):
    """When notifications are wanted; it decides who is notified, never what is decided."""

    schedule: tuple[WeeklyTime, ...] = Field(
        (),
        description="Weekly times in which it is armed, local time, such as `mon-fri 22:00-06:00`; a switch set by "
        "hand holds until the next begin or end. Empty = armed until it is switched off.",
    )


class NotifySection(Section):
    """One target of notifications."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$",
        description="Name in logs, metrics and `tridetr notify test`.",
    )
    kind: Literal["webhook", "ntfy", "apprise"] = Field(
        description="A signed JSON POST, a topic of ntfy, or any service that Apprise knows (extra `apprise`)."
    )
    url_file: Path = Field(
        description="File with the URL, which often is a secret: one line, read for each delivery."
    )
    secret_file: Path | None = Field(
        None,
        description="webhook: file with the key of the signature (Base64, `whsec_` before it or not).",
    )
    events: tuple[Literal["arrived", "left", "lost", "blind", "watched"], ...] = Field(
        ("arrived", "blind", "watched"),
        min_length=1,
        description="Which events of a visit, and of a camera that is not watched (blind) and is again (watched).",
    )
    cameras: tuple[str, ...] = Field((), description="Only these cameras; empty = all.")
    classes: tuple[str, ...] = Field(
        (),
        description="Only visits of these classes; empty = all. Cameras that are not watched are notified in any case.",
    )
    picture: bool = Field(True, description="Attach a picture of the visit.")
    when: Literal["armed", "always"] = Field(
        "armed", description="armed: only while the node and the camera are armed."
    )
    schedule: tuple[WeeklyTime, ...] = Field(
        (), description="Only at these weekly times (see armed.schedule); empty = at any time."
    )

    @model_validator(mode="after")
    def _secret_is_for_webhooks(self) -> NotifySection:
        if self.secret_file is not None and self.kind != "webhook":
            raise ValueError("secret_file is for kind: webhook only")
        return self


def _require_fractions(what: str, polygon: tuple[Point, ...]) -> None:
    for x, y in polygon:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"{what} point ({x}, {y}) is not within 0..1 (fractions of the frame)")


class CameraSection(Section):
    """One camera."""

    source: CameraSource = Field(
        description="/dev/videoN, rtsp(s)://…, http(s)://…, a video file, or `synthetic`; {user} and {password} in a "
        "URL are filled from credentials_file.",
    )
    view: CameraSource | None = Field(
        None,
        description="rtsp(s)://… or http(s)://…: a second stream of the same camera (its main stream), shown instead "
        "of that of `source` and opened only while somebody watches; detection and recordings use `source`.",
    )
    width: int | None = Field(
        None, ge=16, le=8192, description="Wanted width (V4L2, synthetic); null = the source's."
    )
    height: int | None = Field(None, ge=16, le=8192, description="Wanted height.")
    fps: float | None = Field(
        None, gt=0, le=240, description="Frame rate limit when alarmed; null = the source's."
    )
    pixel_format: Literal["auto", "mjpeg", "yuyv", "nv12", "i420"] = Field(
        "auto", description="What a V4L2 camera shall deliver."
    )
    decode: Literal["cpu", "gpu"] = Field(
        "cpu",
        description="Where the MJPEG, H.264 or H.265 of a network or V4L2 camera is decoded: by capture, or by the "
        "gpu process.",
    )
    loop: bool = Field(True, description="Files: start again at the end (false: the camera ends).")
    realtime: bool = Field(
        True,
        description="Files: false = as fast as the detector takes them, without loss, in media time.",
    )
    rtsp_transport: Literal["tcp", "udp"] = Field("tcp", description="RTSP over TCP or UDP.")
    credentials_file: Path | None = Field(
        None, description="File with `user:password` of a network camera, kept out of the URL."
    )
    tls_verify: bool = Field(
        True, description="Whether the certificate of an https or rtsps camera must be trusted."
    )
    tls_ca_file: Path | None = Field(
        None, description="The camera's certificate or its CA (PEM); null = the system's CAs."
    )
    timeout_s: Seconds = Field(
        5.0, description="No frame for that long: the camera is offline and is opened again."
    )
    frozen_s: Seconds = Field(
        30.0, description="The very same picture for that long: the camera is frozen."
    )
    max_pixels: int = Field(
        8_847_360,
        ge=256,
        le=16_384 * 16_384,
        description="Most pixels of a picture (4096x2160): a larger one is refused. Bounds the camera's memory.",
    )
    blind_check: bool = Field(
        True,
        description="Detect a covered, dazzled, blurred or turned camera; false for cameras that move (PTZ).",
    )
    mask: tuple[tuple[Point, ...], ...] = Field(
        (),
        description="Polygons (at least 3 points each) that are made grey before anything leaves capture; the "
        "camera's own video and JPEGs are then not passed on.",
    )
    slots: int = Field(6, ge=4, le=64, description="Slots of the frame ring.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Synthetic cameras: which world is drawn.")
    scene: Literal["street", "hall"] = Field("street", description="Synthetic cameras: the place.")
    detect: DetectSection | None = Field(
        None, description="Keys that differ from the common `detect`."
    )
    alarm: AlarmSection | None = Field(
        None, description="Keys that differ from the common `alarm`."
    )
    sentry: SentrySection | None = Field(
        None, description="Keys that differ from the common `sentry`."
    )
    armed: ArmedSection = Field(
        default_factory=ArmedSection, description="The camera's own switch, next to the node's."
    )

    @field_validator("mask")
    @classmethod
    def _mask_is_polygons(
        cls, mask: tuple[tuple[Point, ...], ...]
    ) -> tuple[tuple[Point, ...], ...]:
        for polygon in mask:
            if len(polygon) < 3:
                raise ValueError(f"a polygon of a mask needs at least 3 points, not {len(polygon)}")
            _require_fractions("mask", polygon)
        return mask

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> CameraSection:
        if not self.realtime and self.source.kind != "file":
            raise ValueError("realtime: false is for video files only")
        if self.decode == "gpu" and self.mask:
            raise ValueError(
                "decode: gpu and mask exclude each other: a masked camera's packets stay in its capture process"
            )
        if self.decode == "gpu" and not (
            self.source.is_network
            or (self.source.kind == "v4l2" and self.pixel_format in ("auto", "mjpeg"))
        ):
            raise ValueError(
                "decode: gpu is for network cameras and for V4L2 cameras with pixel_format: mjpeg"
            )
        for key, source in (("source", self.source), ("view", self.view)):
            if source is not None and source.needs_credentials and self.credentials_file is None:
                raise ValueError(
                    f"{key} has {{user}} or {{password}}: put `user:password` into a file and name it in "
                    "credentials_file"
                )
        self._check_view()
        if self.credentials_file is not None and not self.source.is_network:
            raise ValueError("credentials_file is for rtsp and http sources only")
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height belong together: give both or none")
        return self

    def _check_view(self) -> None:
        if self.view is None:
            return
        if self.mask:
            raise ValueError(
                "view and mask exclude each other: packets of the camera cannot be masked, so a masked camera's "
                "video is not passed on. Remove view, or the mask"
            )
        if not (self.view.is_network and self.source.is_network):
            raise ValueError(
                "view is the main stream of a network camera whose substream is `source`: both must be rtsp(s)://… "
                "or http(s)://…"
            )


class TlsSection(Section):
    """TLS to the broker."""

    ca_file: Path | None = Field(None, description="CA certificates; null = the system's.")
    cert_file: Path | None = Field(None, description="Client certificate.")
    key_file: Path | None = Field(None, description="Key of the client certificate.")


class MqttSection(Section):
    """The MQTT broker and the topics."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="Broker host; `embedded` starts one with tridetr up."
    )
    port: Port = Field(1883, description="Broker port; 0 with `embedded` = a free one.")
    username: str | None = Field(None, description="User name at the broker.")
    password_file: Path | None = Field(
        None, description="File with the password (or set TRIDETR_MQTT_PASSWORD)."
    )
    tls: TlsSection | None = Field(None, description="TLS; `{}` for the system's CAs.")
    prefix: str = Field(
        "tridetr", pattern=r"^[^#+/\s][^#+\s]{0,99}$", description="First part of all topics."
    )
    device: str | None = Field(None, description="Second part of all topics; null = host name.")
    discovery_prefix: str | None = Field(
        "homeassistant",
        pattern=r"^[^#+/\s]([^#+\s]{0,98}[^#+/\s])?$",
        description="Home Assistant discovery; null turns it off.",
    )
    pictures: bool = Field(
        False,
        description="Publish the picture of each visit, retained, where `evidence` keeps one.",
    )
    keepalive_s: int = Field(30, ge=5, le=3600, description="MQTT keep-alive.")
    outbox_limit: int = Field(
        10_000, ge=100, le=1_000_000, description="Events kept while the broker is away."
    )

    @field_validator("device")
    @classmethod
    def _device_is_a_topic_level(cls, device: str | None) -> str | None:
        if device is not None and not DEVICE_NAME.fullmatch(device):
            raise ValueError("device may hold letters, digits, '_' and '-' only (at most 64)")
        return device


class GatewaySection(Section):
    """The web viewer."""

    host: str = Field("127.0.0.1", description="Address to listen on (0.0.0.0: everybody).")
    port: Port = Field(8080, description="Port of the viewer; 0 = a free one.")
    token_file: Path | None = Field(
        None, description="File with a bearer token that all but /healthz and /readyz ask for."
    )
    allowed_origins: tuple[str, ...] = Field(
        (), description="Further origins that may open the WebSocket (its own is always allowed)."
    )
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="Addresses or networks of reverse proxies whose X-Forwarded-For and -Host headers are believed.",
    )
    frame_ancestors: tuple[FrameAncestor, ...] = Field(
        (),
        description="Origins whose pages may show the viewer in a frame; `self` = its own origin.",
    )
    max_viewers: int = Field(64, ge=1, le=10_000, description="WebSockets at the same time.")
    jpeg_quality: int = Field(80, ge=10, le=95, description="Quality where frames are encoded.")
    max_fps: float = Field(30.0, gt=0, le=120, description="Frames per second to one viewer.")


class OtelSection(Section):
    """OpenTelemetry traces (extra `otel`)."""

    endpoint: str | None = Field(
        None, description="OTLP/HTTP endpoint, such as http://127.0.0.1:4318; null = off."
    )
    sample_ratio: float = Field(0.01, ge=0, le=1, description="Share of frames that are traced.")


class LogSection(Section):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level.")
    format: Literal["text", "json"] = Field("text", description="text for people, json for Loki.")


class Config(Section):
    """The whole configuration of one node."""

    instance: str = Field(
        "default",
        pattern=r"^[a-z0-9]{1,16}$",
        description="Keeps two pipelines on one machine apart (segments, queues, folders).",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where frames and model live; auto takes a GPU where there is one."
    )
    model: ModelSection = Field(default_factory=ModelSection)
    triton: TritonSection = Field(default_factory=TritonSection)
    detect: DetectSection = Field(default_factory=DetectSection)
    alarm: AlarmSection = Field(default_factory=AlarmSection)
    sentry: SentrySection = Field(default_factory=SentrySection)
    cameras: dict[str, CameraSection] = Field(min_length=1, max_length=64)
    packets: PacketsSection = Field(default_factory=PacketsSection)
    evidence: EvidenceSection | None = Field(
        None,
        description="Pictures and clips of visits on disk (`{}` with the defaults); null = nothing is written.",
    )
    mqtt: MqttSection = Field(default_factory=MqttSection)
    armed: ArmedSection = Field(default_factory=ArmedSection)
    notify: tuple[NotifySection, ...] = Field((), max_length=16)
    gateway: GatewaySection = Field(default_factory=GatewaySection)
    otel: OtelSection = Field(default_factory=OtelSection)
    log: LogSection = Field(default_factory=LogSection)
    run_dir: Path = Field(
        default_factory=lambda data: default_run_dir(data.get("instance", "default")),
        description="Files that live as long as the run: secrets, rendered models, metrics.",
    )
    state_dir: Path = Field(
        default_factory=lambda data: _default_state_dir(data.get("instance", "default")),
        description="Files that survive: the outbox and the sentry state.",
    )

    @field_validator("cameras")
    @classmethod
    def _camera_names(cls, cameras: dict[str, CameraSection]) -> dict[str, CameraSection]:
        for name in cameras:
            if fault := camera_name_fault(name):
                raise ValueError(fault)
        return cameras

    @model_validator(mode="after")
    def _targets_fit(self) -> Config:
        names = [target.name for target in self.notify]
        if double := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"notify: two targets are named {double[0]!r}")
        for target in self.notify:
            if unknown := [name for name in target.cameras if name not in self.cameras]:
                raise ValueError(
                    f"notify: {target.name}: unknown camera {unknown[0]!r}: {', '.join(self.cameras)}"
                )
        return self

    @model_validator(mode="after")
    def _packets_hold_the_pre_roll(self) -> Config:
        if self.evidence is None or not self.evidence.clips:
            return self
        confirm_s = max(self.sentry_for(name).confirm_s for name in self.cameras)
        least = self.evidence.before_s + confirm_s + 1
        if self.packets.seconds < least:
            raise ValueError(
                f"packets.seconds ({self.packets.seconds:g}) is too short for clips that begin evidence.before_s "
                f"({self.evidence.before_s:g}) before a visit: set it to {least:g} or more"
            )
        return self

    @model_validator(mode="after")
    def _device_suits_the_model(self) -> Config:
        if self.triton.url is not None:
            return self  # another machine's server: `device` is about this one's frames
        provider = self.model.provider
        engine = self.model.name == "rfdetr_trt"
        asked = "model.name: rfdetr_trt" if engine else f"model.provider: {provider}"
        if self.device == "cpu" and (engine or provider in GPU_PROVIDERS):
            raise ValueError(
                f"{asked} runs on a GPU only, and device: cpu forbids that. Remedy: device: auto"
            )
        if self.device == "cuda" and provider in ("cpu", "openvino"):
            raise ValueError(
                f"model.provider: {provider} runs on the CPU, and device: cuda forbids that. Remedy: device: auto"
            )
        return self

    @property
    def evidence_dir(self) -> Path | None:
        """Where pictures and clips of visits are; None = none are kept."""
        section = self.evidence
        if section is None or not (section.pictures or section.clips):
            return None
        return section.path or self.state_dir / "evidence"

    def detect_for(self, camera: str) -> DetectSection:
        """Return what counts as a detection of this camera."""
        return _merged(self.detect, self.cameras[camera].detect)

    def alarm_for(self, camera: str) -> AlarmSection:
        """Return which detections alarm this camera."""
        return _merged(self.alarm, self.cameras[camera].alarm)

    def sentry_for(self, camera: str) -> SentrySection:
        """Return the sentry keys of this camera."""
        return _merged(self.sentry, self.cameras[camera].sentry)

    def with_merged_sections(self) -> Config:
        """Return the same with each camera's own sections complete (see `detect_for`)."""
        cameras = {
            name: camera.model_copy(
                update={
                    "detect": camera.detect and self.detect_for(name),
                    "alarm": camera.alarm and self.alarm_for(name),
                    "sentry": camera.sentry and self.sentry_for(name),
                }
            )
            for name, camera in self.cameras.items()
        }
        return self.model_copy(update={"cameras": cameras})


_AnySection = TypeVar("_AnySection", bound=Section)


def _merged(common: _AnySection, own: _AnySection | None) -> _AnySection:
    """Return a common section with the keys that a camera sets itself."""
    if own is None:
        return common
    return common.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def _default_state_dir(instance: str) -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    if base:
        return Path(base) / "tridetr" / instance
    try:
        return Path.home() / ".local" / "state" / "tridetr" / instance
    except RuntimeError:
        raise ConfigError(
            "state_dir: this user has no home folder; set state_dir, or HOME in the environment"
        ) from None
