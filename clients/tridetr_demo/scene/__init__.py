"""Synthetic streets and halls: training scenes with true boxes, and a live camera without hardware.

Everything is drawn with numpy and Pillow. `draw_scene` draws single pictures; `SyntheticCamera` draws moving ones
directly into I420 planes.

    >>> import numpy as np
    >>> from tridetr_demo.scene import SyntheticCamera
    >>> camera = SyntheticCamera(640, 360, seed=1, scene="hall")
    >>> frame = np.empty((540, 640), np.uint8)
    >>> boxes = camera.draw(4.0, frame)
"""

from __future__ import annotations

from tridetr_demo.scene.camera import SyntheticCamera
from tridetr_demo.scene.compose import draw_scene
from tridetr_demo.scene.staging import CLASS_NAMES
from tridetr_demo.scene.world import TrueBox

__all__ = ["CLASS_NAMES", "SyntheticCamera", "TrueBox", "draw_scene"]
