"""All the device memory of one frame writer: that of the present ring file, and what still has to be freed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from tridetr.cuda.api import Cuda
from tridetr.cuda.ring import CudaFrameRing
from tridetr.errors import CudaError

_log = logging.getLogger("tridetr.cuda")

_MOST_RETIRED = 4  # a server that lets go of nothing must not fill the GPU


class DeviceMemory:
    """Makes and frees the device memory of one frame ring over all its generations.

    Attributes:
        forced: Whether frames must lie in device memory; otherwise a ring goes without it where it cannot be had.
    """

    def __init__(self, cuda: Cuda, host_wanted: Callable[[], bool], *, forced: bool) -> None:
        """Make it; nothing is allocated yet.

        Args:
            cuda: The GPU.
            host_wanted: Tells whether somebody reads host pictures.
            forced: Whether frames must lie in device memory.
        """
        self.forced = forced
        self._cuda = cuda
        self._host_wanted = host_wanted
        self._retired: list[CudaFrameRing] = []
        self._said = False

    def allocate(
        self, path: str | os.PathLike[str], view: memoryview, *, slots: int, frame_nbytes: int
    ) -> CudaFrameRing | None:
        """Allocate the device memory of a ring file, or say once why there is none.

        Raises:
            CudaError: There is none, and there must be.
        """
        self.sweep()
        try:
            if len(self._retired) >= _MOST_RETIRED:
                raise CudaError(
                    f"the inference server still has {_MOST_RETIRED} earlier regions of this camera open. "
                    "Remedy: restart the detector; is the camera's picture size stable?"
                )
            return CudaFrameRing(
                self._cuda,
                path,
                view,
                slots=slots,
                frame_nbytes=frame_nbytes,
                host_wanted=self._host_wanted,
            )
        except CudaError as error:
            if self.forced:
                raise
            self.say_fallback(error)
            return None

    def say_fallback(self, error: CudaError) -> None:
        """Say that frames go through system shared memory, and why; once."""
        if not self._said:
            self._said = True
            _log.warning("frames go through system shared memory: %s", error)

    def retire(self, ring: CudaFrameRing) -> None:
        """Take over the device memory of a ring file that is written no more."""
        ring.retire()
        self._retired.append(ring)

    def sweep(self) -> None:
        """Free what nobody uses any more; nearly nothing to do while there is nothing."""
        if self._retired:
            self._retired = [ring for ring in self._retired if not ring.free_if_unused()]

    def close(self) -> None:
        """Free all that was retired."""
        for ring in self._retired:
            ring.close()
        self._retired = []
