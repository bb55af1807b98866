"""The configuration as one pydantic model: every key is documented and bounded, unknown keys are errors."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from tridetr.config.camera_sections import (
    AlarmSection,
    ArmedSection,
    CameraSection,
    DetectSection,
    SentrySection,
)
from tridetr.config.node_sections import (
    EvidenceSection,
    GatewaySection,
    LogSection,
    ModelSection,
    MqttSection,
    NotifySection,
    OtelSection,
    PacketsSection,
    TritonSection,
)
from tridetr.config.section import Section
from tridetr.errors import ConfigError
from tridetr.paths import default_run_dir
from tridetr.polygons import is_hidden
from tridetr.shm.names import camera_name_fault

GPU_PROVIDERS = ("cuda", "tensorrt", "tensorrt-rtx")


class Config(Section):
    """The whole configuration of one node."""

    instance: str = Field(
        "default",
        pattern=r"^[a-z0-9]{1,16}$",
        description="Separates several nodes on one machine: part of the names of segments, queues and folders.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where frames and model are held; auto uses a GPU if there is one."
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
        description="Folder for files of one run: secrets, rendered models, metrics.",
    )
    state_dir: Path = Field(
        default_factory=lambda data: _default_state_dir(data.get("instance", "default")),
        description="Folder for files that outlive a run: the outbox and the sentry state.",
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
            raise ValueError(
                f"notify: two targets have the name {double[0]!r}; give each its own name"
            )
        for target in self.notify:
            if unknown := [name for name in target.cameras if name not in self.cameras]:
                raise ValueError(
                    f"notify: {target.name}: unknown camera {unknown[0]!r}; known cameras: {', '.join(self.cameras)}"
                )
        return self

    @model_validator(mode="after")
    def _masks_leave_something_to_watch(self) -> Config:
        for name, camera in self.cameras.items():
            if camera.mask and is_hidden((), camera.mask):
                raise ValueError(
                    f"cameras.{name}.mask covers the whole picture, or all but strips of less than 1/64 of its width "
                    "or 1/36 of its height, so nothing is ever detected. "
                    "A mask lists the parts to hide; for the part to watch, use alarm.zone"
                )
            zone = self.alarm_for(name).zone
            if camera.mask and zone and is_hidden(zone, camera.mask):
                raise ValueError(
                    f"cameras.{name}.mask covers the whole of alarm.zone, or all but strips of less than 1/64 of its "
                    "width or 1/36 of its height, so nothing ever alarms. "
                    "Make one of them smaller"
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
            return self  # an external server: `device` only concerns the frames here
        provider = self.model.provider
        engine = self.model.name == "rfdetr_trt"
        asked = "model.name: rfdetr_trt" if engine else f"model.provider: {provider}"
        if self.device == "cpu" and (engine or provider in GPU_PROVIDERS):
            raise ValueError(f"{asked} needs a GPU, but device: cpu rules it out. Set device: auto")
        if self.device == "cuda" and provider in ("cpu", "openvino"):
            raise ValueError(
                f"model.provider: {provider} runs on the CPU, but device: cuda rules that out. Set device: auto"
            )
        return self

    @property
    def frame_sizes(self) -> Counter[tuple[int, int]]:
        """Number of cameras per configured size (width, height), cropped to even; other sizes are not known yet."""
        return Counter(
            (camera.width & ~1, camera.height & ~1)
            for camera in self.cameras.values()
            if camera.width and camera.height
        )

    @property
    def has_schedules(self) -> bool:
        """Whether anything is switched by the time of day."""
        armed = [self.armed, *(camera.armed for camera in self.cameras.values())]
        return any(
            [*(part.schedule for part in armed), *(target.schedule for target in self.notify)]
        )

    @property
    def evidence_dir(self) -> Path | None:
        """Folder of pictures and clips of visits; None if none are kept."""
        section = self.evidence
        if section is None or not (section.pictures or section.clips):
            return None
        return section.path or self.state_dir / "evidence"

    def detect_for(self, camera: str) -> DetectSection:
        """Return the `detect` section of a camera: the common one with the camera's own keys."""
        return _merged(self.detect, self.cameras[camera].detect)

    def alarm_for(self, camera: str) -> AlarmSection:
        """Return the `alarm` section of a camera: the common one with the camera's own keys."""
        return _merged(self.alarm, self.cameras[camera].alarm)

    def unpublished_classes(self, camera: str) -> tuple[str, ...]:
        """Return the classes that should alarm, but that `detect.classes` leaves out, so that they never do."""
        published = self.detect_for(camera).classes
        wanted = self.alarm_for(camera).classes
        return tuple(name for name in wanted if published and name not in published)

    def silent_classes(self, target: NotifySection) -> tuple[str, ...]:
        """Return the classes of a target of notifications that alarm at none of its cameras."""
        cameras = target.cameras or tuple(self.cameras)
        alarming = {name for camera in cameras for name in self.alarm_for(camera).classes}
        return tuple(name for name in target.classes if name not in alarming)

    def sentry_for(self, camera: str) -> SentrySection:
        """Return the `sentry` section of a camera: the common one with the camera's own keys."""
        return _merged(self.sentry, self.cameras[camera].sentry)

    def with_merged_sections(self) -> Config:
        """Return a copy in which the sections that cameras override are complete (see `detect_for`)."""
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
    """Return the common section, overridden by the keys that the camera sets."""
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
