"""Draw people: a jointed figure in three dimensions, dressed at random, walking, from any side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tridetr_demo.scene.appearance import PersonStyle
from tridetr_demo.scene.pen import Pen, Point, crop_to_content, light_from_side, shade


@dataclass(frozen=True)
class _Joint:
    """A point of the body: forward, to its left, and down, in body heights."""

    forward: float
    left: float
    down: float


class _Figure:
    """Draws one pose: projects joints to the picture and collects the parts to draw them back to front."""

    def __init__(self, style: PersonStyle, phase: float, yaw: float, stride: float) -> None:
        self.style, self.phase, self.stride = style, phase, stride
        self.sin, self.cos = math.sin(yaw), math.cos(yaw)

    def at(self, joint: _Joint) -> Point:
        return joint.forward * self.sin + joint.left * self.cos, joint.down

    def depth(self, joint: _Joint) -> float:
        return joint.forward * self.cos - joint.left * self.sin

    def wide(self, across: float, along: float) -> float:
        """Return half the projected width of a body part, given its half widths across and along the body."""
        return math.hypot(across * self.cos, along * self.sin)

    def leg(self, pen: Pen, side: int) -> None:
        s, b = self.style, self.style.build
        angle = 0.5 * self.stride * math.sin(self.phase + (0.0 if side > 0 else math.pi))
        swing = math.cos(self.phase + (0.0 if side > 0 else math.pi))
        bend = self.stride * (0.12 + 0.75 * max(0.0, swing))
        left = side * 0.047 * b
        hip = _Joint(0.0, left, 0.5)
        knee = _Joint(0.245 * math.sin(angle), left, 0.5 + 0.245 * math.cos(angle))
        shin = angle - bend
        ankle = _Joint(
            knee.forward + 0.225 * math.sin(shin), left, knee.down + 0.225 * math.cos(shin)
        )
        toe = _Joint(ankle.forward + 0.075, left, ankle.down + 0.014 - 0.04 * math.sin(shin))
        near = 1.0 if self.depth(hip) >= 0 else 0.8
        cloth, skin = shade(s.bottom, near), shade(s.skin, near)
        lower = skin if s.bottom_kind in ("shorts", "skirt") else cloth
        loose = 1.0 if lower == skin else 1.25
        pen.capsule(self.at(ankle), self.at(toe), 0.022, 0.019, shade(s.shoes, near))
        pen.capsule(self.at(knee), self.at(ankle), 0.033 * b * loose, 0.021 * b * loose, lower)
        pen.capsule(self.at(hip), self.at(knee), 0.052 * b, 0.038 * b, cloth)

    def arm(self, pen: Pen, side: int) -> None:
        s, b = self.style, self.style.build
        angle = -0.42 * self.stride * math.sin(self.phase + (0.0 if side > 0 else math.pi))
        shoulder = _Joint(0.0, side * 0.103 * b, 0.195)
        out = side * 0.02
        elbow = _Joint(
            0.155 * math.sin(angle), shoulder.left + out, 0.195 + 0.155 * math.cos(angle)
        )
        fore = angle + 0.25 + 0.2 * self.stride
        hand = _Joint(
            elbow.forward + 0.14 * math.sin(fore), elbow.left, elbow.down + 0.14 * math.cos(fore)
        )
        near = 1.06 if self.depth(shoulder) >= 0 else 0.78
        sleeve, skin = shade(s.top, near), shade(s.skin, near)
        lower = skin if s.top_kind in ("tee", "stripes") else sleeve
        pen.capsule(self.at(elbow), self.at(hand), 0.025 * b, 0.019, lower)
        pen.ellipse(self.at(hand), 0.022, 0.024, skin)
        pen.capsule(self.at(shoulder), self.at(elbow), 0.034 * b, 0.028 * b, sleeve)
        if s.bag_kind == "handbag" and side > 0:
            x, y = self.at(hand)
            pen.rounded((x - 0.05, y + 0.035), (x + 0.05, y + 0.12), 0.012, shade(s.bag, near))
            pen.line([(x - 0.03, y + 0.04), (x, y), (x + 0.03, y + 0.04)], 0.008, shade(s.bag, 0.7))

    def torso(self, pen: Pen) -> None:
        s, b = self.style, self.style.build
        shoulders = self.wide(0.112 * b, 0.06 * b)
        waist = self.wide(0.088 * b, 0.06 * b)
        hips = self.wide(0.096 * b, 0.07 * b)
        hem = {"coat": 0.66, "jumper": 0.53}.get(s.top_kind, 0.51)
        if s.bottom_kind == "skirt":
            flare = hips * 1.35
            pen.polygon([(-hips, 0.48), (hips, 0.48), (flare, 0.68), (-flare, 0.68)], s.bottom)
        else:
            pen.rounded((-hips, 0.46), (hips, 0.57), 0.03, s.bottom)
        outline = [(-shoulders * 0.55, 0.155), (shoulders * 0.55, 0.155), (shoulders, 0.185), (waist, 0.36),
                   (hips * 1.06, hem), (-hips * 1.06, hem), (-waist, 0.36), (-shoulders, 0.185)]  # fmt: skip
        pen.polygon(outline, s.top)
        if s.top_kind == "stripes":
            for row in range(5):
                y = 0.21 + row * 0.06
                pen.polygon(
                    [(-waist, y), (waist, y), (waist, y + 0.022), (-waist, y + 0.022)], s.inner
                )
        if s.top_kind in ("open", "coat") and self.cos > 0.2:
            pen.polygon([(-0.022, 0.155), (0.022, 0.155), (0.034, hem), (-0.034, hem)], s.inner)

    def backpack(self, pen: Pen) -> None:
        x, _ = self.at(_Joint(-0.095, 0.0, 0.0))
        half = self.wide(0.085, 0.05)
        pen.rounded((x - half, 0.18), (x + half, 0.40), 0.03, self.style.bag)
        pen.rounded(
            (x - half * 0.7, 0.29), (x + half * 0.7, 0.385), 0.02, shade(self.style.bag, 0.85)
        )

    def head(self, pen: Pen) -> None:
        s = self.style
        front, facing = self.sin, self.cos
        bob = 0.004 * math.cos(2 * self.phase) * self.stride
        x, y = 0.012 * front, 0.073 + bob
        half = self.wide(0.05, 0.058)
        pen.capsule((0.0, 0.11), (0.0, 0.165), 0.027, 0.031, shade(s.skin, 0.85))
        if s.hair_kind == "long":
            pen.rounded(
                (x - half * 1.12 - 0.02 * front, 0.03),
                (x + half * 1.12 - 0.02 * front, 0.2),
                0.04,
                shade(s.hair, 0.85),
            )
        pen.ellipse((x, y), half, 0.067, s.skin)
        if facing > -0.25:  # the face: eyes and mouth towards the side it looks to
            for eye in (-1, 1):
                ex = x + front * 0.038 + eye * 0.02 * facing
                pen.ellipse((ex, y - 0.002), 0.006, 0.006, (34, 26, 24))
            mouth = x + front * 0.036
            pen.line(
                [(mouth - 0.012, y + 0.034), (mouth + 0.012, y + 0.034)], 0.006, shade(s.skin, 0.65)
            )
        if abs(front) > 0.4:
            pen.ellipse((x + math.copysign(half, front), y + 0.012), 0.011, 0.011, s.skin)
        self._hair_and_hat(pen, x, y, half)

    def _hair_and_hat(self, pen: Pen, x: float, y: float, half: float) -> None:
        s, front = self.style, self.sin
        back_of_head = self.cos < -0.25
        if s.hair_kind != "bald":
            low = 0.045 if back_of_head else -0.018
            dome = [
                (x + half * 1.1 * math.cos(a), y - 0.012 + 0.062 * -math.sin(a))
                for a in np.linspace(0, math.pi, 12)
            ]
            pen.polygon([*dome, (x - half * 1.08, y + low), (x + half * 1.08, y + low)], s.hair)
            if abs(front) > 0.3:  # the side view shows the back of the hair
                rear = x - math.copysign(half * 0.75, front)
                pen.ellipse((rear, y - 0.004), half * 0.45, 0.05, s.hair)
            if s.hair_kind == "bun":
                pen.ellipse((x - 0.05 * front, 0.008), 0.027, 0.024, s.hair)
        cap = s.bag if s.hat_kind == "cap" else s.inner
        if s.hat_kind in ("cap", "beanie"):
            dome = [
                (x + half * 1.14 * math.cos(a), y - 0.02 - 0.058 * math.sin(a))
                for a in np.linspace(0, math.pi, 12)
            ]
            pen.polygon(dome, cap)
            if s.hat_kind == "cap" and not back_of_head:
                peak = x + front * 0.07
                pen.line([(x, y - 0.02), (peak, y - 0.018)], 0.014, shade(cap, 0.8))
            if s.hat_kind == "beanie":
                pen.rounded(
                    (x - half * 1.16, y - 0.036),
                    (x + half * 1.16, y - 0.012),
                    0.01,
                    shade(cap, 0.85),
                )
        if s.hat_kind == "hood":
            rear = x - 0.022 * front
            pen.ring((rear, y), half * 1.3, 0.022, s.top)


def draw_person(
    style: PersonStyle,
    height: int,
    *,
    phase: float,
    yaw: float,
    stride: float = 1.0,
    light: float = 0.0,
) -> NDArray[np.uint8]:
    """Draw one pose.

    Args:
        style: Appearance of the person.
        height: Nominal body height in pixels; the sprite is cropped to the visible part.
        phase: Position in the walk cycle, 0..2π.
        yaw: Heading: 0 towards the viewer, π/2 to the right, π away, -π/2 to the left.
        stride: 0 stands, 1 walks, 1.4 runs.
        light: Side that the light comes from, -1 left .. 1 right.

    Returns:
        RGBA sprite, uint8 [h, w, 4], tight around the figure.
    """
    width = int(height * 0.95) + 4
    pen = Pen((width, int(height * 1.08) + 4), height, (width / 2, height * 0.03 + 2))
    figure = _Figure(style, phase, yaw, stride)
    far = 1 if figure.depth(_Joint(0.0, 1.0, 0.0)) < 0 else -1
    pack = style.bag_kind == "backpack"
    if pack and figure.cos >= -0.1:
        figure.backpack(pen)
    figure.arm(pen, far)
    figure.leg(pen, far)
    figure.leg(pen, -far)
    figure.torso(pen)
    if pack and figure.cos < -0.1:
        figure.backpack(pen)
    figure.head(pen)
    figure.arm(pen, -far)
    return light_from_side(crop_to_content(pen.finish()), light)
