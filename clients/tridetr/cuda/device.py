"""The device memory of a frame slot, as a source sees it that decodes on the GPU."""

from __future__ import annotations

from typing import Protocol


class DevicePlanes(Protocol):
    """Where a slot's frame lies in GPU memory: ``FrameSlot.device``, between ``begin`` and ``publish``.

    A source that decodes on the GPU queues its work on ``stream`` and calls ``mark_written``; ``publish`` then waits
    for the stream and uploads nothing. A source that says nothing has written the host planes, and ``publish``
    uploads those.

    Attributes:
        pointer: Device address of the frame's I420 bytes: Y [height, width], then U, then V, without padding;
            512-byte aligned.
        nbytes: Their number: ``width * height * 3 / 2``.
        stream: The ``CUstream`` to queue the work on. It belongs to the primary context of the ring's GPU.
        device_id: Ordinal of that GPU in this process.
        host_wanted: Whether somebody reads host pictures now (a viewer, a server without CUDA IPC). Only worth a
            look where the source has a cheaper way to a host picture than the copy that ``publish`` makes itself.
    """

    @property
    def pointer(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def stream(self) -> int: ...
    @property
    def device_id(self) -> int: ...
    @property
    def host_wanted(self) -> bool: ...

    def mark_written(self, host: bool) -> None:
        """Say that this frame's device planes were written, by work queued on ``stream``.

        Args:
            host: Whether the host planes (``FrameSlot.planes``) hold this picture too. If not, ``publish`` copies it
                there from the device while somebody wants host pictures, and otherwise marks the frame as one that
                only the device holds (``FrameLease.device_only`` at the readers). A frame that the writer must not
                lose (``lossless``) is always copied.
        """
        ...
