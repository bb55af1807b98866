"""Work of the gpu process for one camera: uploads the frames that capture decoded, or decodes its packets."""

from __future__ import annotations

import logging
import mmap
import time
from contextlib import ExitStack, suppress
from typing import Protocol

from tridetr.capture.pacing import Pacer
from tridetr.capture.publisher import Publisher
from tridetr.capture.sentry import Sentry
from tridetr.capture.sources.base import Grab, Layout, Picture, Plane
from tridetr.config import Config
from tridetr.cuda.cuda_api import Cuda
from tridetr.cuda.pinned import PinnedFile
from tridetr.cuda.ring import DeviceRing, DeviceSlot, Stream
from tridetr.errors import CudaError
from tridetr.gpu.decoder_api import GpuDecodeError, GpuDecoders, GpuUnavailableError
from tridetr.gpu.gpu_jpeg import GpuJpeg
from tridetr.gpu.gpu_video import DevicePicture, GpuVideo
from tridetr.shm.closing import Closing
from tridetr.shm.frames import FrameReader
from tridetr.shm.names import DEVICE_SLOTS
from tridetr.shm.packets import Packet, PacketReader, VideoCodec
from tridetr.telemetry import metrics
from tridetr.telemetry.logs import Limiter

_log = logging.getLogger("tridetr.gpu")

_RETRY_S = 10.0  # a single damaged picture may have looked like an unsupported stream


class CameraWork(Protocol):
    """The work for one camera; created and used in one thread."""

    def step(self, timeout_s: float) -> None:
        """Process one frame or packet, or wait for one at most `timeout_s`.

        Raises:
            ShmError: A ring cannot be created or read now; try again later.
            CudaError: The GPU failed.
        """
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class Uploader(Closing):
    """Copies each frame that capture publishes into the camera's device ring; a context manager."""

    def __init__(self, cuda: Cuda, instance: str, camera: str) -> None:
        """Open the frame ring, which does not have to exist yet.

        Raises:
            ShmError: A system limit is reached.
        """
        self._cuda = cuda
        self._after = 0
        self._pinned: PinnedFile | None = None
        self._looked_s = 0.0
        with ExitStack() as stack:
            self._frames = stack.enter_context(FrameReader(instance, camera, "gpu"))
            self._ring = stack.enter_context(DeviceRing(cuda, instance, camera, slots=DEVICE_SLOTS))
            self._stream = stack.enter_context(Stream(cuda))
            stack.callback(self._unpin)
            self._closing = stack.pop_all()

    def step(self, timeout_s: float) -> None:
        """Upload the newest frame; see `CameraWork`."""
        wakeup = self._frames.wakeup
        assert wakeup is not None  # a named consumer
        now = time.monotonic()
        if now - self._looked_s > 1.0:
            self._looked_s = now
            self._frames.forget_if_removed()
        lease = self._frames.lease_newest(self._after)
        if lease is None:
            wakeup.wait(timeout_s)
            return
        with lease:
            slot = self._ring.begin(lease.width, lease.height)
            if slot is None:
                wakeup.wait(timeout_s)
                return
            try:
                if self._pinned is None or self._pinned.region != lease.region:
                    self._unpin()
                    self._pinned = PinnedFile(self._cuda, lease.region)
                host = self._pinned.address + lease.pixels_offset
                self._cuda.upload(slot.pointer, host, slot.nbytes, self._stream.number)
                self._stream.wait()
            except BaseException:
                self._ring.abandon(slot)
                raise
            self._after = lease.sequence
            self._ring.publish(slot, lease.stamp, lease.sequence)

    def close(self) -> None:
        """Free everything."""
        self._closing.close()

    def _unpin(self) -> None:
        if self._pinned is not None:
            self._pinned.close()
            self._pinned = None


