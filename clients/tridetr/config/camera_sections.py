"""Camera sections of the configuration: source, detection filter, alarm and sentry timing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tridetr.config.schedule import WeeklyTime
from tridetr.config.section import Point, Score, Seconds, Section, area, require_polygon
from tridetr.config.source import CameraSource


class SentrySection(Section):
    """When an alarm is raised and cleared. Times are measured on the frames' timestamps."""

    confirm_frames: int = Field(
        3,
        ge=1,
        le=1000,
        description="Frames with a person before tracking starts; each frame without one subtracts one.",
    )
    confirm_s: float = Field(
        0.5,
        ge=0,
        le=60,
        description="Time with a person before tracking starts; confirm_frames must be reached too.",
    )
    clear_s: Seconds = Field(3.0, description="Time without a person before the all-clear.")
    unknown_s: Seconds = Field(5.0, description="Time without any result before Unknown.")
    hold_s: Seconds = Field(
        60.0, description="Time an open visit is kept while Unknown; after that it ends as lost."
    )
    standby_fps: float = Field(3.0, gt=0, le=120, description="Frame rate in standby.")
    standby_decode: Literal["all", "keyframes"] = Field(
        "all",
        description="What is decoded of an RTSP or HTTP camera in standby; keyframes saves CPU, but a person is only "
        "noticed at the next key frame.",
    )

    @property
    def longest_interval_s(self) -> float:
        """Longest average time between results with which a person is confirmed in ``confirm_s + unknown_s`` [s].

        A camera that is to deliver less often in standby may do so.
        """
        return max((self.confirm_s + self.unknown_s) / self.confirm_frames, 2 / self.standby_fps)


class DetectSection(Section):
    """What counts as a detection."""

    min_score: Score | None = Field(
        None, description="Lowest score that is published; null = the model's default."
    )
    classes: tuple[str, ...] = Field(
        (), description="Class names that are published; empty = all classes of the model."
    )
    motion_gate_s: float = Field(
        5.0,
        ge=0,
        le=60,
        description="In standby, the longest time without inference while the picture does not move; "
        "0 = run inference on every frame.",
    )

    @field_validator("min_score")
    @classmethod
    def _can_be_reached(cls, least: float | None) -> float | None:
        if least == 1:
            raise ValueError("1 means 100 %, which no detection reaches, so nothing is published")
        return least


class AlarmSection(Section):
    """Which detections raise a camera's alarm."""

    classes: tuple[str, ...] = Field(
        ("person",), min_length=1, description="Class names that raise the alarm."
    )
    min_score: Score | None = Field(
        None,
        description="Lowest score that raises the alarm; null = the camera's detect.min_score.",
    )
    min_area: float = Field(
        0.0, ge=0, le=1, description="Smallest box area, as a fraction of the frame."
    )
    zone: tuple[Point, ...] = Field(
        (),
        description="Polygon (at least 3 points) that must contain the middle of the box's lower edge.",
    )

    @field_validator("min_score", "min_area")
    @classmethod
    def _can_be_reached(cls, least: float | None) -> float | None:
        if least == 1:
            raise ValueError("1 means 100 %, which no detection reaches, so nothing ever alarms")
        return least

    @field_validator("zone")
    @classmethod
    def _zone_is_polygon(cls, zone: tuple[Point, ...]) -> tuple[Point, ...]:
        if zone and len(zone) < 3:
            raise ValueError("a zone needs at least 3 points, or none for the whole frame")
        require_polygon("zone", zone)
        if zone and max(area(zone[0], b, c) for b, c in itertools.combinations(zone, 2)) < 1e-4:
            raise ValueError(
                "the zone's points are on one line or almost in one place, so the zone has no area"
            )
        return zone


class ArmedSection(Section):
    """When notifications are sent. Detection, decisions and events do not depend on it."""

    schedule: tuple[WeeklyTime, ...] = Field(
        (),
        description="Weekly periods in which it is armed, in local time, such as `mon-fri 22:00-06:00`; a switch set "
        "by hand holds until the next period starts or ends. Empty = armed until switched off.",
    )


