"""Pins the pages of a frame ring, so that the GPU can copy from and to them."""

from __future__ import annotations

import logging
import mmap
import os
from contextlib import suppress

import numpy as np

from tridetr.cuda.cuda_api import Cuda
from tridetr.errors import CudaError, ShmError
from tridetr.shm import segment
from tridetr.shm.closing import Closing
from tridetr.shm.lease import Region

_log = logging.getLogger("tridetr.cuda")


class PinnedFile(Closing):
    """A pinned mapping of one ring file; a context manager. If it cannot be pinned, copies work, but are slower.

    Attributes:
        region: The ring file.
        address: Address of the mapping in this process.
    """

    def __init__(self, cuda: Cuda, region: Region) -> None:
        """Map and pin the file. The mapping is writable, because CUDA pins only writable pages.

        Raises:
            ShmError: The ring file was removed or replaced.
        """
        self.region = region
        self._cuda = cuda
        descriptor = segment.reopen(region.shm_name, os.O_RDWR)
        try:
            found = os.fstat(descriptor)
            if found.st_ino != region.inode or found.st_size < region.size_bytes:
                raise ShmError(f"{region.shm_name} was replaced")
            self._map = mmap.mmap(descriptor, region.size_bytes)
        finally:
            os.close(descriptor)
        self.address = int(np.frombuffer(self._map, np.uint8).ctypes.data)
        self._pinned = False
        try:
            cuda.pin(self.address, region.size_bytes)
            self._pinned = True
        except CudaError as error:
            _log.warning("cannot pin the frame ring, so copies to the GPU are slower: %s", error)

    def close(self) -> None:
        """Unpin the file; it is unmapped with the object."""
        if self._pinned:
            self._pinned = False
            with suppress(CudaError):
                self._cuda.unpin(self.address)
