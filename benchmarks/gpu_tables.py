"""Tables of `make bench-gpu` for docs/benchmarks.md; what was not measured is named, never left out."""

from __future__ import annotations

from statistics import median
from typing import Any

from table import Cell, Result, Table

BATCHES = (1, 2, 4, 8)


def gpu_tables(report: Result) -> list[Table]:
    """Return the tables of a report of `benchmarks/gpu/all.py`."""
    parts = report["parts"]
    return [_card(parts), _engine(parts), _live(parts), _checks(parts), _costs(parts)]


def _card(parts: dict[str, Result]) -> Table:
    first = next((part for part in parts.values() if "gpu" in part), None)
    rows: list[tuple[Cell, ...]] = []
    if first is not None:
        gpu = first["gpu"]
        cuda = ".".join(map(str, gpu["cuda"] or ())) or "unknown"
        rows.append(("card", ", ".join(one["name"] for one in gpu["gpus"]) or "unknown"))
        rows.append(("driver, newest CUDA", f"{gpu['driver']}, {cuda}"))
        rows.append(("processor", f"{first['machine']['cpu']}, {first['machine']['cores']} cores"))
    engine = _figures(parts, "engine")
    if engine:
        rows.append(("model, ONNX Runtime", f"{engine['model']}, {engine['onnxruntime']}"))
        rows.append(("`models fuse --target cuda`", "; ".join(engine["for cuda"])))
    failed = [f"{name} ({part['failed']})" for name, part in parts.items() if "failed" in part]
    rows.append(("parts that failed", "; ".join(failed) or "none"))
    return Table("gpu card", "The GPU", ("", ""), rows)


def _engine(parts: dict[str, Result]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for way, found in _figures(parts, "engine").get("ways", {}).items():
        if "not_measured" in found:
            rows.append((way, None, None, found["not_measured"], *[None] * (len(BATCHES) - 1)))
            continue
        batches = [found.get(f"batch {batch}", {}) for batch in BATCHES]
        one = batches[0].get("ms", {}).get("p50")
        rows.append(
            (way, found["mib"], one, *(batch.get("frames_per_second") for batch in batches))
        )
    head = ("", "MiB", "ms, batch 1", *(f"frames/s, batch {batch}" for batch in BATCHES))
    return Table("gpu engine", "The engine on the GPU, 1080p frames in GPU memory", head, rows, 3)


def _live(parts: dict[str, Result]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for part in parts:
        for node, found in _figures(parts, part).items() if part.startswith("live") else ():
            if "failed" in found:
                rows.append((node, "failed", None, None, None, None))
                continue
            totals = [one["p50"] for one in found["total_ms"] if one]
            rows.append((
                node, found["results_per_second"], median(totals) if totals else None,
                "; ".join(found["gpu_busy_decoder_busy_memory"]), str(len(found["contexts"])),
                str(sum(found["restarts"].values())),
            ))  # fmt: skip
    head = ("", "results/s, all cameras", "ms, taken → published", "GPU busy, decoder busy, memory",
            "processes on the GPU", "restarts")  # fmt: skip
    return Table("gpu live", "Nodes with live cameras, 1080p30", head, rows, 1)


def _checks(parts: dict[str, Result]) -> Table:
    def verdict(ok: bool) -> str:
        return "yes" if ok else "**no**"

    rows: list[tuple[Cell, ...]] = []
    for name, found in _figures(parts, "check").items():
        rows.append((f"{name} as on the CPU", verdict(found["ok"])))
    if kill := _figures(parts, "kill_exporter"):
        rows.append(
            ("Triton survives `kill -9` of the gpu process", verdict(kill["context_survives"]))
        )
    if footage := _figures(parts, "footage"):
        text = f"{footage['lost']} of {footage['frames']} frames' detections, scores within "
        rows.append(
            ("lost against the CPU's results", f"{text}{footage['largest_score_difference']}")
        )
    for tool, found in _figures(parts, "sanitize").items():
        rows.append((f"{tool} finds nothing", found.get("not_run") or verdict(found["ok"])))
    return Table("gpu checks", "Correctness", ("", ""), rows)


def _costs(parts: dict[str, Result]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for case, found in _figures(parts, "copies").get("cases", {}).items():
        rows.append((f"a 1080p frame {case}, ms", found["gpu_ms"]["p50"]))
    if contexts := _figures(parts, "contexts"):
        rows.append(("a CUDA context, MiB", contexts["context_mib"]["median"]))
        rows.append(("a camera's ring of 1080p, MiB", contexts["ring_1080p_mib"]["median"]))
    if regions := _figures(parts, "regions"):
        rows.append(("publish with upload, ms", regions["upload_ms"]["p50"]))
        for memory, found in regions["infer_ms"].items():
            rows.append((f"request to answer by Triton, {memory}, ms", found["p50"]))
    for case, found in _figures(parts, "perf").items():
        rows.append((f"perf_analyzer, {case}, ms", found["p50"]))
    return Table("gpu costs", "Costs", ("", ""), rows)


def _figures(parts: dict[str, Result], name: str) -> dict[str, Any]:
    figures: dict[str, Any] = parts.get(name, {}).get("figures", {})
    return figures
