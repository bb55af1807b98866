"""The pages of a frame ring as the GPU copies from and to them."""

from __future__ import annotations

import logging
import mmap
import os
from contextlib import suppress

import numpy as np

from tridetr.cuda.cuda_api import Cuda
from tridetr.errors import CudaError, ShmError
from tridetr.shm import names
from tridetr.shm.closing import Closing
from tridetr.shm.lease import Region

_log = logging.getLogger("tridetr.cuda")


class PinnedFile(Closing):
    """A mapping of one ring file, pinned; a context manager. Copies work, slower, where it cannot be pinned.

    Attributes:
        region: The ring file.
        address: Where it begins in this process.
    """

    def __init__(self, cuda: Cuda, region: Region) -> None:
        """Map and pin it. The mapping is writable, since CUDA pins no other pages.

        Raises:
            ShmError: The ring file was removed or replaced.
        """
        self.region = region
        self._cuda = cuda
        path = names.SHM_DIR / region.shm_name
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ShmError(f"{path.name} was removed") from None
        try:
            found = os.fstat(descriptor)
            if found.st_ino != region.inode or found.st_size < region.size_bytes:
                raise ShmError(f"{path.name} was replaced")
            self._map = mmap.mmap(descriptor, region.size_bytes)
        finally:
            os.close(descriptor)
        self.address = int(np.frombuffer(self._map, np.uint8).ctypes.data)
        self._pinned = False
        try:
            cuda.pin(self.address, region.size_bytes)
            self._pinned = True
        except CudaError as error:
            _log.warning("copies to the GPU take longer than they should: %s", error)

    def close(self) -> None:
        """Unpin it; the mapping goes with the object."""
        if self._pinned:
            self._pinned = False
            with suppress(CudaError):
                self._cuda.unpin(self.address)
