"""Decodes H.264 and H.265 with PyNvVideoCodec (NVDEC)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from tridetr.gpu.cuda_gpu import INSTALL, CudaGpu
from tridetr.gpu.decoder_api import Codec, GpuDecodeError, GpuUnavailableError, Surface


class NvDec:
    """One stream's decoder in the primary context (see `decoder_api.VideoEngine`)."""

    def __init__(self, codec: Codec, gpu: CudaGpu, *, reorders: bool) -> None:
        """Create the decoder, which finds the stream's size itself.

        Raises:
            GpuUnavailableError: The package is missing, or the GPU does not support this codec.
        """
        try:
            nvc: Any = import_module("PyNvVideoCodec")
        except ImportError:
            raise GpuUnavailableError(f"PyNvVideoCodec is not installed ({INSTALL})") from None
        except RuntimeError as error:  # it looks for the driver's libraries when it is imported
            first = str(error).strip().partition("\n")[0]
            raise GpuUnavailableError(f"PyNvVideoCodec cannot be used ({first})") from None
        self._nvc = nvc
        names = {"h264": nvc.cudaVideoCodec.H264, "hevc": nvc.cudaVideoCodec.HEVC}
        # LOW returns each picture with its packet, but must not be used if pictures are reordered
        latency = nvc.DisplayDecodeLatencyType
        try:
            self._decoder = nvc.CreateDecoder(
                gpuid=gpu.device_id,
                codec=names[codec],
                cudacontext=gpu.context,
                cudastream=0,
                usedevicememory=True,
                latency=latency.NATIVE if reorders else latency.LOW,
            )
        except Exception as error:  # the package's own classes derive from nothing else
            raise GpuUnavailableError(f"this GPU does not decode {codec} ({error})") from None
        flags = nvc.VideoPacketFlag
        self._whole = 0 if reorders else int(flags.ENDOFPICTURE.value)
        self._gap = int(flags.DISCONTINUITY.value)

    def decode(self, data: bytes, index: int, *, discontinuity: bool) -> list[Surface]:
        """Decode one access unit (see `VideoEngine`)."""
        buffer = np.frombuffer(data, np.uint8)  # keeps the bytes in place during the call
        packet = self._nvc.PacketData()
        packet.bsl_data = buffer.ctypes.data
        packet.bsl = buffer.size
        packet.pts = index
        packet.decode_flag = self._whole | (self._gap if discontinuity else 0)
        try:
            frames = self._decoder.Decode(packet)
            if not frames:
                return []
            if self._decoder.GetPixelFormat() != self._nvc.Pixel_Format.NV12:
                raise GpuDecodeError(
                    f"the decoder returned {self._decoder.GetPixelFormat()} instead of NV12"
                )
            width, height = int(self._decoder.GetWidth()), int(self._decoder.GetHeight())
            return [
                Surface(
                    int(frame.getPTS()),
                    int(frame.GetPtrToPlane(0)),
                    int(frame.GetPtrToPlane(1)),
                    width,
                    height,
                )
                for frame in frames
            ]
        except GpuDecodeError:
            raise
        except Exception as error:  # as above
            raise GpuDecodeError(str(error)) from None

    def before(self, stream: int) -> None:
        """Make `stream` wait for the surfaces (see `VideoEngine`)."""
        self._decoder.WaitOnCUStream(stream)
