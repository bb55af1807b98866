"""What really serves, told to the clients of the node by a file (see `tridetr.triton.describe`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_report(path: Path, fields: Mapping[str, str]) -> None:
    """Write the report in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(dict(fields)))
    temporary.replace(path)
