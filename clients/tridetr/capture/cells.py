"""Measures of a picture that is reduced to cells [16, 64], each the mean of 4 x 4 samples of the luma plane."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]

ROWS, COLUMNS = 64, 256  # samples; a cell has 4 x 4 of them, a tile 8 x 32
CELLS, TILES = (16, 64), (8, 8)
# Rows of cells without the texts and logos that cameras overlay at top and bottom
MIDDLE = slice(5, 11)

_TRACE_LEVELS = 0.5  # differences of neighbouring cells below this do not count as part of a view
_MOVED_CELLS = 2  # a view that fits better if shifted by this much was turned slightly
_MOVED_FIT, _MOVED_GAIN = 0.4, 1.5
_WHITE_LEVEL, _WHITE_SHARE, _FEWEST_WHITE = 230.0, 0.85, 0.5
_BLACK_LEVEL = 24.0


def _averaging(samples: int, groups: int) -> Map:
    """Return the matrix [groups, samples] that takes the mean of each group of neighbours."""
    each = samples // groups
    matrix: Map = np.repeat(np.eye(groups, dtype=np.float32), each, axis=1) / np.float32(each)
    return matrix


TILE_ROWS, TILE_COLUMNS = _averaging(ROWS, 8), _averaging(COLUMNS, 8).T.copy()
TILE_COLUMNS[-1] = 0  # holds no difference, see `BlindDetector._measure`
COARSE_ROWS, COARSE_COLUMNS = _averaging(16, 8), _averaging(64, 8).T[:-1].copy()

_CELL_SIDE = ROWS // CELLS[0]
_CELL_WEIGHTS = np.full(_CELL_SIDE, 1 / (_CELL_SIDE * _CELL_SIDE), np.float32)
_ROW_MEAN = np.full(CELLS[1] - 1, 1 / (CELLS[1] - 1), np.float32)
_MIDDLE_MEAN = np.full(6, 1 / 6, np.float32)
MIDDLE_STEPS = 6 * (CELLS[1] - 1)
_COLUMN_MEAN = np.full(CELLS[0] - 1, 1 / (CELLS[0] - 1), np.float32)


def means(pixels: Map) -> Map:
    """Return the mean of each cell [16, 64]; `numpy.mean` takes ten times as long."""
    rows = np.add.reduce(pixels.reshape(CELLS[0], _CELL_SIDE, COLUMNS), axis=1)
    cells: Map = (rows.reshape(-1, _CELL_SIDE) @ _CELL_WEIGHTS).reshape(CELLS)
    return cells


def mean_of(looks: Map) -> Map:
    """Return the mean over the first axis."""
    count = len(looks)
    weights = np.full(count, 1 / count, np.float32)
    mean: Map = (weights @ looks.reshape(count, -1)).reshape(looks.shape[1:])
    return mean


def curvature(cells: Map) -> Map:
    """Return the magnitude of the second differences along rows [16, 62]."""
    # Computed on one flat row: differences across row ends land in the last two columns
    flat, curved = cells.ravel(), np.empty_like(cells)
    inner = curved.ravel()[:-2]
    np.add(flat[:-2], flat[2:], out=inner)
    inner -= 2 * flat[1:-1]
    np.abs(inner, out=inner)
    return curved[:, :-2]


def typical(change: Map) -> float:
    """Return the median magnitude of a change, which movement in part of the picture does not affect."""
    return _median(np.abs(change[::2, ::2]).ravel())


def _median(sizes: Map) -> float:
    """Return the upper median of a flat array, which this sorts in part."""
    sizes.partition(sizes.size // 2)
    return float(sizes[sizes.size // 2])


def edge_strength(cells: Map) -> Map:
    """Return the edge strength [15, 63] regardless of sign, because infrared light swaps dark and bright."""
    corner = cells[:-1, :-1]
    strength: Map = cells[:-1, 1:] - corner
    np.abs(strength, out=strength)
    down = cells[1:, :-1] - corner
    strength += np.abs(down, out=down)
    # A few lamps must not outweigh a dark view, and what is uniform must not erase the rest of the view
    some = strength[::2, ::2]
    some = some[some > _TRACE_LEVELS]
    usual = _median(some) if some.size else _TRACE_LEVELS
    np.minimum(strength, np.float32(3 * usual), out=strength)
    np.sqrt(strength, out=strength)
    # Remove row and column means: every view has most of its edges near the ground
    strength -= (strength @ _ROW_MEAN)[:, None]
    strength -= _COLUMN_MEAN @ strength
    return strength


def is_white(cells: Map) -> bool:
    """Return whether the picture is white, apart from black bars that the camera may overlay."""
    white = np.count_nonzero(cells >= _WHITE_LEVEL)
    if white < _FEWEST_WHITE * cells.size:
        return False
    return bool(white >= _WHITE_SHARE * np.count_nonzero(cells >= _BLACK_LEVEL))


def middle_share(edged: NDArray[np.bool_]) -> float:
    """Return the share of the middle cells that have an edge; whole columns, as of black bars, do not count."""
    middle = edged[MIDDLE]
    columns = np.logical_and.reduce(middle, axis=0)
    return float(np.count_nonzero(middle) - len(middle) * np.count_nonzero(columns)) / middle.size


def middle_gradients(cells: Map) -> Map:
    """Return the gradients of the middle rows, without the column means, which black bars contribute to."""
    gradients = _gradients(cells[MIDDLE])
    gradients -= (_MIDDLE_MEAN @ gradients)[:, None]
    return gradients


def middle_contrast(steps: Map) -> float:
    """Return the sum of the squares of differences across [16, 63] in the middle rows, without the column means."""
    middle = steps[MIDDLE]
    middle = middle - _MIDDLE_MEAN @ middle
    return float(np.vdot(middle, middle))


def middle_of(edges: Map) -> Map:
    """Return the edge strength in the middle rows, without the column means, which overlays contribute to."""
    middle = edges[MIDDLE]
    return middle - _MIDDLE_MEAN @ middle


def alike(cells: Map, other: Map) -> float:
    """Return the correlation of signed gradients, which finds the faintest trace of a view."""
    return cosine(_gradients(cells), _gradients(other))


def _gradients(cells: Map) -> Map:
    """Return the differences between neighbours, down and across [2, rows, columns]; 0 in the first row or column."""
    gradients: Map = np.zeros((2, *cells.shape), np.float32)
    np.subtract(cells[1:], cells[:-1], out=gradients[0, 1:])
    np.subtract(cells[:, 1:], cells[:, :-1], out=gradients[1, :, 1:])
    return gradients


def cosine(one: Map, two: Map) -> float:
    """Return the correlation of two maps; 0 if one of them is empty."""
    one, two = one.ravel(), two.ravel()
    norm = math.sqrt(float(one.dot(one)) * float(two.dot(two)))
    return float(one.dot(two)) / norm if norm else 0.0


def is_moved(edges: Map, usual: Map, likeness: float) -> bool:
    """Return whether the edges fit the usual ones much better when shifted."""
    if likeness * _MOVED_GAIN > 1:
        return False
    spectrum = np.fft.rfft2(edges) * np.conj(np.fft.rfft2(usual))
    fits = np.fft.irfft2(spectrum, s=edges.shape)
    down, across = np.unravel_index(int(fits.argmax()), fits.shape)
    rows, columns = edges.shape
    moved = max(min(down, rows - down), min(across, columns - across))
    norm = math.sqrt(float(np.vdot(edges, edges)) * float(np.vdot(usual, usual)))
    best = float(fits.max()) / norm if norm else 0.0
    return bool(moved >= _MOVED_CELLS and best > max(_MOVED_FIT, _MOVED_GAIN * likeness))
