"""Detects a camera that delivers pictures but cannot see: covered, dazzled, blurred or turned. Does no I/O.

Twice a second, the detector takes a *look*: it reduces 64 rows of the luma plane to 16 x 64 cell means, which are
robust against noise, and to differences between neighbouring samples, which measure sharpness. It estimates sensor
noise from one look to the next, and averages four seconds to remove most of it. A slowly updated reference of the
camera's usual view and sharpness follows the light from day to night; it is updated only while the camera can see.
Dew, dust or a web can cover a lens so slowly that the reference follows. Therefore a bright picture without edges is
also compared with the view from when it was clear, and so is the contrast: through a film, a thin cloth or spray, a
trace of the view remains, in which nobody can be seen.
Texts, logos and bars that the camera draws into its pictures stay when it is covered or turned. Therefore the middle
rows, which seldom hold any, are also compared alone. Sharpness is not: lamps at night are soft, too.
A light that blinks must not restart the proof: a look in which the edges stay is one at the same picture, however
bright, and after a flash that hides them the looks before it count on.
Subtle changes are not reported, because a false alarm costs more than a missed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tridetr.capture.cells import (
    COLUMNS,
    MIDDLE,
    ROWS,
    Map,
    alike,
    cosine,
    curvature,
    is_moved,
    is_white,
    means,
    middle_share,
    typical,
)
from tridetr.capture.contrast import Contrast
from tridetr.capture.sharpness import Sharpness, sharpness_of
from tridetr.capture.sources.base import Plane
from tridetr.capture.view import View
from tridetr.capture.window import Window
from tridetr.shm.boards import BlindReason

LOOK_NS = 500_000_000
_SECOND_NS = 1_000_000_000
_MARGIN = 0.1  # of the height, at top and bottom, where cameras overlay date and name
_WINDOW = 8  # looks
_YOUNG = 4  # looks after a cut, in which the absence of evidence means little
# 0.6745 * sqrt(4): median of normal noise in the difference of two looks' steps
_NOISE_OF_STEPS = 1.35
_MATURE = 60  # looks before the reference is used
_SLOW = 1200  # looks in the reference: ten minutes

_EDGE_LEVELS, _EDGE_SIGMAS = 1.5, 5.0  # curvature of neighbouring cells that counts as an edge
_FLAT_SHARE = 0.005  # of the cells must have an edge; with fewer, the picture shows nothing
_MIDDLE_SHARE = 0.02  # of the middle cells must have an edge to recognise a view by its middle
_SAME_VIEW = 0.15  # correlation with the reference; above, the usual view still shows through
# Above, a view without edges is no longer covered: noise alone is never that alike
_UNCOVERED = 0.3
_OTHER_VIEW = 0.25  # below: a different view, in light that shows as many edges as usual
_CLEARLY_SAME = 0.75  # above: the same view, since overlays alone are not that alike
_SURELY_OTHER_VIEW = 0.1  # below: a different view, in any light
_REST = 0.3  # correlation with the reference that at least a rest of the usual view has
_OTHER_SHARE = 0.05  # of the cells must have an edge; with fewer, a view shows hardly anything
_BRIGHT_LEVEL = 40.0  # mean; below, it can be too dark to show edges
_RICH_SHARE = 0.1  # of the middle cells had an edge; that all are gone is unlikely, even in snow
_CLEAR = 0.7  # share of the strongest gradients, with which a view is clear
_DARKENED = 240  # looks for which a loss of contrast is suspicious, longer than `sentry.hold_s`
_CLEAR_DECAY = 1 - 1 / 21_600  # per window: the strongest gradients are forgotten within a day
_LIT_DECAY = 0.9  # per window: the contrast in the light is forgotten within two minutes
_USUAL_SHARE = 0.35  # of the usual number of edges
_SMOOTH_LEVELS = 6.0  # standard deviation of the cells; above, the picture is not just dim

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
        self._pixels: Map = np.zeros((ROWS, COLUMNS), np.float32)
        self._fine: Map = np.zeros((ROWS, COLUMNS), np.float32)
        self._suspect: BlindReason | None = None
        self._strange_looks = 0  # in a row, each of which shows nothing of the usual view
        self._faded_looks = 0  # in a row, each of which has hardly any contrast
        self._soft_looks = 0  # of every other look, in a row, each of which is blurred
        self._suspect_since_ns = 0  # indications of any kind
        self._reason_since_ns = 0  # of this kind
        self._uncounted = 0  # looks in a row, up to the newest
        self._found: BlindReason | None = None
        # When the camera was turned in this time of blindness, whatever its reason is now
        self._turned_since_ns: int | None = None
        # Whether the size changed while the camera was turned: there is no view to compare with
        self._turned_before = False
        self._contrast = Contrast()
        self._lit = 0.0  # contrast that lasted lately, as in the light of a lamp at night
        self._window = Window()
        self._aside = Window()  # what was seen before the last cut
        self._forget()
        self.reset()

    @property
    def is_suspect(self) -> bool:
        """Whether the last looks indicate that the camera cannot see, whether that is proved or not yet."""
        return (
            self._suspect is not None
            or 0 < self._strange_looks <= _WINDOW  # until the window holds only the new view
            # Darkness with a faint rest is not reported, but a person in view when the light goes off has not left
            or 0 < self._faded_looks <= _DARKENED
            or 0 < self._soft_looks <= _WINDOW  # until the smoothed sharpness has followed
        )

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
        step = max(1, int(height * (1 - 2 * _MARGIN)) // ROWS)
        first = int(height * _MARGIN) // step
        sample = rows(step)[first : first + ROWS]
        if sample.shape[0] < ROWS or sample.shape[1] < COLUMNS:
            self._suspect = self._found = self._turned_since_ns = None
            self._turned_before = False
            self._strange_looks = self._faded_looks = self._soft_looks = 0
            return None
        if self._size != (height, sample.shape[1]):
            self._size = (height, sample.shape[1])
            self._turned_before = self._turned_since_ns is not None
            self._forget()
            self._restart()
        self._measure(sample)
        self._strange_looks = self._strange_looks + 1 if self._is_strange(self._window.last) else 0
        window, known = self._window, self._learnt >= _MATURE
        if known:
            most = max(self._view.contrast, self._clear.contrast, self._lit)
            self._contrast.measure(window, self._noise, most)
        has_faded = self._contrast.has_faded(max(self._view.contrast, self._lit))
        self._faded_looks = self._faded_looks + 1 if has_faded else 0
        if self._faded_looks > _DARKENED:
            self._lit = 0.0
        elif known and self._faded_looks == 0 and window.is_full and window.turn == 0:
            self._lit = max(self._contrast.take_least(), _LIT_DECAY * self._lit)
        if window.turn % 2:  # the sharpness of the window is measured at the others
            sharpness = (
                sharpness_of(window.last_energy(), window.change, self._noise) if known else None
            )
            is_soft = self._sharpness.is_soft(sharpness, known)
            self._soft_looks = self._soft_looks + 1 if is_soft else 0
        evidence = self._evidence()
        if evidence is None and self._is_interrupted():
            self._uncounted += 1
        else:
            self._decide(evidence, now_ns)
            self._uncounted = 0
        return self._found

    def _forget(self) -> None:
        self._learnt = 0
        self._view = View()  # the usual one
        self._clear = View()  # the same when it was clear, updated once per window
        self._clear_strength = 0.0  # most that the gradients have been
        self._lit = 0.0
        self._sharpness = Sharpness()

    def _restart(self) -> None:
        self._window.restart()
        self._aside.restart()
        self._noise = 1.0  # of a cell in one look [levels]
        self._share = self._middle_share = 0.0
        self._likeness = 0.0  # of the edges to the usual view
        self._contrast.restart()

    def _measure(self, sample: Plane) -> None:
        """Add a look to the window that shows the same picture; start one if none does."""
        pixels, fine = self._pixels, self._fine
        # The copy makes the conversion to float faster
        pixels[...] = sample[:, :: sample.shape[1] // COLUMNS][:, :COLUMNS].copy()
        # Computed on one flat row: differences across row ends land in the last column, which no tile uses
        np.subtract(pixels.ravel()[1:], pixels.ravel()[:-1], out=fine.ravel()[:-1])
        np.multiply(fine, fine, out=fine)
        cells = means(pixels)
        steps = cells[:, 1:] - cells[:, :-1]
        if self._is_near(cells):
            # Of the steps, because light that changes hardly affects them
            change = typical(steps - self._window.steps) / _NOISE_OF_STEPS
            self._noise += 0.25 * (change - self._noise)
        self._window.add(cells, steps, fine)

    def _is_near(self, cells: Map) -> bool:
        """Choose the window for a look.

        A cut sets the window aside. When its picture is back, as after a flash, it is used again.

        Returns:
            Whether the look is as bright as that window.
        """
        window, aside = self._window, self._aside
        aside.skip()
        if window.is_near(cells, self._noise):
            return True
        if window.is_same(cells):
            return False
        is_near = aside.is_near(cells, self._noise)
        if is_near or aside.is_same(cells):
            self._window, self._aside = aside, window
            return is_near
        if window.looks >= aside.looks:
            self._window, self._aside = aside, window
        self._window.restart()
        return False

    def _evidence(self) -> BlindReason | None:
        """Return what the current window indicates; update the reference if the camera can see."""
        window, mean = self._window, self._window.mean
        noise = max(0.2, self._noise) / math.sqrt(window.looks)
        least = max(_EDGE_LEVELS, _EDGE_SIGMAS * 2.45 * noise)
        curved = curvature(mean)
        edged = curved > least
        self._share = np.count_nonzero(edged) / edged.size
        self._middle_share = middle_share(edged)
        if is_white(mean):
            return BlindReason.DAZZLED
        edges = window.edges
        known = self._learnt >= _MATURE
        same = _UNCOVERED if self._found is BlindReason.COVERED else _SAME_VIEW
        if known and self._is_veiled(edges, same):
            self._view = self._clear.copy()  # forget the cover
        self._likeness = likeness = cosine(edges, self._view.edges) if known else 0.0
        if (
            self._middle_share < _FLAT_SHARE
            and self._knows_middle()
            and self._is_strange(mean, same)
        ):
            return BlindReason.COVERED
        if self._share < _FLAT_SHARE:
            trace = max(likeness, alike(mean, self._view.cells)) if known else 0.0
            if trace < same:
                return BlindReason.COVERED
            if mean.std() > _SMOOTH_LEVELS:  # bright enough to show edges
                return BlindReason.BLURRED
        if self._is_faint():
            return BlindReason.BLURRED
        if window.turn % 2 == 0:
            window.sharpness.measure(window.energy(), window.change, self._noise)
        if self._sharpness.is_soft(window.sharpness.value, known):
            return BlindReason.BLURRED
        if known and self._is_other_view(likeness, edges):
            return BlindReason.TURNED
        if window.is_full and self._found is None:
            self._learn(edges)
        return None

    def _is_interrupted(self) -> bool:
        """Return whether the picture that indicated blindness may only be interrupted, for example by a flash."""
        return (
            self._suspect is not None
            and self._aside.looks > 0
            and self._window.looks < _YOUNG
            and self._uncounted < _YOUNG
            and self._likeness < _OTHER_VIEW
        )

    def _knows_middle(self) -> bool:
        return self._learnt >= _MATURE and self._view.middle_share >= _MIDDLE_SHARE

    def _is_strange(self, cells: Map, same: float = _SAME_VIEW) -> bool:
        """Return whether cells show nothing of the usual view, apart from what the camera may overlay.

        Args:
            cells: means of a picture's cells.
            same: correlation with the reference up to which that is so.
        """
        if self._learnt < _MATURE:
            return False
        if not self._knows_middle():
            return self._view.is_lost(cells, same)
        return self._view.is_middle_lost(cells, same)

    def _is_veiled(self, edges: Map, same: float) -> bool:
        """Return whether a bright picture, or its middle, shows nothing of the view from when it was clear."""
        mean, clear = self._window.mean, self._clear
        if self._share < _FLAT_SHARE:
            return mean.mean() > _BRIGHT_LEVEL and clear.is_lost(mean, same, edges)
        return (  # apart from what the camera may overlay
            self._middle_share < _FLAT_SHARE
            and clear.middle_share >= _RICH_SHARE
            and mean[MIDDLE].mean() > _BRIGHT_LEVEL
            and clear.is_middle_lost(mean, same, edges)
        )

    def _is_faint(self) -> bool:
        """Return whether a bright picture has hardly any contrast: it is seen through a film, a thin cloth or spray."""
        clear = self._clear
        if not self._contrast.has_faded(clear.contrast):
            return False
        level = float(self._window.mean.mean())
        light = min(1.0, level / float(clear.cells.mean()))
        return level > _BRIGHT_LEVEL and self._contrast.has_faded(clear.contrast, light)

    def _is_other_view(self, likeness: float, edges: Map) -> bool:
        view, mean = self._view, self._window.mean
        if self._share < _OTHER_SHARE:  # a wall, the sky, or lamps in the dark
            return view.share >= _OTHER_SHARE and view.is_lost(mean, _REST, edges)
        if likeness < _SURELY_OTHER_VIEW:
            return True
        if (
            likeness < _CLEARLY_SAME
            and self._knows_middle()
            and view.is_middle_lost(mean, _REST, edges)
        ):
            return True
        if self._share < _USUAL_SHARE * view.share:
            return False
        return likeness < _OTHER_VIEW or is_moved(edges, view.edges, likeness)

    def _learn(self, edges: Map) -> None:
        self._learnt += 1
        gain = 1 / min(self._learnt, _SLOW)
        self._view.learn(self._window.mean, edges, self._share, self._middle_share, gain)
        if self._window.turn == 0:
            self._view.refresh()
            self._keep_clear_view()
        self._sharpness.learn(self._window.sharpness, gain)

    def _keep_clear_view(self) -> None:
        strength = float(np.linalg.norm(self._view.gradients))
        self._clear_strength = max(strength, self._clear_strength * _CLEAR_DECAY)
        if strength >= _CLEAR * self._clear_strength:
            self._clear = self._view.copy()

    def _decide(self, evidence: BlindReason | None, now_ns: int) -> None:
        """Report evidence once it has persisted; withdraw the report after a shorter time without any."""
        if (evidence is None) is not (self._suspect is None):
            self._suspect_since_ns = now_ns - self._uncounted * LOOK_NS
        if evidence is not self._suspect:
            self._reason_since_ns = now_ns
        self._suspect = evidence
        lasted_ns = now_ns - self._suspect_since_ns
        if evidence is None:
            if lasted_ns >= _SEES_AGAIN_NS:
                self._found = BlindReason.TURNED if self._turned_before else None
        elif self._found is None:
            if lasted_ns >= _PROOF_NS[evidence]:
                self._found = evidence
        elif now_ns - self._reason_since_ns >= _PROOF_NS[evidence]:
            self._found = evidence  # such as no longer covered, but turned
        if self._found is None:
            self._turned_since_ns = None
        elif self._turned_since_ns is None:
            if self._found is BlindReason.TURNED:
                self._turned_since_ns = now_ns
        elif (
            now_ns - self._turned_since_ns >= _NEW_VIEW_NS
            and self._found is BlindReason.TURNED
            and evidence in (BlindReason.TURNED, None)
            and self._share >= _OTHER_SHARE  # it shows a view
        ):
            self._forget()  # the new view is permanent: learn it
            self._found, self._turned_since_ns, self._turned_before = None, None, False