class Decoder(Closing):
    """Decodes a camera's packets into its device ring and its frame ring; a context manager."""

    def __init__(self, decoders: GpuDecoders, config: Config, camera: str) -> None:
        """Open the packet ring, which does not have to exist yet.

        Raises:
            ShmError: A system limit is reached.
        """
        section = config.cameras[camera]
        self._decoders = decoders
        self._camera = camera
        self._generation: int | None = None
        self._decoder: GpuVideo | GpuJpeg | None = None
        self._retry_s = 0.0  # when to retry a stream that was given up
        self._logged = ""  # why it was given up
        self._number = 0
        self._last_ns = 0
        self._pacer = Pacer(config.sentry_for(camera).standby_fps, section.fps)
        self._max_pixels = section.max_pixels
        self._pins: dict[int, Plane] = {}
        self._lines = Limiter(10.0)
        self._skipped = {
            reason: metrics.FRAMES_SKIPPED.labels(camera, reason)
            for reason in ("pacing", "ring_full", "corrupt", "lost")
        }
        self._blocked = metrics.DECODER_BLOCKED.labels(camera)
        self._blocked.set(0)
        with ExitStack() as stack:
            stack.callback(decoders.close)
            self._packets = stack.enter_context(
                PacketReader(config.instance, camera, "gpu", live=True)
            )
            self._sentry = stack.enter_context(Sentry(config.instance, camera, "gpu"))
            self._host = stack.enter_context(Publisher(config.instance, camera, section))
            stack.callback(self._unpin)
            self._device = stack.enter_context(
                DeviceRing(decoders.gpu, config.instance, camera, slots=DEVICE_SLOTS)
            )
            self._stream = stack.enter_context(Stream(decoders.gpu))
            self._closing = stack.pop_all()

    def step(self, timeout_s: float) -> None:
        """Decode the next packet; see `CameraWork`."""
        packet = self._packets.read()
        if packet is None:
            assert self._packets.wakeup is not None  # a named consumer
            self._packets.wakeup.wait(timeout_s)
            return
        self._count("lost", packet.lost)
        self._number += packet.lost
        if packet.generation != self._generation:
            self._logged = ""
            self._begin(packet)
        elif self._decoder is None and packet.is_key and time.monotonic() >= self._retry_s:
            self._begin(packet)
        decoder = self._decoder
        if decoder is None:
            return
        if not decoder.every_packet and not self._wants(packet):
            return
        try:
            for picture in decoder.decode(packet):
                if not decoder.every_packet or self._wants(picture.packet):
                    self._publish(picture)
        except GpuDecodeError as error:
            self._refuse(error)
        except GpuUnavailableError as error:
            self._give_up(error)

    def close(self) -> None:
        """Free everything."""
        self._decoder = None
        self._closing.close()

    def _begin(self, packet: Packet) -> None:
        """Start to decode another stream."""
        self._generation = packet.generation
        self._decoder = None
        try:
            if packet.codec is VideoCodec.MJPEG:
                self._decoder = GpuJpeg(self._decoders)
            else:
                self._decoder = GpuVideo(self._decoders, packet.info)
        except GpuUnavailableError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._decoder = None
        self._blocked.set(1)
        self._retry_s = time.monotonic() + _RETRY_S
        if str(error) != self._logged:
            self._logged = str(error)
            _log.warning(
                "camera %s: the GPU does not decode this stream: %s. Remedy: set decode: cpu for this camera",
                self._camera,
                error,
            )

    def _refuse(self, error: GpuDecodeError) -> None:
        self._count("corrupt", 1)
        self._number += 1
        kept_back = self._lines.allow(time.monotonic())
        if kept_back is not None:
            _log.warning(
                "camera %s: skipped: %s (%d more since the last line)",
                self._camera,
                error,
                kept_back,
            )

    def _wants(self, packet: Packet) -> bool:
        self._number += 1
        if self._pacer.wants(packet.capture_monotonic_ns, self._sentry.pace()):
            return True
        self._count("pacing", 1)
        return False

    def _publish(self, picture: DevicePicture) -> None:
        if picture.width * picture.height > self._max_pixels:
            raise GpuUnavailableError(
                f"pictures of {picture.width}x{picture.height} exceed max_pixels ({self._max_pixels:,})"
            )
        slot = self._device.begin(picture.width, picture.height)
        if slot is None:
            self._count("ring_full", 1)
            return
        try:
            sequence = self._publish_host(picture, slot)
        except BaseException:
            self._device.abandon(slot)
            raise
        if sequence is None:
            self._device.abandon(slot)
            self._count("ring_full", 1)
            return
        assert self._host.stamp is not None
        self._device.publish(slot, self._host.stamp, sequence)
        self._blocked.set(0)

    def _publish_host(self, picture: DevicePicture, slot: DeviceSlot) -> int | None:
        """Write the picture to the device slot, copy it to the host and publish it there; None if no slot is free."""
        gpu, stream = self._decoders.gpu, self._stream

        def draw(planes: Plane) -> None:
            picture.lay(slot.pointer, stream.number)
            self._pin(planes)
            gpu.download(int(planes.ctypes.data), slot.pointer, slot.nbytes, stream.number)
            stream.wait()

        packet = picture.packet
        # With B-frames, a later picture arrives first; its capture time must still not go back.
        late_ns = max(0, self._last_ns + 1 - packet.capture_monotonic_ns)
        self._last_ns = packet.capture_monotonic_ns + late_ns
        shown = Picture(
            Layout.I420,
            (),
            picture.width,
            picture.height,
            picture.color_range,
            picture.color_matrix,
            draw=draw,
        )
        grab = Grab(
            self._number,
            self._last_ns,
            packet.capture_unix_ns + late_ns,
            lambda: shown,
            memoryview(picture.jpeg) if picture.jpeg else None,
        )
        return self._host.publish(grab, shown, 0)

    def _pin(self, planes: Plane) -> None:
        """Pin the pages of a slot, which consists of whole pages."""
        address = int(planes.ctypes.data)
        if address in self._pins:
            return
        if any(known.shape != planes.shape for known in self._pins.values()):
            self._unpin()  # the ring has moved to another file
        start = address // mmap.PAGESIZE * mmap.PAGESIZE
        with suppress(CudaError):  # without it, copies are only slower
            self._decoders.gpu.pin(start, address - start + planes.nbytes)
            self._pins[address] = planes

    def _unpin(self) -> None:
        for address in self._pins:
            with suppress(CudaError):
                self._decoders.gpu.unpin(address // mmap.PAGESIZE * mmap.PAGESIZE)
        self._pins.clear()

    def _count(self, reason: str, frames: int) -> None:
        if frames > 0:
            self._skipped[reason].inc(frames)
