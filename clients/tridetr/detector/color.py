"""Whether frames have the colour range that the model was made for."""

from __future__ import annotations

import logging

from tridetr.shm.frames import ColorRange

log = logging.getLogger("tridetr.detector")


class RangeCheck:
    """Says once for each model that frames have another range: nothing fails, it finds less."""

    def __init__(self, camera: str) -> None:
        self._extra = {"camera": camera}
        self._color = "frame"
        self._said = False

    def use_model(self, color: str) -> None:
        """Begin anew with a model.

        Args:
            color: Matrix and range that it was made for ("bt601-full"), or "frame" where it takes any.
        """
        self._color = color
        self._said = False

    def check(self, found: ColorRange) -> None:
        """Look at the range of a frame."""
        made_for = self._color.partition("-")[2]  # "full", "limited", or nothing that is known
        if made_for and not self._said and made_for != found.name.lower():
            self._said = True
            log.warning(
                "frames are %s range, the model is made for %s: it finds a little less. Remedy: "
                "`tridetr models recolor` makes a copy for these frames",
                found.name.lower(),
                self._color,
                extra=self._extra,
            )
