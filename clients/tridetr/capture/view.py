"""What a camera usually shows, reduced to cells."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from tridetr.capture.cells import (
    CELLS,
    Map,
    alike,
    cosine,
    edge_strength,
    middle_contrast,
    middle_gradients,
    middle_of,
)


def _no_cells() -> Map:
    return np.zeros(CELLS, np.float32)


def _no_edges() -> Map:
    return np.zeros((CELLS[0] - 1, CELLS[1] - 1), np.float32)


@dataclass(slots=True)
class View:
    """Averages over pictures.

    Attributes:
        cells: Means of the cells [16, 64].
        edges: Edge strength [15, 63], see `cells.edge_strength`.
        gradients: Of the middle rows, see `cells.middle_gradients`; updated by `refresh`.
        contrast: Of the middle rows, see `cells.middle_contrast`; updated by `refresh`.
        share: Share of the cells that have an edge.
        middle_share: The same of the middle rows.
    """

    cells: Map = field(default_factory=_no_cells)
    edges: Map = field(default_factory=_no_edges)
    gradients: Map = field(default_factory=lambda: middle_gradients(_no_cells()))
    contrast: float = 0.0
    share: float = 0.0
    middle_share: float = 0.0

    def is_lost(self, cells: Map, same: float, edges: Map | None = None) -> bool:
        """Return whether a picture shows nothing of the view.

        Args:
            cells: Means of its cells.
            same: Correlation up to which that is so.
            edges: Its edge strength; None to compute it if necessary.
        """
        if alike(cells, self.cells) >= same:
            return False
        return cosine(edge_strength(cells) if edges is None else edges, self.edges) < same

    def is_middle_lost(self, cells: Map, same: float, edges: Map | None = None) -> bool:
        """Return the same of the middle rows, to which overlays do not contribute (see `is_lost`)."""
        if cosine(middle_gradients(cells), self.gradients) >= same:
            return False
        edges = edge_strength(cells) if edges is None else edges
        return cosine(middle_of(edges), middle_of(self.edges)) < same

    def learn(self, cells: Map, edges: Map, share: float, middle_share: float, gain: float) -> None:
        """Move the averages towards a picture by the share `gain`."""
        self.cells += gain * (cells - self.cells)
        self.edges += gain * (edges - self.edges)
        self.share += gain * (share - self.share)
        self.middle_share += gain * (middle_share - self.middle_share)

    def refresh(self) -> None:
        """Update `gradients` and `contrast`."""
        self.gradients = middle_gradients(self.cells)
        self.contrast = middle_contrast(self.cells[:, 1:] - self.cells[:, :-1])

    def copy(self) -> View:
        """Return a view that does not change with this one."""
        return replace(self, cells=self.cells.copy(), edges=self.edges.copy())
