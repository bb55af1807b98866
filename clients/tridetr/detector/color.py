"""Check that frames have the colour range that the model was made for."""

from __future__ import annotations

import logging

from tridetr.shm.frames import ColorRange

log = logging.getLogger("tridetr.detector")


class RangeCheck:
    """Logs a warning, once per model, if the frames' colour range differs from the model's.

    Inference works with the wrong range, but finds fewer objects.
    """

    def __init__(self, camera: str) -> None:
        self._extra = {"camera": camera}
        self._color = "frame"
        self._warned = False

    def use_model(self, color: str) -> None:
        """Start to check against another model.

        Args:
            color: Matrix and range that the model was made for ("bt601-full"), or "frame" if that is unknown.
        """
        self._color = color
        self._warned = False

    def check(self, found: ColorRange) -> None:
        """Compare the colour range of a frame with the model's."""
        made_for = self._color.partition("-")[2]  # "full", "limited", or "" if unknown
        if made_for and not self._warned and made_for != found.name.lower():
            self._warned = True
            log.warning(
                "frames have %s range, but the model is made for %s, so it finds slightly fewer objects. Remedy: "
                "make a copy of the model for these frames with `tridetr models recolor`",
                found.name.lower(),
                self._color,
                extra=self._extra,
            )
