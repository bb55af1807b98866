"""What really serves, told to the clients of the node by a file (see `tridetr.triton.describe`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tridetr.files import write_text


def write_report(path: Path, fields: Mapping[str, str]) -> None:
    """Write the report in one step."""
    write_text(path, json.dumps(dict(fields)))
