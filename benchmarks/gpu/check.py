"""Check correctness: the frame ring across processes, the kernel, and both decoders against the CPU's pictures.

    python benchmarks/gpu/check.py [--only ring kernel jpeg video] [--json FILE]

Run it first on a new GPU. Ring and kernel must agree byte for byte, and so must H.264; JPEG decoders may round
differently (`largest_difference` of 2 is usual, and so is a mean far below 1). Missing parts are named. Exits with 1 if
anything differs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from rig import BenchGpu, DeviceCamera, report

from common import argument_parser
from decode import write_clip
from serving import CAMERA
from tridetr.capture.packets import describe
from tridetr.capture.planes import copy_picture, even_size
from tridetr.capture.sources.av import open_video, packets
from tridetr.capture.sources.base import Picture, Plane
from tridetr.capture.sources.jpeg_decoder import JpegDecoder
from tridetr.capture.sources.pump import Arrival
from tridetr.capture.sources.video import CpuVideo
from tridetr.cuda.ring import Stream
from tridetr.errors import CudaError
from tridetr.gpu.cuda_gpu import CudaDecoders
from tridetr.gpu.decoder_api import Gpu, GpuUnavailableError
from tridetr.gpu.gpu_jpeg import GpuJpeg
from tridetr.gpu.gpu_video import DevicePicture, GpuVideo
from tridetr.gpu.surface_layout import Copy2d
from tridetr.i420 import planes as split
from tridetr.shm.frames import DeviceFrameReader
from tridetr.shm.names import unlink_instance
from tridetr.shm.packets import Packet, StreamInfo

SIZE = (1280, 720)
MOST_JPEG_DIFFERENCE = 4
READ = "--read"


def on_host(picture: Picture) -> Plane:
    """Return a picture as I420."""
    width, height = even_size(picture.width, picture.height)
    planes = np.zeros((height * 3 // 2, width), np.uint8)
    copy_picture(picture, *split(planes))
    return planes


def from_gpu(gpu: Gpu, picture: DevicePicture) -> Plane:
    """Return a picture that was decoded on the GPU, as I420."""
    planes = np.zeros((picture.height * 3 // 2, picture.width), np.uint8)
    target = gpu.scratch("frame", planes.nbytes)
    with Stream(gpu) as stream:
        picture.lay(target, stream.number)
        gpu.download(int(planes.ctypes.data), target, planes.nbytes, stream.number)
        stream.wait()
    return planes


def packet_of(info: StreamInfo, number: int, data: bytes, pts: int | None, *, key: bool) -> Packet:
    """Return a packet as capture publishes it."""
    return Packet(number, 1, info, info.codec, key, False, False, pts, pts, None, 0, 0, data, 0)


def compared(ours: Plane, expected: Plane, allowed: int = 0) -> dict[str, Any]:
    difference = np.abs(ours.astype(int) - expected)
    largest = int(difference.max())
    return {
        "ok": largest <= allowed,
        "largest_difference": largest,
        "mean_difference": round(float(difference.mean()), 5),
    }


def read_region(instance: str) -> None:
    """Open the newest frame's device memory, in another process, and write its bytes to standard output."""
    gpu = BenchGpu.open()
    with DeviceFrameReader(instance, CAMERA, None) as reader:
        lease = reader.lease_newest()
        assert lease is not None
        with lease:
            place = lease.device
            pointer = gpu.open_handle(place.region.handle)
            frame = np.empty(place.pixels_nbytes, np.uint8)
            stream = gpu.make_stream()
            gpu.download(frame.ctypes.data, pointer + place.pixels_offset, frame.size, stream)
            gpu.wait(stream)
            gpu.close_handle(pointer)
    sys.stdout.buffer.write(frame.tobytes())


