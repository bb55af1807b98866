"""Evaluate the samples of a soak: what grew, and the report with its plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 0.25  # share of the run in which caches may still fill
# Per process and run beyond the warm-up: a leak of a frame an hour is seen in a night
GROWTH_MIB = 8.0
GROWTH_FDS = 4
LATENCIES = {
    "age_ms": "Age of a frame when the detector takes it, ms: early → late (peak of the medians)",
    "total_ms": "Taken to published, ms",
}
_PASSED = (
    f"No process grew by more than {GROWTH_MIB:g} MiB or {GROWTH_FDS} descriptors after the first quarter, segments "
    "and queues did not grow, the supervisor restarted nothing, no event came twice, nothing was left behind."
)


def trend(samples: Sequence[dict[str, Any]], role: str, key: str) -> tuple[float, float, float]:
    """Return the median of the first and the last fifth after the warm-up, and the peak."""
    series = [s["processes"][role][key] for s in samples if role in s["processes"]]
    series = series[int(len(series) * WARM_UP) :]
    part = max(1, len(series) // 5)
    return float(np.median(series[:part])), float(np.median(series[-part:])), float(max(series))


def faults_of(samples: Sequence[dict[str, Any]], facts: dict[str, Any]) -> list[str]:
    """Return the faults of a run; empty if there are none."""
    found = []
    for role in roles_of(samples):
        first, last, _ = trend(samples, role, "private_mib")
        if last - first > GROWTH_MIB:
            found.append(f"{role}: private memory grew from {first:.0f} to {last:.0f} MiB")
        first, last, _ = trend(samples, role, "fds")
        if last - first > GROWTH_FDS:
            found.append(f"{role}: descriptors grew from {first:.0f} to {last:.0f}")
    settled = samples[int(len(samples) * WARM_UP) :]
    for key in ("segments", "queues"):
        if settled[-1][key] > settled[0][key]:
            found.append(f"{key} grew from {settled[0][key]} to {settled[-1][key]}")
    restarts = {name: count for name, count in facts["node"]["restarts"].items() if count}
    if restarts:
        found.append(f"processes were restarted: {restarts}")
    if facts["doubled"]:
        found.append(f"events came twice: {facts['doubled']}")
    if facts["leftovers"]:
        found.append(f"left behind: {facts['leftovers']}")
    return found


def roles_of(samples: Sequence[dict[str, Any]]) -> list[str]:
    """Return the processes that existed at the end."""
    return sorted(samples[-1]["processes"])


def write_report(
    folder: Path, samples: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> list[str]:
    """Write JSON, plot and text; return the faults."""
    faults = faults_of(samples, facts)
    text = json.dumps({"facts": facts, "faults": faults, "samples": samples}, indent=1)
    (folder / "soak.json").write_text(text)
    _plot(folder / "soak.png", samples)
    (folder / "soak.md").write_text(_table(samples, facts, faults))
    return faults


def _table(samples: Sequence[dict[str, Any]], facts: dict[str, Any], faults: list[str]) -> str:
    lines = [
        f"{samples[-1]['at_s'] / 60:.0f} minutes, {facts['options']['cameras']} cameras "
        f"{facts['options']['width']}×{facts['options']['height']} at {facts['options']['fps']:g} fps, "
        f"{facts['options']['viewers']} viewers and one that reads a byte a second; {facts['cpus']} cores, "
        f"load average {np.median([s['load'] for s in samples]):.1f}.",
        "",
        "Early and late are medians of a fifth of the time each, after the first quarter.",
        "",
        "| process | private memory, MiB: early → late (peak) | resident, MiB | descriptors |",
        "|---|---|---|---|",
    ]
    for role in roles_of(samples):
        memory, resident, fds = (
            trend(samples, role, key) for key in ("private_mib", "rss_mib", "fds")
        )
        lines.append(
            f"| {role} | {memory[0]:.1f} → {memory[1]:.1f} ({memory[2]:.1f}) "
            f"| {resident[0]:.0f} → {resident[1]:.0f} ({resident[2]:.0f}) "
            f"| {fds[0]:.0f} → {fds[1]:.0f} ({fds[2]:.0f}) |"
        )
    last = samples[-1]
    confirmed = sum(camera["events_published"] for camera in facts["node"]["cameras"].values())
    lines += [
        "",
        *(f"- {label}: {_course(samples, key)}." for key, label in LATENCIES.items()),
        f"- Outbox: at most {_peak(samples, 'outbox')} events, {_peak(samples, 'dropped')} dropped. Queues: at most "
        f"{_peak(samples, 'queued')} messages. The server was restarted {_peak(samples, 'server_restarts')} times "
        f"by its watcher. The broker confirmed {confirmed} events. Left behind: {facts['leftovers'] or 'nothing'}.",
        "",
        f"Segments {samples[0]['segments']} → {last['segments']} "
        f"({last['segment_mib']:.0f} MiB), queues {samples[0]['queues']} → {last['queues']}, "
        f"results {sum(s['results'] for s in samples)}, frames to viewers {last['frames_to_viewers']}, "
        f"viewers that had to come again {facts['viewer_reconnects']}, "
        f"events {facts['events']}, of them doubled {len(facts['doubled'])}, "
        f"restarts {sum(facts['node']['restarts'].values())}.",
        "",
        *(f"- FAULT: {fault}" for fault in faults),
        *([] if faults else [_PASSED]),
    ]
    return "\n".join(lines) + "\n"


def _course(samples: Sequence[dict[str, Any]], key: str) -> str:
    """Return the medians of the first and the last fifth after the warm-up, and the peak."""
    series = [s[key] for s in samples[int(len(samples) * WARM_UP) :] if s[key] is not None]
    if not series:
        return "nothing was measured"
    part = max(1, len(series) // 5)
    early, late = np.median(series[:part]), np.median(series[-part:])
    return f"{early:.1f} → {late:.1f} ({max(series):.1f})"


def _peak(samples: Sequence[dict[str, Any]], key: str) -> str:
    values = [s[key] for s in samples if s[key] is not None]
    return f"{max(values):.0f}" if values else "?"


def _plot(path: Path, samples: Sequence[dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    minutes = [s["at_s"] / 60 for s in samples]
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 10), sharex=True, layout="constrained")
    for role in roles_of(samples):
        for axis, key in zip(axes, ("private_mib", "fds"), strict=False):
            values = [s["processes"].get(role, {}).get(key, np.nan) for s in samples]
            axis.plot(minutes, values, label=role, linewidth=1)
    axes[0].set_ylabel("private memory, MiB")
    axes[0].set_yscale("log")
    axes[0].legend(ncols=4, fontsize=7)
    axes[1].set_ylabel("open descriptors")
    for key, label in (("age_ms", "capture → taken"), ("total_ms", "taken → published")):
        values = [np.nan if s[key] is None else s[key] for s in samples]
        axes[2].plot(minutes, values, label=f"{label}, ms", linewidth=1)
    axes[2].plot(minutes, [100 * s["load"] for s in samples], label="load average × 100", alpha=0.4)
    axes[2].set_yscale("log")
    axes[2].legend(fontsize=7)
    axes[2].set_xlabel("minutes")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
