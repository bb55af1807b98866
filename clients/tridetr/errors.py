"""Errors that users can act on: each message states the cause and the remedy."""

from __future__ import annotations


class TridetrError(Exception):
    """Base class of the errors that the command line prints without a traceback."""


class ForeignFolderError(TridetrError):
    """A folder of the node belongs to another user, or other users could replace it."""


class ConfigError(TridetrError):
    """The configuration cannot be read or is invalid."""


class ShmError(TridetrError):
    """A shared-memory segment or message queue cannot be created, opened or trusted."""


class NoSpaceError(ShmError):
    """Shared memory is full; a later attempt may succeed."""


class CudaError(TridetrError):
    """The GPU, its driver or its memory cannot be used."""


class GpuMemoryError(CudaError):
    """The GPU's memory is full; a later attempt may succeed."""


class SourceError(TridetrError):
    """A camera source cannot be opened or stopped delivering frames."""


class ModelError(TridetrError):
    """A model file does not conform to the contract, or cannot be created or downloaded."""


class TritonError(TridetrError):
    """The inference server cannot be started, or its answer is invalid."""


class BrokerError(TridetrError):
    """The MQTT broker cannot be started or reached."""


class BrokerNotStartedError(BrokerError):
    """The embedded broker has not started yet."""


class GatewayError(TridetrError):
    """The viewer cannot bind to its configured address."""


class ModelUnavailable(TritonError):  # noqa: N818  (named after the condition)
    """The server or the model is temporarily unavailable; a later attempt may succeed."""


class ServerNotStarted(ModelUnavailable):
    """The server has not been started yet."""


class RegionNotRegistered(TritonError):  # noqa: N818  (named after the condition)
    """The shared-memory region is not registered (the server was restarted): register it again."""


class DeviceRegionRefused(TritonError):  # noqa: N818  (named after the condition)
    """The server cannot open our GPU memory: it has no GPU, a different GPU, or a different PID namespace."""


class InferenceFailed(TritonError):  # noqa: N818  (named after the condition)
    """The server answered this request with an error; other requests may succeed."""