class CameraSection(Section):
    """One camera."""

    source: CameraSource = Field(
        description="/dev/videoN, rtsp(s)://…, http(s)://…, a video file, or `synthetic`; {user} and {password} in a "
        "URL are filled from credentials_file.",
    )
    view: CameraSource | None = Field(
        None,
        description="rtsp(s)://… or http(s)://…: a second stream of the same camera (its main stream), shown instead "
        "of that of `source` and opened only while a viewer watches; detection and recordings use `source`.",
    )
    width: int | None = Field(
        None, ge=16, le=8192, description="Requested width (V4L2, synthetic); null = the source's."
    )
    height: int | None = Field(
        None, ge=16, le=8192, description="Requested height (V4L2, synthetic); null = the source's."
    )
    fps: float | None = Field(
        None, gt=0, le=240, description="Frame rate limit when alarmed; null = the source's."
    )
    pixel_format: Literal["auto", "mjpeg", "yuyv", "nv12", "i420"] = Field(
        "auto", description="Pixel format requested from a V4L2 camera."
    )
    decode: Literal["cpu", "gpu"] = Field(
        "cpu",
        description="Where the MJPEG, H.264 or H.265 of a network or V4L2 camera is decoded: by capture, or by the "
        "gpu process.",
    )
    loop: bool = Field(
        True, description="Files: start again at the end; false = the camera ends there."
    )
    realtime: bool = Field(
        True,
        description="Files: false = every frame, as fast as the detector takes them, in media time.",
    )
    rtsp_transport: Literal["tcp", "udp"] = Field("tcp", description="RTSP over TCP or UDP.")
    credentials_file: Path | None = Field(
        None, description="File with `user:password` of a network camera, kept out of the URL."
    )
    tls_verify: bool = Field(
        True, description="Verify the certificate of an https or rtsps camera."
    )
    tls_ca_file: Path | None = Field(
        None, description="The camera's certificate or its CA (PEM); null = the system's CAs."
    )
    timeout_s: Seconds = Field(
        5.0, description="After this time without a frame the camera is offline and is reopened."
    )
    frozen_s: Seconds = Field(
        30.0, description="After this time without a new picture the camera is frozen."
    )
    max_pixels: int = Field(
        8_847_360,
        ge=256,
        le=16_384 * 16_384,
        description="Most pixels of a picture (default: 4096x2160). Larger ones are rejected, which bounds the "
        "camera's memory.",
    )
    blind_check: bool = Field(
        True,
        description="Detect a covered, dazzled, blurred or turned camera; false for cameras that move (PTZ).",
    )
    mask: tuple[tuple[Point, ...], ...] = Field(
        (),
        description="Polygons (at least 3 points each) that are painted grey before a frame leaves capture; the "
        "camera's own video and JPEGs are then not passed on.",
    )
    slots: int = Field(6, ge=4, le=64, description="Slots of the frame ring.")
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="Synthetic cameras: random seed of the scene."
    )
    scene: Literal["street", "hall"] = Field(
        "street", description="Synthetic cameras: the scene that is drawn."
    )
    detect: DetectSection | None = Field(
        None, description="Keys that override the common `detect`."
    )
    alarm: AlarmSection | None = Field(None, description="Keys that override the common `alarm`.")
    sentry: SentrySection | None = Field(
        None, description="Keys that override the common `sentry`."
    )
    armed: ArmedSection = Field(
        default_factory=ArmedSection,
        description="The camera's own switch, in addition to the node's.",
    )

    @field_validator("mask")
    @classmethod
    def _mask_is_polygons(
        cls, mask: tuple[tuple[Point, ...], ...]
    ) -> tuple[tuple[Point, ...], ...]:
        for polygon in mask:
            if len(polygon) < 3:
                raise ValueError(
                    f"each polygon of mask needs at least 3 points, but one has {len(polygon)}"
                )
            require_polygon("mask", polygon)
        return mask

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> CameraSection:
        if not self.realtime and self.source.kind != "file":
            raise ValueError("realtime: false is for video files only")
        if self.decode == "gpu" and self.mask:
            raise ValueError(
                "decode: gpu and mask cannot be combined: a masked camera's packets stay in its capture process"
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
                    f"{key} contains {{user}} or {{password}}: write `user:password` to a file and set "
                    "credentials_file to its path"
                )
        self._check_view()
        if self.credentials_file is not None and not self.source.is_network:
            raise ValueError("credentials_file is for rtsp and http sources only")
        if (self.width is None) != (self.height is None):
            raise ValueError("set both width and height, or neither")
        return self

    def _check_view(self) -> None:
        if self.view is None:
            return
        if self.mask:
            raise ValueError(
                "view and mask cannot be combined: packets cannot be masked, so a masked camera's video is not "
                "passed on. Remove view or mask"
            )
        if not (self.view.is_network and self.source.is_network):
            raise ValueError(
                "view is the main stream of a network camera whose substream is `source`: both must be rtsp(s)://… "
                "or http(s)://…"
            )