def check_ring() -> dict[str, Any]:
    gpu = BenchGpu.open()
    width, height = SIZE
    planes = np.random.default_rng(1).integers(0, 256, (height * 3 // 2, width), np.uint8)
    instance = f"bench{uuid.uuid4().hex[:8]}"
    try:
        with DeviceCamera(gpu, instance, SIZE) as camera:
            for number in range(20):
                camera.publish(number, np.roll(planes, number))
            line = [sys.executable, __file__, READ, instance]
            answer = subprocess.run(line, stdout=subprocess.PIPE, timeout=60, check=False)
            if answer.returncode:
                return {"ok": False, "reader": f"ended with {answer.returncode} (see above)"}
            seen = np.frombuffer(answer.stdout, np.uint8).reshape(planes.shape)
            return compared(seen, np.roll(planes, 19))
    finally:
        unlink_instance(instance, [CAMERA])
        gpu.close()


def check_kernel() -> dict[str, Any]:
    width, height, pitch = 1278, 720, 1536
    nv12 = np.random.default_rng(2).integers(0, 256, (height * 3 // 2, pitch), np.uint8)
    decoders = CudaDecoders()
    gpu = decoders.gpu
    source = gpu.scratch("source", nv12.nbytes)
    target = gpu.scratch("target", width * height * 3 // 2)
    luma, quarter = width * height, width * height // 4
    seen = np.empty((height * 3 // 2, width), np.uint8)
    with Stream(gpu) as stream:
        gpu.upload(source, nv12.ctypes.data, nv12.nbytes, stream.number)
        gpu.copy(Copy2d(source, pitch, target, width, width, height), stream.number)
        gpu.split_chroma(
            source + height * pitch,
            pitch,
            target + luma,
            target + luma + quarter,
            width // 2,
            height // 2,
            stream.number,
        )
        gpu.download(int(seen.ctypes.data), target, seen.nbytes, stream.number)
        stream.wait()
    decoders.close()
    chroma = nv12[height:, :width]
    parts = (nv12[:height, :width], chroma[:, 0::2], chroma[:, 1::2])
    expected = np.concatenate([part.reshape(-1) for part in parts]).reshape(seen.shape)
    return compared(seen, expected)


def check_jpeg() -> dict[str, Any]:
    decoders = CudaDecoders()
    found: dict[str, Any] = {"ok": True}
    cases = [("yuvj420p", SIZE), ("yuvj422p", SIZE), ("yuvj420p", (641, 481))]
    with tempfile.TemporaryDirectory() as folder:
        for pix_fmt, size in cases:
            file = Path(folder) / "clip.mkv"
            write_clip(file, "mjpeg", pix_fmt, {}, size)
            with av.open(str(file)) as container:
                data = bytes(next(container.demux(video=0)))
                info = describe(container.streams.video[0])
            (picture,) = GpuJpeg(decoders).decode(packet_of(info, 0, data, 0, key=True))
            seen = from_gpu(decoders.gpu, picture)
            result = compared(seen, on_host(JpegDecoder().decode(data)), MOST_JPEG_DIFFERENCE)
            found[f"{pix_fmt} {size[0]}x{size[1]}"] = result
            found["ok"] = found["ok"] and result["ok"]
    decoders.close()
    return found


def check_video() -> dict[str, Any]:
    """Compare the frames in the order of output: B-frames must come in display order."""
    decoders = CudaDecoders()
    found: dict[str, Any] = {"ok": True}
    h265 = {"x265-params": "log-level=none:bframes=3"}
    cases = (("libx264", {"bf": "0"}), ("libx264", {"bf": "3"}), ("libx265", h265))
    with tempfile.TemporaryDirectory() as folder:
        for codec, more in cases:
            file = Path(folder) / "clip.mkv"
            write_clip(file, codec, "yuv420p", {"preset": "veryfast", **more}, SIZE)
            seen, expected = on_gpu(decoders, file), on_cpu(file)
            worst = max(
                (compared(*pair) for pair in zip(seen, expected, strict=False)),
                key=lambda result: result["largest_difference"],
                default={"ok": False, "why": "no picture came"},
            )
            found[f"{codec} {more}"] = {**worst, "pictures": len(seen), "of": len(expected)}
            found["ok"] = found["ok"] and worst["ok"] and len(seen) > len(expected) // 2
    decoders.close()
    return found


def on_gpu(decoders: CudaDecoders, file: Path) -> list[Plane]:
    container, stream = open_video(str(file), shown=file.name, options={}, timeout_s=5)
    with container:
        info = describe(stream)
        video = GpuVideo(decoders, info)
        return [
            from_gpu(decoders.gpu, picture)
            for number, packet in enumerate(packets(container, stream))
            for picture in video.decode(
                packet_of(info, number, bytes(packet), packet.pts, key=packet.is_keyframe)
            )
        ]


def on_cpu(file: Path) -> list[Plane]:
    container, stream = open_video(str(file), shown=file.name, options={}, timeout_s=5)
    with container:
        video = CpuVideo(stream, 8_847_360)
        return [
            on_host(decoded.picture())
            for number, packet in enumerate(packets(container, stream))
            for decoded in video.decode(Arrival(packet, number, 0, 0, False))
            if decoded.picture is not None
        ]


CHECKS: dict[str, Callable[[], dict[str, Any]]] = {
    "ring": check_ring,
    "kernel": check_kernel,
    "jpeg": check_jpeg,
    "video": check_video,
}


def main() -> None:
    made = argument_parser(__doc__)
    made.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    made.add_argument(READ, help="internal: read a frame of this instance")
    options = made.parse_args()
    if options.read:
        read_region(options.read)
        return
    BenchGpu.open().close()
    figures: dict[str, Any] = {}
    for name in options.only:
        try:
            figures[name] = CHECKS[name]()
        except (CudaError, GpuUnavailableError) as error:
            figures[name] = {"ok": False, "why": str(error)}
    report("check", options, figures)
    sys.exit(not all(figure["ok"] for figure in figures.values()))


if __name__ == "__main__":
    main()
