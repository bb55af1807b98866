"""Notices that the model file was replaced while it serves."""

from __future__ import annotations

import logging

from tridetr.config import Config
from tridetr.errors import TridetrError
from tridetr.models.store import configured_model
from tridetr.triton.model_file import read_model_file
from tridetr.triton.repository import Stamp, model_stamp

log = logging.getLogger("tridetr.triton")


class Replacement:
    """Compares the model file with the one that was rendered."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rendered: Stamp | None = None
        self._seen: Stamp | None = None
        self._refused: Stamp | None = None

    def is_rendered(self) -> bool:
        """Whether the rendered repository holds the file as it is now."""
        return self._rendered is not None and self._rendered == model_stamp(self._config)

    def rendered(self, stamp: Stamp | None) -> None:
        """Note which file was rendered."""
        self._rendered = stamp

    def is_due(self) -> bool:
        """Whether another file is there, whole and keeping the contract; logs once why one is not taken."""
        stamp = model_stamp(self._config)
        if stamp in (None, self._rendered, self._refused):
            self._seen = None
            return False
        if stamp != self._seen:
            self._seen = stamp  # it may still be being written: look again
            return False
        try:
            read_model_file(configured_model(self._config.model.file))
        except TridetrError as error:
            self._refused = stamp
            log.error("the new model is not taken, the old one goes on: %s", error)
            return False
        return True
