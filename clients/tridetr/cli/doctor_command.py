"""``tridetr doctor``."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tridetr.cli.config_option import DEFAULT_CONFIG, ConfigFile
from tridetr.config import load_config
from tridetr.config.examples import DEMO


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Check the node's requirements and show how to fix what is missing.

    Logs in to the broker, opens each camera for a few seconds, and compares class names with the model's.
    Without a configuration file it looks at what the demo needs. Exits with 1 if there is a fault.
    """
    from tridetr.doctor.examine import examine

    wanted = config_file if config_file != DEFAULT_CONFIG or config_file.exists() else DEMO
    findings = examine(load_config(wanted))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        styles = {"ok": "green", "warning": "yellow", "fault": "bold red"}
        table = Table(title=f"tridetr doctor, for {wanted}")
        for title in ("what", "", "found", "remedy"):
            table.add_column(title, overflow="fold")
        for finding in findings:
            # Text, not markup: an address such as [::1] is not a style
            cells = [Text(cell) for cell in (finding.subject, finding.text, finding.remedy)]
            cells.insert(1, Text(finding.level, styles[finding.level]))
            table.add_row(*cells)
        Console().print(table)
    sys.exit(any(finding.level == "fault" for finding in findings))
