"""A stream cannot make its capture process use up the machine's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.clips import write_clip
from tridetr.capture.sources.av import open_video, packets
from tridetr.capture.sources.base import CorruptFrameError
from tridetr.capture.sources.pump import Arrival
from tridetr.capture.sources.video import CpuVideo


def private_limit(max_pixels: int, code: str) -> str:
    code = (
        f"from tridetr.capture.memory_limit import limit_memory\nlimit_memory({max_pixels})\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_private_memory_is_limited() -> None:
    """Blocks that are never touched: the limit is on what may be used."""
    code = """
import os
try:
    kept = [bytearray(64 << 20) for _ in range(16 + os.cpu_count())]
except MemoryError:
    print("limited")
"""
    assert private_limit(256, code) == "limited"


def test_shared_memory_does_not_count_and_larger_pictures_may_use_more() -> None:
    code = """
import mmap
mmap.mmap(-1, 4 << 30)
bytearray(1 << 30)
print("ok")
"""
    assert private_limit(32_000_000, code) == "ok"


def test_a_lower_limit_of_the_user_stays() -> None:
    code = """
import resource
hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
resource.setrlimit(resource.RLIMIT_DATA, (300 << 20, hard))
limit_memory(8_847_360)
print(resource.getrlimit(resource.RLIMIT_DATA)[0] >> 20)
"""
    assert private_limit(256, code) == "300"


def test_memory_that_a_closed_source_has_not_returned_ends_the_process() -> None:
    """It was refused memory for each later connection, so the camera stayed offline for good."""
    code = """
from tridetr.capture.memory_limit import return_memory
from tridetr.errors import SourceError
kept = bytearray(100 << 20)
return_memory()
kept = []
try:
    while True:
        kept.append(bytearray(16 << 20))
except MemoryError:
    pass
try:
    return_memory()
except SourceError as error:
    print(error)
"""
    assert "still in use" in private_limit(256, code)


def test_a_picture_that_is_too_large_is_not_decoded(tmp_path: Path) -> None:
    """Its decoder would keep up to 16 pictures before it returns the first one."""
    clip = write_clip(tmp_path / "clip.ts", 2, size=(2048, 1536))
    container, stream = open_video(str(clip), shown="clip", options={}, timeout_s=5)
    with container:
        first = next(packets(container, stream))
        small = CpuVideo(stream, 256)
        with pytest.raises(CorruptFrameError):
            small.decode(Arrival(first, 0, 0, 0, False))
