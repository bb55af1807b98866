"""Errors of rings: second writers, invalid sizes and names, a full /dev/shm; and the files of an instance."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.rings import H, W, frame_stamp, frame_writer, put_frame, result_stamp
from tridetr.errors import ShmError
from tridetr.shm import layout, names
from tridetr.shm.detections import DetectionWriter
from tridetr.shm.frames import FrameReader, FrameWriter


def test_a_second_writer_is_refused(instance: str) -> None:
    with frame_writer(instance) as writer:
        with pytest.raises(ShmError, match=f"already has a writer .process {os.getpid()}."):
            frame_writer(instance)
        with pytest.raises(ShmError, match="already has a writer"):
            frame_writer(instance, width=W * 2)  # also with another size
        writer.resize(W * 2, H)
        with pytest.raises(ShmError, match="already has a writer"):
            frame_writer(instance)
        assert put_frame(writer, 1)
    frame_writer(instance).close()


@pytest.mark.parametrize("size", [(63, 32), (64, 31), (0, 32), (64, -2), (20_000, 32)])
def test_invalid_sizes_are_rejected(instance: str, size: tuple[int, int]) -> None:
    with pytest.raises(ShmError, match="must be even"):
        frame_writer(instance, width=size[0], height=size[1])


@pytest.mark.parametrize(
    ("names_", "match"),
    [
        (("UPPER", "cam"), "instance"),
        (("a-b", "cam"), "instance"),
        (("t", "triton"), "reserved"),
        (("t", "../x"), "camera"),
        (("t", "a" * 33), "camera"),
    ],
)
def test_invalid_names_are_rejected(names_: tuple[str, str], match: str) -> None:
    with pytest.raises(ShmError, match=match):
        FrameWriter(*names_, width=W, height=H)


def test_unknown_consumers_are_rejected(instance: str) -> None:
    with pytest.raises(ShmError, match="its consumers are detector, gateway"):
        FrameReader(instance, "cam", "nobody")


def test_a_jpeg_that_does_not_fit_is_rejected(instance: str) -> None:
    with frame_writer(instance, jpeg_capacity=10) as writer:
        slot = writer.begin()
        assert slot is not None
        with pytest.raises(ShmError, match="11 bytes exceeds the capacity of 10"):
            writer.publish(slot, frame_stamp(), jpeg_bytes=11)
        writer.publish(slot, frame_stamp(), jpeg_bytes=10)


def test_a_wrong_dtype_is_rejected(instance: str) -> None:
    with (
        DetectionWriter(instance, "cam") as writer,
        pytest.raises(TypeError, match="DETECTION_DTYPE"),
    ):
        writer.publish(result_stamp(), np.zeros(3, np.float32))


@pytest.fixture
def tiny_shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a /dev/shm of one mebibyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tridetr-test", str(tmp_path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    monkeypatch.setattr(names, "SHM_DIR", tmp_path)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_shm_is_a_clear_error(instance: str, tiny_shm: Path) -> None:
    with pytest.raises(ShmError) as caught:
        FrameWriter(instance, "cam", width=640, height=480)
    text = str(caught.value)
    needed = layout.PAGE + 6 * layout.round_to_page(640 * 480 * 3 // 2 + 512)
    for part in (f"needs {needed:,} bytes", "1,048,576 are free", "--shm-size", "slots"):
        assert part in text
    assert not list(tiny_shm.iterdir())


def test_a_resize_that_does_not_fit_changes_nothing(instance: str, tiny_shm: Path) -> None:
    with (
        FrameWriter(instance, "cam", width=W, height=H) as writer,
        FrameReader(instance, "cam", "gateway") as reader,
    ):
        put_frame(writer, 1)
        with pytest.raises(ShmError, match="too small"):
            writer.resize(640, 480)
        assert (writer.width, writer.height) == (W, H)
        assert put_frame(writer, 2) == 2
        lease = reader.lease_newest()
        assert lease is not None
        assert (lease.sequence, lease.width) == (2, W)
        assert len(list(tiny_shm.iterdir())) == 1


def test_other_system_errors_are_named(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(ShmError, match="Input/output error"):
        frame_writer(instance)
    assert not names.list_instance(instance)


def test_unlink_instance_removes_only_its_own_files_and_all_of_them(instance: str) -> None:
    other = instance + "x"
    try:
        frame_writer(instance).close()
        FrameReader(instance, "cam2", "gateway").close()  # a queue without a ring
        frame_writer(other).close()
        backend = names.SHM_DIR / f"tridetr-{instance}-triton_python_backend_shm_region_1"
        backend.write_bytes(b"x")
        removed = names.unlink_instance(instance, ["cam2"])
        assert backend.name in removed
        assert f"/tridetr-{instance}-cam2-frames-gateway" in removed
        assert not names.list_instance(instance)
        assert len(names.list_instance(other)) == 1
    finally:
        names.unlink_instance(other)


def test_files_are_private_to_the_user(instance: str) -> None:
    frame_writer(instance).close()
    (path,) = names.list_instance(instance)
    assert path.stat().st_mode & 0o777 == 0o600
