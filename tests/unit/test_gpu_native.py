"""Compiled parts: the kernel run as C++, and calls of nvJPEG's C interface, recorded by a fake library."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tridetr.gpu import nvjpeg
from tridetr.gpu.decoder_api import GpuDecodeError, GpuUnavailableError, JpegShape
from tridetr.gpu.surface_layout import Subsampling

GPU_FOLDER = Path(nvjpeg.__file__).parent


def test_nvjpeg_is_searched_in_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia/nvjpeg/lib").mkdir(parents=True)
    (tmp_path / "nvidia/nvjpeg/lib/libnvjpeg.so.12").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path / "nvidia/nvjpeg/lib/libnvjpeg.so.12") in list(nvjpeg.library_files())


# The part of CUDA that the kernel uses, as plain C++: runs one thread after the other.
HOST_SHIM = """
struct dim { unsigned int x, y; };
static dim blockIdx, blockDim, threadIdx;
#define __global__
"""
HOST_MAIN = """
extern "C" void run(const unsigned char *pairs, unsigned long long pitch, unsigned char *u, unsigned char *v,
                    unsigned int columns, unsigned int rows, unsigned int gx, unsigned int gy) {
  blockDim = {32, 8};
  for (blockIdx.y = 0; blockIdx.y < gy; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < gx; blockIdx.x++)
      for (threadIdx.y = 0; threadIdx.y < 8; threadIdx.y++)
        for (threadIdx.x = 0; threadIdx.x < 32; threadIdx.x++)
          split_chroma(pairs, pitch, u, v, columns, rows);
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (apt install g++)")
@pytest.mark.parametrize(("columns", "rows"), [(960, 540), (33, 9), (1, 1)])
def test_the_kernel_splits_chroma(tmp_path: Path, columns: int, rows: int) -> None:
    source = tmp_path / "kernel.cpp"
    source.write_text(HOST_SHIM + (GPU_FOLDER / "split_chroma.cu").read_text() + HOST_MAIN)
    library = tmp_path / "kernel.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    pitch = 2 * columns + 30
    pairs = np.random.default_rng(0).integers(0, 256, (rows, pitch), dtype=np.uint8)
    u, v = np.zeros((2, rows, columns), np.uint8)
    ctypes.CDLL(str(library)).run(
        ctypes.c_void_p(pairs.ctypes.data),
        ctypes.c_uint64(pitch),
        ctypes.c_void_p(u.ctypes.data),
        ctypes.c_void_p(v.ctypes.data),
        columns,
        rows,
        -(-columns // 32),
        -(-rows // 8),
    )
    assert np.array_equal(u, pairs[:, 0 : 2 * columns : 2])
    assert np.array_equal(v, pairs[:, 1 : 2 * columns : 2])


def test_the_compiled_kernel_exists_and_has_the_same_arguments() -> None:
    text = (GPU_FOLDER / "split_chroma.ptx").read_text()
    assert ".entry split_chroma(" in text
    kinds = [line.split()[1] for line in text.splitlines() if line.strip().startswith(".param")]
    assert kinds == [".u64"] * 4 + [".u32"] * 2


# Records its arguments; reports that the JPEG is 4:2:2, 640x480, and then that it is damaged.
NVJPEG = """
#include <stddef.h>
typedef struct { void *channel[4]; size_t pitch[4]; } Image;
struct { size_t length, flags, format; void *handle, *state, *data, *stream; Image image; } seen;
int nvjpegCreateEx(int backend, void *device, void *pinned, unsigned flags, void **handle) {
  seen.flags = flags; *handle = (void *)0x123456789aULL; return backend || device || pinned; }
int nvjpegJpegStateCreate(void *handle, void **state) { *state = (void *)0xabcdef0123ULL; return 0; }
int nvjpegGetImageInfo(void *handle, const unsigned char *data, size_t length, int *components, int *subsampling,
                       int *widths, int *heights) {
  *components = 3; *subsampling = 1; widths[0] = 640; heights[0] = 480; return length == 6 && data[0] == 0xff ? 0 : 2; }
int nvjpegDecode(void *handle, void *state, const unsigned char *data, size_t length, int format, Image *image,
                 void *stream) {
  seen.handle = handle; seen.state = state; seen.length = length; seen.format = format; seen.stream = stream;
  seen.image = *image; return 3; }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler (apt install gcc)")
def test_nvjpeg_is_called_as_its_header_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvjpeg.c").write_text(NVJPEG)
    library = tmp_path / "libnvjpeg.so"
    subprocess.run(
        ["gcc", "-w", "-shared", "-fPIC", "-o", library, tmp_path / "nvjpeg.c"], check=True
    )
    monkeypatch.setattr(nvjpeg, "library_files", lambda: [str(library)])

    engine = nvjpeg.NvJpeg()
    data = np.frombuffer(b"\xff\xd8rest", np.uint8)
    assert engine.shape(data) == JpegShape(Subsampling.S422, 640, 480)
    channels = ((0x7F0000000000, 640), (0x7F0000100000, 320), (0x7F0000200000, 320))
    with pytest.raises(GpuDecodeError, match="bad JPEG"):
        engine.decode(data, channels, 0x5555555555)

    words = (ctypes.c_uint64 * 15).in_dll(ctypes.CDLL(str(library)), "seen")
    length, flags, output, handle, state, _, stream = words[:7]
    assert (length, flags, output) == (6, 1 << 2, 1)  # strict; planar YUV
    assert (handle, state, stream) == (0x123456789A, 0xABCDEF0123, 0x5555555555)
    assert list(zip(words[7:10], words[11:14], strict=True)) == list(channels)


def test_a_missing_nvjpeg_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvjpeg, "library_files", lambda: ["libnothing.so.0"])
    with pytest.raises(GpuUnavailableError, match="nvJPEG is not installed"):
        nvjpeg.NvJpeg()
