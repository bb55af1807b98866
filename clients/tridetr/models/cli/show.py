"""Helpers of the commands: consoles, progress bars, and an error for missing packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tridetr.errors import ModelError

console = Console()
errors = Console(stderr=True)


@contextmanager
def packages() -> Iterator[None]:
    """Convert a failed import in the `with` block to an error that shows how to install the package."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tridetr"):
            raise
        raise ModelError(
            f"the package {error.name} is missing: pip install 'tridetr[server,models]'"
        ) from error


def step(text: str) -> None:
    """Print the description of a step."""
    console.print(f"[dim]•[/] {text}", highlight=False)


@contextmanager
def counting(description: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar with ``total`` steps; yield a function that advances it by one."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def downloading(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a download's progress bar; yield a function that sets the bytes so far and the total."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(description, total=None, start=True)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def export_python(python: Path | None, extra: list[str], *, live: bool = True) -> Path:
    """Return the given interpreter, or that of the export environment, which is created on first use.

    Args:
        python: an interpreter to use instead of the export environment's.
        extra: further pip requirements.
        live: show pip's output in a status line; False if a progress bar is already shown.
    """
    from tridetr.models.environment import export_python as make

    if python is not None:
        return python
    if not live:
        return make(
            extra, lambda line: step(line) if line.startswith(("creating", "Down")) else None
        )
    with errors.status("export environment") as status:
        return make(extra, lambda line: status.update(f"export environment: {line[:90]}"))
