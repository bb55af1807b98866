"""Create a folder of visits like the recorder's, with pictures and clips that a browser can show."""

from __future__ import annotations

import io
import time
from pathlib import Path

from PIL import Image, ImageDraw

from support.clips import write_clip
from tridetr.recorder.archive import Archive, VisitFacts

SIZE = (640, 360)
MINUTE_NS = 60 * 10**9


def picture(number: int) -> bytes:
    """Return a JPEG that differs for each number."""
    image = Image.new("RGB", SIZE, (40 + number * 13 % 120, 60, 90))
    draw = ImageDraw.Draw(image)
    draw.rectangle((250, 60, 370, 340), fill=(200, 170, 140))
    draw.text((20, 20), f"visit {number}", fill="white", font_size=40)
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


def crop(number: int) -> bytes:
    image = Image.open(io.BytesIO(picture(number))).crop((230, 40, 390, 360))
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


def visit_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def keep_visits(
    folder: Path,
    count: int,
    *,
    cameras: tuple[str, ...] = ("hall",),
    classes: tuple[str, ...] = ("person",),
    minutes_apart: float = 7.0,
    clips: bool = True,
) -> None:
    """Save visits; number 0 is the oldest, and the newest has just ended."""
    clip = (
        write_clip(folder.parent / "clip.mp4", 60, size=SIZE, options={"g": "10"})
        if clips
        else None
    )
    now = time.time_ns()
    with Archive(folder, keep_days=365, max_mib=1024) as archive:
        for number in range(count):
            end = now - round((count - 1 - number) * minutes_apart * MINUTE_NS)
            start = end - (20 + number % 5) * 10**9
            facts = VisitFacts(
                visit_id(number),
                cameras[number % len(cameras)],
                classes[number % len(classes)],
                start,
                end,
            )
            score = 0.5 + number % 50 / 100
            box = {"class": facts.class_name, "score": score, "xyxy": [250.0, 60.0, 370.0, 340.0]}
            archive.save_picture(
                facts,
                (picture(number), crop(number)),
                score,
                {
                    "unix_ns": start + 5 * 10**9,
                    "width": SIZE[0],
                    "height": SIZE[1],
                    "value": 1.0,
                    "crop": [230, 40, 160, 320],
                    "boxes": [box],
                },
            )
            if clip is not None:
                part = archive.part(f"{facts.visit_id}.mp4")
                part.write_bytes(clip.read_bytes())
                span = {"started_unix_ns": start - 5 * 10**9, "ended_unix_ns": end + 10**10}
                archive.save_clip(facts, part, {**span, "encoded": number % 2 == 1})
            archive.follow(facts)
        archive.keep_blind(
            archive.begin_blind(cameras[0], now - 90 * MINUTE_NS), now - 80 * MINUTE_NS
        )
        archive._connection.execute(
            "UPDATE watch SET started_unix_ns = ?, ended_unix_ns = ?", (now - 180 * MINUTE_NS, now)
        )
