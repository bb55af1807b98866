"""``python -m tridetr.models.cli``: the commands of ``tridetr models`` without the rest of tridetr."""

from __future__ import annotations

import sys

from tridetr.errors import TridetrError
from tridetr.models.cli import app
from tridetr.models.cli.show import errors

if __name__ == "__main__":
    try:
        app()
    except TridetrError as error:
        errors.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        sys.exit(2)
