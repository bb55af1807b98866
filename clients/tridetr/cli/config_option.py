"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        envvar="TRIDETR_CONFIG",
        help="The configuration file (YAML).",
        show_default=True,
    ),
]
DEFAULT_CONFIG = Path("tridetr.yaml")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
