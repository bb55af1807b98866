"""``tridetr config check|show|memory|schema|example|reference``."""

from __future__ import annotations

import json
from typing import Annotated

import typer
import yaml

from tridetr.cli.config_option import DEFAULT_CONFIG, ConfigFile
from tridetr.config import Config, load_config
from tridetr.config.examples import EXAMPLE, REFERENCE
from tridetr.config.memory import node_mib

app = typer.Typer(help="Check, show and explain the configuration.", no_args_is_help=True)


@app.command()
def check(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Check keys, files, class names and whether the model runs; report every fault. Exits with 1 if there is one.

    `tridetr doctor` also opens the cameras and logs in to the broker.
    """
    from tridetr.doctor.configuration import check_configuration
    from tridetr.doctor.parts import check_model, check_model_runs
    from tridetr.triton.try_model import LOADING_S

    config = load_config(config_file)
    findings = [*check_configuration(config), *check_model(config)]
    if config.triton.url is None:
        typer.echo(f"loading the model, for {LOADING_S} s at most", err=True)
    findings += check_model_runs(config)
    for finding in findings:
        if finding.level != "ok":
            typer.echo(f"{finding.level}: {finding.subject}: {finding.text}; {finding.remedy}")
    if any(finding.level == "fault" for finding in findings):
        raise typer.Exit(1)
    cameras = ", ".join(config.cameras)
    typer.echo(f"{config_file}: valid, {len(config.cameras)} camera(s): {cameras}")


@app.command()
def show(
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of YAML.")] = False,
) -> None:
    """Print the configuration with every default filled in (secrets stay in their files)."""
    data = load_config(config_file).model_dump(mode="json")
    typer.echo(json.dumps(data, indent=2) if as_json else yaml.safe_dump(data, sort_keys=False))


@app.command()
def memory(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Print the size of /dev/shm that this configuration needs, such as `318m`, for `docker run --shm-size`."""
    typer.echo(f"{node_mib(load_config(config_file))}m")


@app.command()
def schema() -> None:
    """Print the JSON schema. Editors use it with `# yaml-language-server: $schema=tridetr.schema.json`."""
    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


@app.command()
def example() -> None:
    """Print a minimal configuration to start from."""
    typer.echo(EXAMPLE.read_text(encoding="utf-8"), nl=False)


@app.command()
def reference() -> None:
    """Print a configuration with every key, its default and a comment."""
    typer.echo(REFERENCE.read_text(encoding="utf-8"), nl=False)
