"""``tridetr doctor``."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tridetr.cli.config_option import DEFAULT_CONFIG, AsJson, ConfigFile
from tridetr.config import Config, load_config
from tridetr.config.examples import DEMO

if TYPE_CHECKING:
    from tridetr.doctor.finding import Finding


def doctor(config_file: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Check the node's requirements and show how to fix what is missing.

    Loads the model and runs it once, logs in to the broker, opens each camera for a few seconds, and compares class
    names with those of the model. Without a configuration file, it checks what the demo needs. Exits with 1 if there
    is a fault.
    """
    wanted = config_file if config_file != DEFAULT_CONFIG or config_file.exists() else DEMO
    config = load_config(wanted)
    typer.echo("checking the model, the broker and each camera, for some seconds each", err=True)
    findings = _examine(config)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        styles = {"ok": "green", "warning": "yellow", "fault": "bold red"}
        table = Table(title=f"tridetr doctor, for {wanted}")
        for title in ("check", "", "found", "remedy"):
            table.add_column(title, overflow="fold")
        for finding in findings:
            # Text, not markup: [::1] is an address, not a style
            cells = [Text(cell) for cell in (finding.subject, finding.text, finding.remedy)]
            cells.insert(1, Text(finding.level, styles[finding.level]))
            table.add_row(*cells)
        Console().print(table)
    sys.exit(any(finding.level == "fault" for finding in findings))


def _examine(config: Config) -> list[Finding]:
    """Run all checks, in the order in which the findings are printed."""
    from tridetr.doctor import gpu, parts, system
    from tridetr.doctor.configuration import check_configuration
    from tridetr.doctor.mqtt_broker import check_broker
    from tridetr.doctor.streams import check_cameras

    checks = (
        check_configuration(config),
        system.check_python(),
        system.check_cpu(),
        system.check_shm(config),
        system.check_disk(config),
        system.check_run_folder(config),
        system.check_code(config),
        system.check_queues(config),
        system.check_ports(config),
        parts.check_server(config),
        parts.check_provider(config),
        parts.check_model(config),
        parts.check_model_runs(config),
        gpu.check_gpu(config),
        check_broker(config),
        check_cameras(config),
    )
    return [finding for check in checks for finding in check]
