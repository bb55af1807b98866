"""Tables of the command line show texts of other nodes and of models as they are."""

from __future__ import annotations

import io
import json
from pathlib import Path

import onnx
from rich.console import Console
from typer.testing import CliRunner

from support.tiny_export import tiny_export
from tridetr.cli.fleet_commands import _table
from tridetr.cli.main import app
from tridetr.fleet import Fleet
from tridetr.models.onnx_file import set_metadata

ODD = "[/red] [bold]x \x1b[2J\x07"


def test_a_message_of_another_node_is_neither_markup_nor_a_control_code() -> None:
    fleet = Fleet("t")
    report = {
        "published_at": "2026-11-22T05:11:20Z",
        "interval_s": 60,
        "cameras": {},
        "findings": [{"message": ODD}],
        "model": {"name": ODD},
        "version": ODD,
    }
    assert fleet.hear("t/n1/node", json.dumps(report).encode())
    fleet.hear(f"t/{ODD}/availability", b"online")
    out = io.StringIO()
    Console(file=out, width=400).print(_table(fleet.view(0)))
    assert "[/red] [bold]x ?[2J?" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_metadata_of_a_model_are_neither_markup_nor_control_codes(tmp_path: Path) -> None:
    model = tiny_export()
    set_metadata(model, {"author": ODD})
    onnx.save(model, tmp_path / "m.onnx")
    done = CliRunner().invoke(app, ["models", "info", str(tmp_path / "m.onnx")])
    assert done.exit_code == 0, done.output
    assert "?[2J?" in done.output
    assert "\x1b[2J" not in done.output
