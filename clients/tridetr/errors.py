"""Errors that a user can act on: each message names the cause and the remedy."""

from __future__ import annotations


class TridetrError(Exception):
    """Base of all errors that the command line prints without a traceback."""


class ConfigError(TridetrError):
    """The configuration cannot be read or makes no sense."""


class ShmError(TridetrError):
    """A shared-memory segment or message queue cannot be made, opened or trusted."""


class NoSpaceError(ShmError):
    """Shared memory has no room for what is to be stored; it may have later."""


class CudaError(TridetrError):
    """The GPU, its driver or its memory cannot be used."""


class GpuMemoryError(CudaError):
    """The GPU's memory is full: the same may succeed later."""


class SourceError(TridetrError):
    """A camera source cannot be opened or stopped delivering."""


class ModelError(TridetrError):
    """A model file does not keep the contract, or cannot be made or fetched."""


class TritonError(TridetrError):
    """The inference server cannot be started or does not answer as agreed."""


class BrokerError(TridetrError):
    """The MQTT broker cannot be started or reached."""


class GatewayError(TridetrError):
    """The viewer cannot listen where it shall."""


class ModelUnavailable(TritonError):  # noqa: N818  (named by what is the case)
    """The server or the model does not answer now; trying again later may help."""


class RegionNotRegistered(TritonError):  # noqa: N818  (named by what is the case)
    """The server does not know the shared-memory region (it was restarted): register it again."""


class DeviceRegionRefused(TritonError):  # noqa: N818  (named by what is the case)
    """The server cannot open GPU memory of ours: it has no GPU, another one, or another PID namespace."""


class InferenceFailed(TritonError):  # noqa: N818  (named by what is the case)
    """The server answered this request with an error; others may succeed."""
