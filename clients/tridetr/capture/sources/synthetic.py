"""Built-in synthetic camera: draws a street or a hall directly into the slot, with known ground truth.

With `TRIDETR_TRUTH_DIR` in the environment, the true boxes of each published frame are appended to
`<dir>/<camera>.jsonl`: `{"frame_number": 7, "boxes": [{"xyxy": [...], "class_id": 1, "visible": 1.0}]}`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import TextIO

from tridetr.capture.planes import even_size
from tridetr.capture.sources.base import Grab, Layout, Picture, Plane, Source, SourceInfo
from tridetr.config import CameraSection
from tridetr.errors import ConfigError
from tridetr.shm.frames import ColorMatrix, ColorRange
from tridetr_demo.scene import SyntheticCamera

TRUTH_DIR = "TRIDETR_TRUTH_DIR"
_DEFAULT_SIZE = (1280, 720)
_DEFAULT_FPS = 15.0


class SyntheticSource(Source):
    """A camera that never fails; frame `n` always shows the scene at `n / fps` seconds."""

    def __init__(self, camera: str, section: CameraSection, stop: threading.Event) -> None:
        self._camera = camera
        self._section = section
        self._stop = stop
        self._fps = section.fps or _DEFAULT_FPS
        self._film: SyntheticCamera | None = None
        self._base_ns = 0
        self._unix_base_ns = 0
        self._next_number = 0
        self._truth: TextIO | None = None

    def open(self) -> SourceInfo:
        """Prepare the scene and the people that will walk in it (see `Source`)."""
        section = self._section
        width, height = even_size(
            section.width or _DEFAULT_SIZE[0], section.height or _DEFAULT_SIZE[1]
        )
        self._film = SyntheticCamera(width, height, seed=section.seed, scene=section.scene)
        self._truth = _open_truth(self._camera)
        self._base_ns = time.monotonic_ns() - self._at(self._next_number)
        self._unix_base_ns = time.time_ns() - self._at(self._next_number)
        return SourceInfo(
            kind="synthetic",
            description=f"a drawn {section.scene}, {width}x{height} at {self._fps:g} fps",
            capture_clock="synthetic",
            width=width,
            height=height,
            fps=self._fps,
        )

    def next(self, timeout_s: float) -> Grab | None:
        """Return the frame that is due (see `Source`); frames that are not requested in time are lost."""
        elapsed_ns = time.monotonic_ns() - self._base_ns
        wait_ns = self._at(self._next_number) - elapsed_ns
        if wait_ns > 0:
            self._stop.wait(min(timeout_s, wait_ns / 1e9))
            elapsed_ns = time.monotonic_ns() - self._base_ns
            if self._at(self._next_number) > elapsed_ns:
                return None
        number = max(self._next_number, int(elapsed_ns * self._fps / 1e9))
        self._next_number = number + 1
        at = self._at(number)
        return Grab(number, self._base_ns + at, self._unix_base_ns + at, lambda: self._draw(number))

    def close(self) -> None:
        """Free the scene."""
        self._film = None
        if self._truth is not None:
            self._truth.close()
            self._truth = None

    def _at(self, number: int) -> int:
        return round(number * 1e9 / self._fps)

    def _draw(self, number: int) -> Picture:
        film, truth = self._film, self._truth
        assert film is not None

        def draw(planes: Plane) -> None:
            boxes = film.draw(number / self._fps, planes)
            if truth is not None:
                shown = [
                    {"xyxy": list(box.xyxy), "class_id": box.class_id, "visible": box.visible}
                    for box in boxes
                ]
                truth.write(json.dumps({"frame_number": number, "boxes": shown}) + "\n")
                truth.flush()

        return Picture(
            layout=Layout.I420,
            planes=(),
            width=film.width,
            height=film.height,
            color_range=ColorRange.FULL,
            color_matrix=ColorMatrix.BT601,
            draw=draw,
        )


def _open_truth(camera: str) -> TextIO | None:
    folder = os.environ.get(TRUTH_DIR)
    if not folder:
        return None
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return (Path(folder) / f"{camera}.jsonl").open("a")
    except OSError as error:
        raise ConfigError(f"{TRUTH_DIR}={folder}: {error}") from None
