"""Node sections of the configuration: model, inference server, broker, viewer, notifications, evidence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork, field_validator, model_validator

from tridetr.config.schedule import WeeklyTime
from tridetr.config.section import Port, Seconds, Section

DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

FrameAncestor = Annotated[str, Field(pattern=r"^(self|https?://[^\s/;,'\"]+)$")]


class ModelSection(Section):
    """The model and how it is run."""

    name: Literal["rfdetr_ort", "rfdetr_trt"] = Field(
        "rfdetr_ort", description="Entry of the model repository: ONNX Runtime or TensorRT."
    )
    file: Path | None = Field(
        None,
        description="ONNX file that follows tridetr's model contract (made by `tridetr models fuse`); null = the "
        "bundled model.",
    )
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx"] = Field(
        "auto",
        description="ONNX Runtime execution provider; auto selects the fastest that works.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic inside the engine; auto chooses by what the CPU or GPU supports.",
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
        description="File with the key of Triton's restricted APIs; null = generated at each start.",
    )
    infer_timeout_s: Seconds = Field(
        10.0, description="After this time without an answer the server counts as unhealthy."
    )
    metrics_port: Port = Field(
        0,
        description="Loopback port of Triton's own metrics, for every user of the machine; 0 = a private socket.",
    )

    @field_validator("url")
    @classmethod
    def _url_has_no_login(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith("unix:") and ("@" in url or "/" in url):
            raise ValueError("write host:port of the server's gRPC port, without a scheme or user")
        return url


class PacketsSection(Section):
    """How much of each camera's own video is kept in memory, for viewers and recordings."""

    seconds: float = Field(10.0, ge=1, le=60, description="Seconds of the stream to keep.")
    max_mib: float = Field(
        24.0, ge=1, le=1024, description="Most memory per camera for it, in /dev/shm."
    )


class EvidenceSection(Section):
    """What is kept on disk of each visit. Without this section, nothing is kept."""

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
        2048.0,
        ge=16,
        le=16_777_216,
        description="Most disk space; the oldest visits are removed to stay below it.",
    )
    path: Path | None = Field(
        None, description="Folder of pictures and clips; null = `evidence` in state_dir."
    )


class NotifySection(Section):
    """One notification target."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$",
        description="Name in logs, metrics and `tridetr notify test`.",
    )
    kind: Literal["webhook", "ntfy", "apprise"] = Field(
        description="A signed JSON POST, an ntfy topic, or any service that Apprise supports (extra `apprise`)."
    )
    url_file: Path = Field(
        description="File with the URL, which is often secret: one line, read for each delivery."
    )
    secret_file: Path | None = Field(
        None,
        description="webhook: file with the signing key (Base64, with or without the prefix `whsec_`).",
    )
    events: tuple[Literal["arrived", "left", "lost", "blind", "watched"], ...] = Field(
        ("arrived", "blind", "watched"),
        min_length=1,
        description="Events to notify: of a visit (arrived, left, lost), and of a camera that is no longer watched "
        "(blind) or is watched again (watched).",
    )
    cameras: tuple[str, ...] = Field((), description="Only these cameras; empty = all.")
    classes: tuple[str, ...] = Field(
        (),
        description="Only visits of these classes; empty = all. The events blind and watched are sent in any case.",
    )
    picture: bool = Field(True, description="Attach a picture of the visit.")
    when: Literal["armed", "always"] = Field(
        "armed", description="armed: only while the node and the camera are armed."
    )
    schedule: tuple[WeeklyTime, ...] = Field(
        (), description="Only in these weekly periods (see armed.schedule); empty = at any time."
    )

    @model_validator(mode="after")
    def _secret_is_for_webhooks(self) -> NotifySection:
        if self.secret_file is not None and self.kind != "webhook":
            raise ValueError("secret_file is for kind: webhook only")
        return self


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
    device: str | None = Field(
        None, description="Second part of all topics; null = TRIDETR_MQTT_DEVICE, or the host name."
    )
    discovery_prefix: str | None = Field(
        "homeassistant",
        pattern=r"^[^#+/\s]([^#+\s]{0,98}[^#+/\s])?$",
        description="Home Assistant discovery; null turns it off.",
    )
    pictures: bool = Field(
        False,
        description="Publish the picture of each visit, retained, where `evidence` keeps one; not with `embedded`.",
    )
    keepalive_s: int = Field(30, ge=5, le=3600, description="MQTT keep-alive.")
    outbox_limit: int = Field(
        10_000, ge=100, le=1_000_000, description="Events kept while the broker is unavailable."
    )

    @field_validator("host")
    @classmethod
    def _host_is_no_url(cls, host: str) -> str:
        if "@" in host or "/" in host:
            raise ValueError(
                "write only the broker's host name or address; its port, user and password belong in mqtt.port, "
                "mqtt.username and mqtt.password_file, and mqtt.tls turns TLS on"
            )
        return host

    @model_validator(mode="after")
    def _pictures_need_logins(self) -> MqttSection:
        if self.pictures and self.host == "embedded":
            raise ValueError(
                "pictures: true would let every user of the machine read the pictures, because the embedded broker has "
                "no passwords. Run a broker with accounts and set mqtt.host to it, or remove mqtt.pictures"
            )
        return self

    @field_validator("device")
    @classmethod
    def _device_is_a_topic_level(cls, device: str | None) -> str | None:
        if device is not None and not DEVICE_NAME.fullmatch(device):
            raise ValueError(
                "device must be 1 to 64 letters, digits, '_' or '-', and start with a letter or digit"
            )
        return device


class GatewaySection(Section):
    """The web viewer."""

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; 0.0.0.0 = all interfaces, open to the network.",
    )
    port: Port = Field(8080, description="Port of the viewer; 0 = a free one.")
    token_file: Path | None = Field(
        None,
        description="File with a bearer token, required for all paths but /healthz and /readyz.",
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="Further origins that may open the WebSocket (its own is always allowed).",
    )
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="Addresses or networks of reverse proxies whose X-Forwarded-For and -Host headers are trusted.",
    )
    frame_ancestors: tuple[FrameAncestor, ...] = Field(
        (),
        description="Origins whose pages may show the viewer in a frame; `self` = its own origin.",
    )
    max_viewers: int = Field(64, ge=1, le=10_000, description="Most WebSockets at the same time.")
    jpeg_quality: int = Field(
        80, ge=10, le=95, description="JPEG quality of frames that the gateway encodes."
    )
    max_fps: float = Field(30.0, gt=0, le=120, description="Most frames per second to one viewer.")


class OtelSection(Section):
    """OpenTelemetry traces (extra `otel`)."""

    endpoint: str | None = Field(
        None, description="OTLP/HTTP endpoint, such as http://127.0.0.1:4318; null = off."
    )
    sample_ratio: float = Field(0.01, ge=0, le=1, description="Share of frames that are traced.")

    @field_validator("endpoint")
    @classmethod
    def _endpoint_has_no_secret(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        try:
            parts = urlsplit(endpoint)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write a URL such as http://127.0.0.1:4318")
        if "@" in endpoint or parts.query:
            raise ValueError(
                "the endpoint's user, password or token would be logged: set it in the environment variable "
                "OTEL_EXPORTER_OTLP_HEADERS instead"
            )
        return endpoint


class LogSection(Section):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged."
    )
    format: Literal["text", "json"] = Field("text", description="text for people, json for Loki.")
