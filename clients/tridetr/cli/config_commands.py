"""``tridetr config check|show|schema|example``."""

from __future__ import annotations

import json
from typing import Annotated

import typer
import yaml

from tridetr.cli.options import DEFAULT_CONFIG, ConfigFile
from tridetr.config import Config, load_config
from tridetr.config.examples import EXAMPLE

app = typer.Typer(help="Check, show and explain the configuration.", no_args_is_help=True)


@app.command()
def check(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Say whether the file is right; every fault is named with its key."""
    config = load_config(config_file)
    cameras = ", ".join(config.cameras)
    typer.echo(f"{config_file}: right, {len(config.cameras)} camera(s): {cameras}")


@app.command()
def show(
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of YAML.")] = False,
) -> None:
    """Print the configuration with every default filled in (secrets stay in their files)."""
    data = load_config(config_file).model_dump(mode="json")
    typer.echo(json.dumps(data, indent=2) if as_json else yaml.safe_dump(data, sort_keys=False))


@app.command()
def schema() -> None:
    """Print the JSON schema, for editors: `# yaml-language-server: $schema=tridetr.schema.json`."""
    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


@app.command()
def example() -> None:
    """Print a fully commented configuration to start from."""
    typer.echo(EXAMPLE.read_text(encoding="utf-8"), nl=False)
