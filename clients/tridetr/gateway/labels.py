"""Names of the classes that the serving model knows."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tridetr.served_model import ServedModelReader


class Labels:
    """Class id to name; follows the model that serves."""

    def __init__(self, run_dir: Path) -> None:
        self._models = ServedModelReader(run_dir)
        self._names: dict[int, str] = {}
        self.engine = ""
        self.refresh()

    def refresh(self) -> None:
        """Take over the names of the model that serves now; costs a system call."""
        self._names = {number: name for name, number in self._models.classes().items()}
        model = self._models.read()
        provider = model.provider.removesuffix("ExecutionProvider") if model else ""
        parts = (model.engine, provider, model.precision) if model else ()
        self.engine = " ".join(part for part in parts if part)

    def unknown(self, names: Collection[str]) -> tuple[str, ...]:
        """Return those ``names`` that the serving model does not have; none while no model has reported."""
        known = self._models.read() is not None
        return tuple(name for name in names if known and name not in self._names.values())

    def of(self, class_id: int) -> str:
        """Return the name of a class, or `class N` where the model has none for it."""
        return self._names.get(class_id, f"class {class_id}")
