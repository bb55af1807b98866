"""How long to wait before a camera is opened again after a failure."""

from __future__ import annotations

import random

from tridetr.backoff import Backoff
from tridetr.capture.sources.base import LoginError, LoginTakenError, NoPictureYetError
from tridetr.errors import SourceError

_NEWS_S = 1.0  # before a server that works is asked again for a new picture


class ReconnectDelays:
    """Growing delays between attempts to open a camera; much longer ones after a login that was refused or taken."""

    def __init__(self, first_s: float) -> None:
        """Set the delay after the first failure [s]."""
        dice = random.Random()  # noqa: S311  (it only spreads the reconnects of many cameras)
        self._failures = Backoff(first_s=first_s, longest_s=10.0, steady_s=5.0, dice=dice)
        # At least a minute apart: many cameras lock an account after five failures, and a host that takes the login
        # would get it each time
        self._logins = Backoff(first_s=120.0, longest_s=1800.0, steady_s=5.0, dice=dice)

    def failed(self, error: SourceError, worked_s: float) -> float:
        """Record a failure and return how long to wait [s].

        Args:
            error: Why the camera failed.
            worked_s: How long it had worked before [s].
        """
        if isinstance(error, NoPictureYetError):
            return _NEWS_S
        if isinstance(error, LoginTakenError):
            error.is_reported = True
        backoff = self._logins if isinstance(error, LoginError) else self._failures
        return backoff.failed(worked_s)
