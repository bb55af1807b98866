"""Build the summary that ``tridetr up --json`` prints at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tridetr.supervisor.counters import Counters
from tridetr.supervisor.timings import CameraTimings


def percentiles_ms(values: Sequence[float]) -> dict[str, float | None]:
    """Return p50 and p95 of durations [ms]; None if there are none.

    Example:
        >>> percentiles_ms([1.0, 2.0, 3.0])
        {'p50': 2.0, 'p95': 2.9}
    """
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(values), [50, 95])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}


def summarise(
    cameras: Sequence[str],
    counters: Counters,
    timings: Mapping[str, CameraTimings],
    restarts: Mapping[str, int],
    duration_s: float,
) -> dict[str, Any]:
    """Build the summary of a run.

    Args:
        cameras: Names, in the order of the configuration.
        counters: The processes' counters at the end.
        timings: Camera name to the timings sampled from its detection ring.
        restarts: Process name to number of restarts.
        duration_s: Length of the run [s].
    """

    def camera(name: str) -> dict[str, Any]:
        sampled = timings[name]
        return {
            "frames_published": counters.count("tridetr_frames_published_total", camera=name),
            "frames_inferred": counters.count("tridetr_frames_inferred_total", camera=name),
            "frames_skipped": counters.count("tridetr_frames_skipped_total", camera=name),
            "frames_paced": counters.count(
                "tridetr_frames_skipped_total", camera=name, reason="pacing"
            ),
            "frames_unchanged": counters.count(
                "tridetr_frames_skipped_total", camera=name, reason="unchanged"
            ),
            "detections": counters.count("tridetr_detections_total", camera=name),
            "state_changes": counters.count("tridetr_state_changes_total", camera=name),
            "events_published": counters.count("tridetr_events_published_total", camera=name),
            "frame_age_ms": percentiles_ms(sampled.frame_age_ms),
            "infer_ms": percentiles_ms(sampled.infer_ms),
            "total_ms": percentiles_ms(sampled.total_ms),
        }

    info = counters.labels_of("tridetr_model_info")
    return {
        "cameras": {name: camera(name) for name in cameras},
        "model": {
            "name": info.get("model"),
            "engine": info.get("engine"),
            "provider": info.get("provider"),
            "precision": info.get("precision"),
        },
        "restarts": dict(restarts),
        "duration_s": round(duration_s, 3),
    }
