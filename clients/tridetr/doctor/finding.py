"""The result of one check of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One row of the doctor's table.

    Attributes:
        subject: What was checked, such as `MQTT broker` or a configuration key.
        level: ok, warning (the node runs, with a limitation) or fault (it does not work).
        text: What was found.
        remedy: How to fix it; empty if the level is ok.
    """

    subject: str
    level: Level
    text: str
    remedy: str = ""
