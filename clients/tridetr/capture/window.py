"""The last looks at a camera's picture."""

from __future__ import annotations

import numpy as np

from tridetr.capture.cells import (
    CELLS,
    COARSE_COLUMNS,
    COARSE_ROWS,
    TILE_COLUMNS,
    TILE_ROWS,
    TILES,
    Map,
    cosine,
    edge_strength,
    mean_of,
    typical,
)
from tridetr.capture.sharpness import Reading

_SIZE = 8  # looks
_CUT_LEVELS = 6.0  # a change of the whole picture by this much
# Correlation of edges from which such a change is one of light. Those of other views are not that alike
_SAME_PICTURE = 0.45


class Window:
    """Up to eight looks at the same picture, and their averages, with less noise than one look.

    Attributes:
        looks: Number of looks.
        turn: Index of the look that is replaced next.
        last: Cells of the newest look [16, 64].
        steps: Differences between neighbours in rows of the newest look [16, 63].
        mean: Cells, averaged.
        edges: Edge strength of the mean [15, 63], see `cells.edge_strength`.
        sharpness: Of the picture.
    """

    def __init__(self) -> None:
        self._cells: Map = np.zeros((_SIZE, *CELLS), np.float32)
        self._energy: Map = np.zeros((_SIZE, 2, *TILES), np.float32)
        self._change: Map = np.zeros((_SIZE, *TILES), np.float32)
        self.last = self.mean = self._cells[0]
        self.steps: Map = np.zeros((CELLS[0], CELLS[1] - 1), np.float32)
        self.edges: Map = np.zeros((CELLS[0] - 1, CELLS[1] - 1), np.float32)
        self.restart()

    def restart(self) -> None:
        """Remove all looks."""
        self.looks = self.turn = self._skipped = 0
        self.sharpness = Reading()

    @property
    def is_full(self) -> bool:
        return self.looks == _SIZE

    def is_near(self, cells: Map, noise: float) -> bool:
        """Return whether a look is as bright as the window, in most cells and apart from noise [levels]."""
        return self.looks > 0 and typical(cells - self.mean) < _CUT_LEVELS + 4 * noise

    def is_same(self, cells: Map) -> bool:
        """Return whether a look shows the picture in another light."""
        if self.looks == 0:
            return False
        return cosine(edge_strength(cells), self.edges) >= _SAME_PICTURE

    def add(self, cells: Map, steps: Map, fine: Map) -> None:
        """Add a look.

        Args:
            cells: Means of the cells [16, 64].
            steps: Their differences in rows [16, 63].
            fine: Squared differences of the samples in rows [64, 256].
        """
        if self.looks == 0:
            self.steps = steps
        # Noise is uncorrelated between two looks, so it averages out of this product
        across = steps * self.steps
        self._cells[self.turn] = cells
        self._energy[self.turn, 0] = TILE_ROWS @ fine @ TILE_COLUMNS
        self._energy[self.turn, 1] = COARSE_ROWS @ across @ COARSE_COLUMNS
        change = steps - self.steps
        change[:, :-1] -= change[:, 1:]  # light that moves is smooth
        np.abs(change, out=change)
        np.matmul(COARSE_ROWS @ change, COARSE_COLUMNS, out=self._change[self.turn])
        if self.looks == 1:
            self._change[0] = self._change[1]  # there was no look before the first
        self.turn = (self.turn + 1) % _SIZE
        self.looks = min(self.looks + 1, _SIZE)
        self._skipped = 0
        self.mean = mean_of(self._cells[: self.looks])
        self.edges = edge_strength(self.mean)
        self.last, self.steps = cells, steps

    def skip(self) -> None:
        """Notice a look that is not added; after eight in a row, the window restarts."""
        self._skipped += 1
        if self._skipped >= _SIZE:
            self.restart()

    @property
    def change(self) -> Map:
        """Mean magnitude of what changes in the cells' curvature from look to look, in each tile [looks, 8, 8]."""
        return self._change[: self.looks]

    def energy(self) -> Map:
        """Return the mean energy of fine and coarse edges in each tile [2, 8, 8]."""
        return mean_of(self._energy[: self.looks])

    def last_energy(self) -> Map:
        """Return the same of the newest look."""
        energy: Map = self._energy[self.turn - 1]
        return energy
