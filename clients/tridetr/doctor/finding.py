"""What a check of the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        subject: what was looked at.
        level: ok, warning (works, but …) or fault (the node will not run).
        text: what was found.
        remedy: what to do; empty when all is well.
    """

    subject: str
    level: Level
    text: str
    remedy: str = ""
