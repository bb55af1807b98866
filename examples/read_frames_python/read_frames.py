"""Read frames and results of a running node, in place."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import simplejpeg

from tridetr.shm.detections import DetectionReader
from tridetr.shm.frames import FrameReader


def main() -> None:
    """Print the next frames."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("instance")
    parser.add_argument("camera")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--save", type=Path, help="write the last frame as a JPEG")
    asked = parser.parse_args()
    after = shown = 0
    # None: this reader polls and has no wake-up queue
    with (
        FrameReader(asked.instance, asked.camera, None) as frames,
        DetectionReader(asked.instance, asked.camera, None) as results,
    ):
        while shown < asked.count:
            frame = frames.lease_newest(after)
            if frame is None:
                time.sleep(0.005)
                continue
            with frame:
                after, shown = frame.sequence, shown + 1
                age_ms = (time.monotonic_ns() - frame.stamp.capture_monotonic_ns) / 1e6
                luma = frame.planes[: frame.height]
                print(
                    f"frame {frame.stamp.frame_number}: {frame.width}x{frame.height}, "
                    f"{age_ms:.1f} ms old, brightness {luma.mean():.0f}"
                )
                if asked.save and shown == asked.count:
                    asked.save.write_bytes(jpeg(frame.planes, frame.width, frame.height))
            if (result := results.lease_newest()) is not None:
                with result:
                    for box in result.detections:
                        print(f"  class {box['class_id']}, score {box['score']:.2f}")


def jpeg(planes: np.ndarray, width: int, height: int) -> bytes:
    """Encode an I420 frame [3H/2, W]."""
    flat = planes.reshape(-1)
    luma, chroma = width * height, width * height // 4
    shape = (height // 2, width // 2)
    encoded: bytes = simplejpeg.encode_jpeg_yuv_planes(
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(shape),
        flat[luma + chroma : luma + 2 * chroma].reshape(shape),
        quality=85,
    )
    return encoded


if __name__ == "__main__":
    main()
