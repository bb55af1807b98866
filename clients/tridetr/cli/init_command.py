"""``tridetr init``: ask for a camera, a model and a broker, try the camera, and write a minimal configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import typer
import yaml
from pydantic import ValidationError

from tridetr.cli.config_option import DEFAULT_CONFIG, ConfigFile
from tridetr.config import CameraSection
from tridetr.config.load import parse_config
from tridetr.doctor.finding import Finding
from tridetr.errors import ConfigError
from tridetr.files import write_text

BUNDLED = "bundled"


def init(
    config_file: ConfigFile = DEFAULT_CONFIG,
    camera: Annotated[
        str | None, typer.Option(help="Source of the camera; prompts if not given.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the camera.")] = "camera",
    model: Annotated[
        str | None, typer.Option(help="An installed model, or `bundled`; prompts if not given.")
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(help="Host of the MQTT broker, or `embedded`; prompts if not given."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Ask for a camera, a model and a broker, try the camera, and write a configuration.

    With --camera, --model and --broker it does not prompt.
    """
    if config_file.exists() and not force:
        raise ConfigError(
            f"{config_file} already exists: choose another file with -c, or replace it with --force"
        )
    asked = camera is None
    section = _camera(camera or _ask_camera(), name, config_file.parent, ask=asked)
    model = model or _ask_model()
    broker = broker or typer.prompt("MQTT broker (host, or `embedded`)", "embedded")
    data: dict[str, Any] = {"cameras": {name: section}, "mqtt": {"host": broker}}
    if model != BUNDLED:
        data["model"] = {"file": model}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    parse_config(text, origin=config_file)
    try:
        write_text(config_file, text, mode=0o644)
    except OSError as error:
        raise ConfigError(f"cannot write {config_file}: {error.strerror}") from None
    typer.echo(f"Wrote {config_file}. Start the node with: tridetr up -c {config_file}")


def _ask_camera() -> str:
    try:
        from tridetr.capture.devices import list_cameras

        devices = list_cameras()
    except ConfigError as error:  # the extra for V4L2 cameras is not installed
        typer.echo(f"Cannot list USB cameras: {error}")
        devices = []
    for number, device in enumerate(devices, 1):
        typer.echo(f"{number}: {device}")
    if not devices:
        typer.echo("No USB camera found.")
    choice: str = typer.prompt(
        "Camera (a number above, rtsp://…, http://…, a video file, or synthetic)",
        "1" if devices else "synthetic",
    )
    if choice.isdigit() and 1 <= int(choice) <= len(devices):
        return devices[int(choice) - 1].path
    return choice


def _ask_model() -> str:
    from tridetr.models.installed_models import installed

    names = list(installed())
    typer.echo(
        f"Installed models: {', '.join(names) or 'none'}. Download one with `tridetr models pull`."
    )
    choice: str = typer.prompt(
        f"Model (`{BUNDLED}` is the demonstration model for synthetic cameras)",
        names[0] if names else BUNDLED,
    )
    return choice


def _camera(source: str, name: str, folder: Path, *, ask: bool) -> dict[str, str]:
    """Try the camera and return its section; write its password to a file."""
    source, login = _without_login(source)
    section = {"source": source}
    if login:
        section["credentials_file"] = _write_login(login, name, folder)
    finding = _try(section, name, folder)
    if ask and "login refused" in finding.text:
        typer.echo(f"{finding.text}")
        user = typer.prompt("User")
        password = typer.prompt("Password", hide_input=True)
        section["credentials_file"] = _write_login((user, password), name, folder)
        finding = _try(section, name, folder)
    typer.echo(f"{finding.subject}: {finding.level}: {finding.text}")
    if finding.level == "fault":
        typer.echo(f"  {finding.remedy}")
        if ask:
            typer.confirm("Write the configuration anyway?", abort=True)
    return section


def _try(section: dict[str, str], name: str, folder: Path) -> Finding:
    from tridetr.doctor.streams import check_camera

    values = dict(section)
    if file := values.get("credentials_file"):
        values["credentials_file"] = str(folder / file)
    try:
        checked = CameraSection.model_validate(values)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"camera {name}: {message}") from None
    if checked.source.kind == "file":
        path = str(folder / Path(checked.source.text).expanduser())
        checked = CameraSection.model_validate(values | {"source": path})
    typer.echo("Trying the camera …")
    return check_camera(name, checked)


def _without_login(source: str) -> tuple[str, tuple[str, str] | None]:
    """Split a URL into the URL without `user:password@` and (user, password), None if it has none."""
    try:
        parts = urlsplit(source)
        user, password = parts.username, parts.password
    except ValueError:
        return source, None
    if "://" not in source or not user or not password or "{" in user + password:
        return source, None
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, (unquote(user), unquote(password))


def _write_login(login: tuple[str, str], name: str, folder: Path) -> str:
    """Write `user:password` to a file next to the configuration, readable by this user only; return its name."""
    file = f"{name}.credentials"
    try:
        write_text(folder / file, ":".join(login) + os.linesep, mode=0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {folder / file}: {error.strerror}") from None
    typer.echo(f"User and password are stored in {folder / file}.")
    return file
