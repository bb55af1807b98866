"""Privacy masks cover exactly the pixels that their polygons touch."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pydantic import ValidationError

from support.clips import jpegs
from support.rings import put_frame
from tridetr.capture.mask import Mask, remove_unmasked
from tridetr.capture.packets import PacketSink
from tridetr.config import Config, PacketsSection
from tridetr.i420 import planes
from tridetr.shm.frames import FrameReader, FrameWriter
from tridetr.shm.names import list_instance


def masked(width: int, height: int, *polygons: list[tuple[float, float]]) -> np.ndarray:
    frame = np.full((height * 3 // 2, width), 7, np.uint8)
    Mask(polygons).apply(*planes(frame))
    return frame


def test_a_rectangle_is_grey_and_the_rest_unchanged() -> None:
    frame = masked(64, 48, [(0.25, 0.25), (0.5, 0.25), (0.5, 0.5), (0.25, 0.5)])
    y, u, v = planes(frame)
    assert (y[12:24, 16:32] == 128).all()
    assert (u[6:12, 8:16] == 128).all()
    assert (v[6:12, 8:16] == 128).all()
    untouched = np.ones_like(y, bool)
    untouched[10:28, 14:36] = False
    assert (y[untouched] == 7).all()
    assert (u[:5] == 7).all()
    assert (v[:, 18:] == 7).all()


@pytest.mark.parametrize("size", [(2, 2), (640, 360), (1920, 1080), (34, 1000)])
def test_a_mask_of_everything_covers_everything(size: tuple[int, int]) -> None:
    frame = masked(*size, [(0, 0), (1, 0), (1, 1), (0, 1)])
    assert (frame == 128).all()


def test_slanted_edges_are_covered_completely() -> None:
    """Every pixel that the polygon touches is grey, even if an edge only crosses it."""
    polygon = [(0.1, 0.2), (0.83, 0.05), (0.6, 0.9)]
    y, _, _ = planes(masked(200, 100, polygon))
    a, b, c = (np.array([x * 200, yy * 100]) for x, yy in polygon)
    dice = np.random.default_rng(0)
    weights = dice.dirichlet((1, 1, 1), 20_000)
    inside = (weights @ np.stack([a, b, c])).astype(int)
    assert (y[inside[:, 1], inside[:, 0]] == 128).all()
    assert (y == 7).sum() > y.size / 2


def test_polygons_at_the_border_and_several_of_them() -> None:
    frame = masked(64, 48, [(1, 0), (1, 1), (1, 0.5)], [(0, 0), (0.1, 0), (0, 0.1)])
    y, _, _ = planes(frame)
    assert (y[:, 62:] == 128).all()
    assert y[0, 0] == 128
    assert y[24, 24] == 7


def test_the_mask_is_redrawn_for_another_size() -> None:
    mask = Mask([[(0, 0), (1, 0), (1, 0.5), (0, 0.5)]])
    for width, height in ((64, 48), (128, 96)):
        frame = np.zeros((height * 3 // 2, width), np.uint8)
        mask.apply(*planes(frame))
        assert (frame[: height // 2] == 128).all()
        assert (frame[height // 2 + 2 : height] == 0).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [([[(0, 0), (1, 1)]], "at least 3 points"), ([[(0, 0), (1, 1), (2, 0)]], "outside 0..1")],
)
def test_invalid_polygons_are_rejected(mask: list[list[tuple[float, float]]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"cameras": {"a": {"source": "synthetic", "mask": mask}}})


def test_unmasked_frames_and_packets_of_an_earlier_capture_are_removed(instance: str) -> None:
    with FrameWriter(instance, "cam", width=64, height=48, slots=3, jpeg_capacity=0) as writer:
        put_frame(writer, 200)
    for kind in ("packets", "view"):
        with PacketSink(instance, "cam", PacketsSection(), kind) as sink:
            sink.open_jpegs(64, 48, 30.0)
            now = time.monotonic_ns()
            sink.put_jpeg(memoryview(jpegs(1, size=(64, 48))[0]), now, now)
    kinds = {path.name.split("-")[-2] for path in list_instance(instance)}
    assert kinds == {"frames", "packets", "view"}
    with FrameReader(instance, "cam", None) as reader:
        lease = reader.lease_newest()
        assert lease is not None
        lease.release()
        remove_unmasked(instance, "cam")
        assert not list_instance(instance)
        reader.forget_if_removed()
        assert reader.lease_newest() is None
        with FrameWriter(instance, "cam", width=64, height=48, slots=3, jpeg_capacity=0) as writer:
            put_frame(writer, 128)
            reader.forget_if_removed()
            lease = reader.lease_newest()
            assert lease is not None
            with lease:
                assert lease.planes[0, 0] == 128
