"""Record the viewer of a running node: a screenshot and a short animation for the documentation.

VENV/bin/python tools/record_viewer.py http://127.0.0.1:8080/ docs/images     # of `make demo`

Needs Chromium and FFmpeg (`tools/apt-install chromium ffmpeg`), and Playwright (extra `dev`).
"""

from __future__ import annotations

import argparse
import base64
import itertools
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import ViewportSize, sync_playwright

SIZE: ViewportSize = {"width": 1100, "height": 720}
FPS = 8


def main() -> None:
    """Wait until a person is tracked, then record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=12)
    asked = parser.parse_args()
    with sync_playwright() as play, tempfile.TemporaryDirectory() as name:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=SIZE, color_scheme="dark")
        page.goto(asked.url)
        page.get_by_text("tracking", exact=False).first.wait_for(timeout=120_000)
        time.sleep(2)  # until the visit is in the list and the picture is stable
        page.screenshot(path=asked.folder / "viewer.png")
        frames = Path(name)
        record(page, frames, asked.seconds)
        browser.close()
        subprocess.run(
            [
                "ffmpeg", "-y", "-loglevel", "error", "-f", "concat", "-safe", "0", "-i", frames / "list.txt",
                "-vf", f"fps={FPS},scale=820:-2:flags=lanczos", "-c:v", "libwebp_anim", "-lossless", "0",
                "-quality", "55", "-loop", "0", asked.folder / "demo.webp",
            ],
            check=True,
        )  # fmt: skip


def record(page: Any, folder: Path, seconds: float) -> None:
    """Write screenshots of the page, and a list of them with their durations for FFmpeg."""
    session = page.context.new_cdp_session(page)
    taken: list[tuple[float, Path]] = []

    def keep(event: dict[str, Any]) -> None:
        path = folder / f"{len(taken):05d}.jpg"
        path.write_bytes(base64.b64decode(event["data"]))
        taken.append((event["metadata"]["timestamp"], path))
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "jpeg", "quality": 92, "everyNthFrame": 1})
    page.wait_for_timeout(seconds * 1000)
    session.send("Page.stopScreencast")
    lines = []
    for (start_s, path), (end_s, _) in itertools.pairwise(taken):
        lines += [f"file '{path}'", f"duration {max(end_s - start_s, 0.001):.4f}"]
    (folder / "list.txt").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
