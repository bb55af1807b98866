"""Whether a node needs the gpu process, and for what."""

from __future__ import annotations

import logging

from tridetr.config import Config
from tridetr.cuda.choice import Choice, choose
from tridetr.cuda.surroundings import look_around
from tridetr.errors import CudaError

_log = logging.getLogger("tridetr.gpu")


def choice_for(config: Config) -> Choice:
    """Return whether frames go to GPU memory on this machine.

    Raises:
        CudaError: `device` is `cuda`, and that is impossible here.
    """
    if config.device == "cpu":
        return Choice(False, "device: cpu")
    return choose(config.device, config.model.provider, look_around(config))


def uses_gpu(config: Config) -> bool:
    """Return whether this node needs the gpu process, and log why frames stay off a GPU that is there.

    Raises:
        CudaError: The configuration asks for a GPU, and none can be used here.
    """
    decoded = [name for name, camera in config.cameras.items() if camera.decode == "gpu"]
    choice = choice_for(config)
    if choice.cuda:
        return True
    if decoded and not choice.gpu:
        raise CudaError(
            f"camera {decoded[0]}: decode: gpu is impossible here: {choice.why_not}. Remedy: decode: cpu"
        )
    if choice.why_not and config.device != "cpu":
        level = logging.WARNING if choice.is_loss else logging.INFO
        _log.log(level, "frames go through system shared memory: %s", choice.why_not)
    return bool(decoded)
