"""Detects a camera that delivers pictures but cannot see: covered, dazzled, blurred or turned. Does no I/O.

Twice a second, the detector takes a *look*: it reduces 64 rows of the luma plane to 16 x 64 cell means, which are
robust against noise, and to differences between neighbouring samples, which measure sharpness. It estimates sensor
noise from one look to the next, and averages four seconds to remove most of it. A slowly updated reference of the
camera's usual view and sharpness follows the light from day to night; it is updated only while the camera can see.
Subtle changes are not reported, because a false alarm costs more than a missed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tridetr.capture.sources.base import Plane
from tridetr.shm.boards import BlindReason

Map = NDArray[np.float32]

LOOK_NS = 500_000_000
_SECOND_NS = 1_000_000_000
_ROWS, _COLUMNS = 64, 256  # samples; a cell has 4 x 4 of them, a tile 8 x 32
_CELLS, _TILES = (16, 64), (8, 8)
_MARGIN = 0.1  # of the height, at top and bottom, where cameras overlay date and name
_WINDOW = 8  # looks in the window
_MATURE = 60  # looks before the reference is used
_SLOW = 1200  # looks in the reference: ten minutes
_CUT_LEVELS = 6.0  # a change of the whole picture by this much between two looks is a cut

_EDGE_LEVELS, _EDGE_SIGMAS = 1.5, 5.0  # curvature of neighbouring cells that counts as an edge
_TRACE_LEVELS = 0.5  # differences of neighbouring cells below this do not count as part of a view
_FLAT_SHARE = 0.005  # of the cells must have an edge; with fewer, the picture shows nothing
_SAME_VIEW = 0.15  # correlation with the reference; above, the usual view still shows through
_OTHER_VIEW = 0.25  # below: a different view, in light that shows as many edges as usual
_SURELY_OTHER_VIEW = 0.1  # below: a different view, in any light
_OTHER_SHARE = 0.05  # of the cells must have an edge before two views are compared
_USUAL_SHARE = 0.35  # of the usual number of edges
_MOVED_CELLS = 2  # a view that fits better if shifted by this much was turned slightly
_MOVED_FIT, _MOVED_GAIN = 0.4, 1.5
_WHITE_LEVEL, _WHITE_SHARE = 230.0, 0.85
_SMOOTH_LEVELS = 6.0  # standard deviation of the cells; above, the picture is not just dim
# Sharpness below which a picture is blurred (0.25: no edges at all): absolute, and relative to the usual sharpness
_SOFT, _SOFT_CHANGE = 0.5, 0.5
_SHARP_GAIN = 0.2  # weight of one look: sharpness is noisy
_FEWEST_TILES = 6  # with edges; fewer are not enough to judge sharpness

_SEES_AGAIN_NS = 2 * _SECOND_NS
_NEW_VIEW_NS = 1800 * _SECOND_NS


# How long evidence must persist before it is reported
_PROOF_NS = {
    BlindReason.COVERED: 5 * _SECOND_NS,
    BlindReason.DAZZLED: 5 * _SECOND_NS,
    BlindReason.BLURRED: 15 * _SECOND_NS,
    BlindReason.TURNED: 15 * _SECOND_NS,
}


class BlindDetector:
    """Judges the view of one camera from its own frames.

    >>> detector = BlindDetector()
    >>> noise = np.random.default_rng(0)
    >>> lens_cap = [noise.integers(20, 40, (480, 640), np.uint8) for _ in range(20)]
    >>> [detector.judge(lambda step: y[::step], 480, n * LOOK_NS) for n, y in enumerate(lens_cap)][-1]
    <BlindReason.COVERED: 1>
    """

    def __init__(self) -> None:
        """Start without any knowledge of the camera."""
        self._size = (0, 0)
        # Allocated once: new pages for each look would cost more than the arithmetic
        self._pixels: Map = np.zeros((_ROWS, _COLUMNS), np.float32)
        self._fine: Map = np.zeros((_ROWS, _COLUMNS), np.float32)
        self._suspect: BlindReason | None = None
        self._strange_looks = 0  # in a row, each of which shows nothing of the usual view
        self._suspect_since_ns = 0
        self._found: BlindReason | None = None
        self._found_ns = 0
        self._forget()
        self.reset()

    @property
    def suspect(self) -> BlindReason | None:
        """Why the last looks indicate that the camera cannot see, whether that is proved or not yet."""
        if self._suspect is None and 0 < self._strange_looks <= _WINDOW:
            return BlindReason.TURNED  # until the window holds only the new view
        return self._suspect

    def reset(self) -> None:
        """Prepare for a new stream of the same camera; the learned view is kept, and so is what blinds the camera."""
        self._restart()
        self._next_look_ns = 0

    def judge(self, rows: Callable[[int], Plane], height: int, now_ns: int) -> BlindReason | None:
        """Judge a frame, at most once per `LOOK_NS`.

        Args:
            rows: Returns every n-th row of the luma plane, uint8 [rows, width]; called only when a look is due.
            height: Rows of the luma plane.
            now_ns: Monotonic time [ns].

        Returns:
            Why the camera cannot see; None if it can, or if the frame is too small to judge.
        """
        if now_ns < self._next_look_ns:
            return self._found
        self._next_look_ns = now_ns + LOOK_NS
        step = max(1, int(height * (1 - 2 * _MARGIN)) // _ROWS)
        first = int(height * _MARGIN) // step
        sample = rows(step)[first : first + _ROWS]
        if sample.shape[0] < _ROWS or sample.shape[1] < _COLUMNS:
            self._suspect = self._found = None
            self._strange_looks = 0
            return None
        if self._size != (height, sample.shape[1]):
            self._size = (height, sample.shape[1])
            self._forget()
            self._restart()
        self._measure(sample)
        self._strange_looks = self._strange_looks + 1 if self._is_strange() else 0
        self._decide(self._evidence(), now_ns)
        return self._found

    def _forget(self) -> None:
        self._learnt = 0
        self._view: Map = np.zeros(_CELLS, np.float32)  # usual cell means
        self._view_edges: Map = np.zeros((_CELLS[0] - 1, _CELLS[1] - 1), np.float32)
        self._view_share = 0.0
        self._sharpness = 0.0

    def _restart(self) -> None:
        self._looks = 0  # in the window
        self._turn = 0  # index in the window that is written next
        self._window_cells: Map = np.zeros((_WINDOW, *_CELLS), np.float32)
        self._window_energy: Map = np.zeros((_WINDOW, 2, *_TILES), np.float32)
        self._last = self._mean = self._window_cells[0]
        self._last_steps: Map = np.zeros((_CELLS[0], _CELLS[1] - 1), np.float32)
        self._noise = 1.0  # of a cell in one look [levels]
        self._share = 0.0
        self._sharp_now = 0.0

    def _measure(self, sample: Plane) -> None:
        """Add a look to the window: cell means, noise, and the energy of fine and coarse edges in each tile."""
        pixels, fine = self._pixels, self._fine
        # The copy makes the conversion to float faster
        pixels[...] = sample[:, :: sample.shape[1] // _COLUMNS][:, :_COLUMNS].copy()
        # Computed on one flat row: differences across row ends land in the last column, which no tile uses
        np.subtract(pixels.ravel()[1:], pixels.ravel()[:-1], out=fine.ravel()[:-1])
        np.multiply(fine, fine, out=fine)
        cells = _means(pixels)
        if self._looks and _typical(cells - self._mean) < _CUT_LEVELS + 4 * self._noise:
            # 0.954 = 0.6745 * sqrt(2): the median of normal noise in the difference of two looks
            change = _typical(cells - self._last) / 0.954
            self._noise += 0.25 * (change - self._noise)
        else:  # a new stream, or a cut
            self._looks, self._sharp_now = 0, 0.0
        steps = cells[:, 1:] - cells[:, :-1]
        if self._looks == 0:
            self._turn = 0
            self._last_steps = steps
        # Noise is uncorrelated between two looks, so it averages out of this product
        across = steps * self._last_steps
        self._window_cells[self._turn] = cells
        self._window_energy[self._turn, 0] = _TILE_ROWS @ fine @ _TILE_COLUMNS
        self._window_energy[self._turn, 1] = _COARSE_ROWS @ across @ _COARSE_COLUMNS
        self._turn = (self._turn + 1) % _WINDOW
        self._looks = min(self._looks + 1, _WINDOW)
        self._mean = _mean_of(self._window_cells[: self._looks])
        self._last, self._last_steps = cells, steps

    def _evidence(self) -> BlindReason | None:
        """Return what the current window indicates; update the reference if the camera can see."""
        mean = self._mean
        noise = max(0.2, self._noise) / math.sqrt(self._looks)
        least = max(_EDGE_LEVELS, _EDGE_SIGMAS * 2.45 * noise)
        curved = _curvature(mean)
        self._share = np.count_nonzero(curved > least) / curved.size
        if np.count_nonzero(mean >= _WHITE_LEVEL) >= _WHITE_SHARE * mean.size:
            return BlindReason.DAZZLED
        edges = _edges(mean)
        known = self._learnt >= _MATURE
        alike = _cosine(edges, self._view_edges) if known else 0.0
        if self._share < _FLAT_SHARE:
            trace = max(alike, _alike(mean, self._view)) if known else 0.0
            if trace < _SAME_VIEW:
                return BlindReason.COVERED
            if mean.std() > _SMOOTH_LEVELS:  # bright enough to show edges
                return BlindReason.BLURRED
        sharpness = self._measure_sharpness()
        if sharpness is not None:
            before = self._sharp_now or sharpness
            sharpness = self._sharp_now = before + _SHARP_GAIN * (sharpness - before)
        soft = min(_SOFT, _SOFT_CHANGE * self._sharpness) if known else _SOFT
        if sharpness is not None and sharpness < soft:
            return BlindReason.BLURRED
        if known and self._is_other_view(alike, edges):
            return BlindReason.TURNED
        if self._looks == _WINDOW and self._found is None:
            self._learn(sharpness, edges)
        return None

    def _measure_sharpness(self) -> float | None:
        """Return the ratio of fine to coarse edge strength (80th percentile of tiles); None if too few have edges."""
        fine, coarse = _mean_of(self._window_energy[: self._looks])
        clear = coarse > max(1.0, 16 * self._noise * self._noise)
        if np.count_nonzero(clear) < _FEWEST_TILES:
            return None
        # Noise adds to the fine edges. So does movement, but not in the quietest tiles
        tiles = fine.flatten()
        tiles.partition(6)
        quiet = float(tiles[6])
        noise = min(quiet, 32 * self._noise * self._noise)
        ratios = np.maximum(fine[clear] - noise, 0) / coarse[clear]
        ratios.sort()
        return math.sqrt(float(ratios[int(0.8 * len(ratios))]))

    def _is_strange(self) -> bool:
        """Return whether the newest look shows nothing of the usual view, which the window shows later in dim light."""
        return (
            self._learnt >= _MATURE
            and _alike(self._last, self._view) < _SAME_VIEW
            and _cosine(_edges(self._last), self._view_edges) < _SAME_VIEW
        )

    def _is_other_view(self, alike: float, edges: Map) -> bool:
        if self._share < _OTHER_SHARE:
            return False
        if alike < _SURELY_OTHER_VIEW:
            return True
        if self._share < _USUAL_SHARE * self._view_share:
            return False
        return alike < _OTHER_VIEW or _is_moved(edges, self._view_edges, alike)

    def _learn(self, sharpness: float | None, edges: Map) -> None:
        self._learnt += 1
        gain = 1 / min(self._learnt, _SLOW)
        self._view += gain * (self._mean - self._view)
        self._view_share += gain * (self._share - self._view_share)
        self._view_edges += gain * (edges - self._view_edges)
        if sharpness is not None:
            self._sharpness += gain * (sharpness - self._sharpness)

    def _decide(self, evidence: BlindReason | None, now_ns: int) -> None:
        """Report evidence once it has persisted; withdraw the report after a shorter time without any."""
        if (evidence is None) is not (self._suspect is None):
            self._suspect_since_ns = now_ns
        self._suspect = evidence
        lasted_ns = now_ns - self._suspect_since_ns
        if evidence is None:
            if lasted_ns >= _SEES_AGAIN_NS:
                self._found = None
        elif self._found is None and lasted_ns >= _PROOF_NS[evidence]:
            self._found, self._found_ns = evidence, now_ns
        if self._found is BlindReason.TURNED and now_ns - self._found_ns >= _NEW_VIEW_NS:
            self._forget()  # the new view is permanent: learn it
            self._found = None


def _averaging(samples: int, groups: int) -> Map:
    """Return the matrix [groups, samples] that takes the mean of each group of neighbours."""
    each = samples // groups
    matrix: Map = np.repeat(np.eye(groups, dtype=np.float32), each, axis=1) / np.float32(each)
    return matrix


_TILE_ROWS, _TILE_COLUMNS = _averaging(_ROWS, 8), _averaging(_COLUMNS, 8).T.copy()
_TILE_COLUMNS[-1] = 0  # holds no difference, see `_measure`
_COARSE_ROWS, _COARSE_COLUMNS = _averaging(16, 8), _averaging(64, 8).T[:-1].copy()

_CELL_SIDE = _ROWS // _CELLS[0]
_CELL_WEIGHTS = np.full(_CELL_SIDE, 1 / (_CELL_SIDE * _CELL_SIDE), np.float32)
_ROW_MEAN = np.full(_CELLS[1] - 1, 1 / (_CELLS[1] - 1), np.float32)
_COLUMN_MEAN = np.full(_CELLS[0] - 1, 1 / (_CELLS[0] - 1), np.float32)


def _means(pixels: Map) -> Map:
    """Return the mean of each cell [16, 64]; `numpy.mean` takes ten times as long."""
    rows = np.add.reduce(pixels.reshape(_CELLS[0], _CELL_SIDE, _COLUMNS), axis=1)
    cells: Map = (rows.reshape(-1, _CELL_SIDE) @ _CELL_WEIGHTS).reshape(_CELLS)
    return cells


def _mean_of(looks: Map) -> Map:
    """Return the mean over the first axis."""
    count = len(looks)
    weights = np.full(count, 1 / count, np.float32)
    mean: Map = (weights @ looks.reshape(count, -1)).reshape(looks.shape[1:])
    return mean


def _curvature(cells: Map) -> Map:
    """Return the magnitude of the second differences along rows [16, 62]."""
    # Computed on one flat row: differences across row ends land in the last two columns
    flat, curved = cells.ravel(), np.empty_like(cells)
    inner = curved.ravel()[:-2]
    np.add(flat[:-2], flat[2:], out=inner)
    inner -= 2 * flat[1:-1]
    np.abs(inner, out=inner)
    return curved[:, :-2]


def _typical(change: Map) -> float:
    """Return the median magnitude of a change, which movement in part of the picture does not affect."""
    return _median(np.abs(change[::2, ::2]).ravel())


def _median(sizes: Map) -> float:
    """Return the upper median of a flat array, which this sorts in part."""
    sizes.partition(sizes.size // 2)
    return float(sizes[sizes.size // 2])


def _edges(cells: Map) -> Map:
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


def _alike(cells: Map, other: Map) -> float:
    """Return the correlation of signed gradients, which finds the faintest trace of a view."""
    return _cosine(_gradients(cells), _gradients(other))


def _gradients(cells: Map) -> Map:
    """Return the differences between neighbours, down and across [2, 16, 64]; 0 in the first row and column."""
    gradients: Map = np.zeros((2, *cells.shape), np.float32)
    np.subtract(cells[1:], cells[:-1], out=gradients[0, 1:])
    np.subtract(cells[:, 1:], cells[:, :-1], out=gradients[1, :, 1:])
    return gradients


def _cosine(one: Map, two: Map) -> float:
    one, two = one.ravel(), two.ravel()
    norm = math.sqrt(float(one.dot(one)) * float(two.dot(two)))
    return float(one.dot(two)) / norm if norm else 0.0


def _is_moved(edges: Map, usual: Map, alike: float) -> bool:
    """Return whether the edges fit the usual ones much better when shifted."""
    if alike * _MOVED_GAIN > 1:
        return False
    spectrum = np.fft.rfft2(edges) * np.conj(np.fft.rfft2(usual))
    fits = np.fft.irfft2(spectrum, s=edges.shape)
    down, across = np.unravel_index(int(fits.argmax()), fits.shape)
    rows, columns = edges.shape
    moved = max(min(down, rows - down), min(across, columns - across))
    norm = math.sqrt(float(np.vdot(edges, edges)) * float(np.vdot(usual, usual)))
    best = float(fits.max()) / norm if norm else 0.0
    return bool(moved >= _MOVED_CELLS and best > max(_MOVED_FIT, _MOVED_GAIN * alike))
