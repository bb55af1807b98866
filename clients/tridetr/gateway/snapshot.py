"""Take still pictures, optionally with the detections drawn."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tridetr import jpeg
from tridetr.gateway import facts
from tridetr.gateway.feed import encode_lease
from tridetr.gateway.hub import Hub
from tridetr.shm.frames import FrameStamp

# By class ID, as in the viewer.
_COLORS = ("#f2b65a", "#5fe0b7", "#6ea8fe", "#e58aa8", "#b79bff", "#9bd45f", "#ff9670", "#5fd3e8")

# Longest time between a picture and the frame of its boxes; the viewer does not draw others either (boxes.js, opacity)
_BOXES_NS = 1_500_000_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A JPEG and the frame it shows."""

    jpeg: bytes
    frame_number: int
    capture_unix_ns: int


async def take_snapshot(hub: Hub, camera: str, *, with_boxes: bool, small: bool) -> Snapshot | None:
    """Return the newest picture of a camera; None if there is none yet.

    The boxes are those of the newest result: with a slow detector, boxes of moving people are slightly behind. If its
    frame was captured more than 1.5 s before the picture, no boxes are drawn.

    Args:
        hub: the cameras of the node.
        camera: name of the camera.
        with_boxes: whether to draw the detections.
        small: whether to use the size of the grid view.
    """
    lease = hub.readers[camera].frames.lease_newest()
    if lease is None:
        return None
    quality = hub.config.gateway.jpeg_quality
    with lease:
        stamp = lease.stamp
        found, frame_width = _boxes_of(hub, camera, stamp) if with_boxes else ([], 0)
        data = None
        if not small and not found:
            data = jpeg.for_browser(bytes(lease.jpeg), lease.width, lease.height)
        if data is None:
            # Boxes are drawn on our own encoding only: the gateway never decodes what a camera sent.
            image = await encode_lease(hub.pool, lease, stamp, quality=quality, small=small)
            data = image.jpeg
    if found:
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(hub.pool, draw_boxes, data, found, frame_width, quality)
    return Snapshot(data, stamp.frame_number, stamp.capture_unix_ns)


def _boxes_of(hub: Hub, camera: str, stamp: FrameStamp) -> tuple[list[dict[str, Any]], int]:
    """Return the boxes for a picture, and the width in pixels of their frame; none if the newest result is too old."""
    lease = hub.readers[camera].detections.lease_newest()
    if lease is None:
        return [], 0
    with lease:
        distance_ns = lease.stamp.capture_monotonic_ns - stamp.capture_monotonic_ns
        if abs(distance_ns) > _BOXES_NS:
            return [], 0
        return facts.boxes(lease, hub.labels), lease.stamp.width


def draw_boxes(data: bytes, found: list[dict[str, Any]], frame_width: int, quality: int) -> bytes:
    """Return the JPEG with a labelled box drawn for each detection.

    Args:
        data: the picture as JPEG, encoded by us: Pillow decodes it.
        found: detections, as ``facts.boxes`` returns them.
        frame_width: width in pixels of the frame that their coordinates refer to.
        quality: JPEG quality, 1 to 100.
    """
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as opened:
        picture = opened.convert("RGB")
    scale = picture.width / frame_width if frame_width else 1.0
    draw = ImageDraw.Draw(picture)
    line = max(2, round(picture.width / 480))
    font = ImageFont.load_default(max(11, picture.width / 70))
    for item in found:
        x1, y1, x2, y2 = (value * scale for value in item["xyxy"])
        color = _COLORS[item["class"] % len(_COLORS)]
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=line)
        text = f"{item['label']} {item['score']:.0%}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        base = max(0.0, y1 - (bottom - top) - 2 * line)
        draw.rectangle(
            (x1, base, x1 + right - left + 2 * line, base + bottom - top + 2 * line), fill=color
        )
        draw.text((x1 + line - left, base + line - top), text, fill="#10151c", font=font)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()
