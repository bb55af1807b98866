"""What can go wrong between a client and the inference server."""

from __future__ import annotations

from tridetr.errors import TritonError


class ModelUnavailable(TritonError):  # noqa: N818  (named by what is the case)
    """The server or the model does not answer now; trying again later may help."""


class RegionNotRegistered(TritonError):  # noqa: N818  (named by what is the case)
    """The server does not know the shared-memory region (it was restarted): register it again."""


class DeviceRegionRefused(TritonError):  # noqa: N818  (named by what is the case)
    """The server cannot open GPU memory of ours: it has no GPU, another one, or another PID namespace."""


class InferenceFailed(TritonError):  # noqa: N818  (named by what is the case)
    """The server answered this request with an error; others may succeed."""
