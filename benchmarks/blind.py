"""CPU time of one check for blind cameras: `python benchmarks/blind.py` prints microseconds per picture size."""

from __future__ import annotations

import os
import timeit

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in a capture process

import numpy as np

from tridetr.capture.blind import LOOK_NS, BlindDetector

_LOOKS = 200


def look_us(width: int, height: int) -> float:
    """Return the lowest mean time of a check [µs], on pictures with noise over a fixed view."""
    rng = np.random.default_rng(0)
    view = np.repeat(np.repeat(rng.integers(0, 200, (height // 20, width // 20)), 20, 0), 20, 1)
    pictures = [(view + rng.integers(0, 9, view.shape)).astype(np.uint8) for _ in range(4)]
    detector = BlindDetector()
    turn = iter(range(10**9))

    def look() -> None:
        number = next(turn)
        picture = pictures[number % 4]
        detector.judge(lambda step: picture[::step], picture.shape[0], number * LOOK_NS)

    timeit.timeit(look, number=_LOOKS)  # until the reference view is learnt
    return min(timeit.repeat(look, number=_LOOKS, repeat=10)) / _LOOKS * 1e6


if __name__ == "__main__":
    for size in ((640, 360), (1280, 720), (1920, 1080), (3840, 2160)):
        print(f"{size[0]}x{size[1]}: {look_us(*size):.0f} µs")
