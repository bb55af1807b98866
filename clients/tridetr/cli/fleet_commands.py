"""``tridetr fleet status|watch``: show all nodes of a broker."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tridetr.cli.config_option import DEFAULT_CONFIG, ConfigFile
from tridetr.cli.plain_text import plain
from tridetr.config import load_config

if TYPE_CHECKING:
    from tridetr.fleet import FleetListener, NodeView

app = typer.Typer(
    help="Show all nodes of a broker. Of the configuration, only `mqtt` is used.",
    no_args_is_help=True,
)
_COLORS = {
    "ok": "green",
    "problem": "yellow",
    "silent": "red",
    "offline": "red",
    "unreadable": "red",
    "unknown": "dim",
}
_LOOK_S = 1.0


@app.command()
def status(
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show every node once. Exits with 1 unless all are ok."""
    from tridetr.fleet import counts

    with _listener(config_file) as listener:
        listener.wait_quiet()
        nodes = listener.view()
    if as_json:
        typer.echo(json.dumps({"counts": counts(nodes), "nodes": [n.to_json() for n in nodes]}))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(_table(nodes))
    if not nodes or any(node.condition != "ok" for node in nodes):
        raise typer.Exit(1)


@app.command()
def watch(
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON for each change of a node.")
    ] = False,
) -> None:
    """Show every node continuously until Ctrl-C."""
    with _listener(config_file) as listener:
        listener.wait_quiet()
        try:
            if as_json:
                _print_changes(listener)
            with Live(_table(listener.view()), screen=sys.stdout.isatty()) as live:
                while True:
                    time.sleep(_LOOK_S)
                    live.update(_table(listener.view()))
        except KeyboardInterrupt:
            return


def _print_changes(listener: FleetListener) -> None:
    shown: dict[str, object] = {}
    while True:
        for node in listener.view():
            report = {k: v for k, v in node.report.items() if k not in ("published_at", "disk")}
            if shown.get(node.name) != (news := (node.condition, report)):
                shown[node.name] = news
                sys.stdout.write(json.dumps(node.to_json()) + "\n")
                sys.stdout.flush()
        time.sleep(_LOOK_S)


def _listener(config_file: ConfigFile) -> FleetListener:
    from tridetr.fleet import FleetListener

    return FleetListener(load_config(config_file))


def _table(nodes: Sequence[NodeView]) -> Table:
    from tridetr.fleet import counts

    summary = ", ".join(f"{number} {condition}" for condition, number in counts(nodes).items())
    table = Table(title=f"{len(nodes)} nodes" + (f": {summary}" if summary else ""))
    for name in ("node", "condition", "cameras", "model", "version", "disk free", "findings"):
        table.add_column(name, overflow="fold")
    for node in nodes:
        color = _COLORS[node.condition]
        facts = [plain(fact) for fact in _facts(node)]
        table.add_row(plain(node.name), Text(node.condition, color), *facts)
    return table


def _facts(node: NodeView) -> list[str]:
    report = node.report
    if not report:
        return [""] * 5
    states = [str(camera.get("camera")) for camera in report["cameras"].values()]
    cameras = f"{states.count('live')} of {len(states)} live"
    model = report.get("model") or {}
    disk = report.get("disk") or {}
    free = f"{disk['free_bytes'] / 1e9:.1f} GB" if disk else ""
    findings = "; ".join(
        f"{finding.get('camera') or 'node'}: {finding.get('message')}"
        for finding in report["findings"]
    )
    name = f"{model.get('name', '')} {str(model.get('checksum', ''))[:12]}".strip()
    return [cameras, name, str(report.get("version", "")), free, findings]
