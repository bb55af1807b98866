"""Read the counters of all processes of a node from their metric files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tridetr.telemetry.process_files import read_families

Labels = frozenset[tuple[str, str]]


class Counters:
    """A snapshot of all samples."""

    def __init__(self, samples: Mapping[tuple[str, Labels], float]) -> None:
        self._samples = samples

    @classmethod
    def read(cls, folder: Path) -> Counters:
        """Read the metric files in ``folder``; empty if one of them is damaged or just being created."""
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in read_families(folder)
                for sample in family.samples
            }
        )

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of ``name`` that have at least these labels.

        Example:
            >>> samples = {
            ...     ("frames_total", frozenset({("camera", "hall")})): 2.0,
            ...     ("frames_total", frozenset({("camera", "yard")})): 3.0,
            ... }
            >>> Counters(samples).total("frames_total")
            5.0
            >>> Counters(samples).total("frames_total", camera="hall")
            2.0
        """
        wanted = set(labels.items())
        return sum(
            value
            for (sample, sample_labels), value in self._samples.items()
            if sample == name and wanted <= sample_labels
        )

    def count(self, name: str, **labels: str) -> int:
        """Return ``total``, rounded to an integer."""
        return round(self.total(name, **labels))

    def labels_of(self, name: str) -> dict[str, str]:
        """Return the labels of the first sample of ``name``, such as an info metric; empty if there is none."""
        found = (labels for sample, labels in self._samples if sample == name)
        return dict(next(found, frozenset()))
