"""Tables of the comparisons with a plain script and other projects, for docs/benchmarks.md."""

from __future__ import annotations

from table import Cell, Result, Table, number

_PLAIN = "plain script"
_BUSY_RATE = 5  # results a second that are enough to follow people
_LOAD = 0.8  # share of the cores that cameras may take
_SMALL = (512 / 384) ** 2  # pixels of RF-DETR Small to those of Nano


def peer_tables(name: str, result: Result) -> list[Table]:
    rows: list[tuple[Cell, ...]] = []
    fps = result["frame"]["fps"]
    for cameras, kinds in result["cameras"].items():
        plain = kinds[_PLAIN]
        for kind, row in kinds.items():
            if "failed" in row:
                rows.append((cameras, kind, "failed", None, None, None, None, None))
                continue

            def ratio(key: str, of: Result = row, to: Result = plain) -> float:
                return float(of[key]) / float(to[key])

            rate = row["results_per_second_and_camera"]
            each = row["cpu_percent_per_camera"] / rate
            plain_each = plain["cpu_percent_per_camera"] / plain["results_per_second_and_camera"]
            calm = kind == "node, calm"
            latency = row.get("latency_ms")
            rows.append((
                cameras, kind, ratio("cpu_percent_per_camera"), rate,
                None if calm else each / plain_each,
                latency and latency["p50"] / plain["latency_ms"]["p50"],
                ratio("memory_mib"),
                None if calm else f"{100 * max(0.0, 1 - rate / fps):.0f} %",
            ))  # fmt: skip
    head = ("cameras", "", "CPU", "inferences a second and camera", "CPU of one inference, with decoding", "latency",
            "memory", "frames not inferred")  # fmt: skip
    title = f"Compared with a plain script ({result['model']}, {result['engine']})"
    return [Table(name, title, head, rows), *_cost(name, result)]


def _cost(name: str, result: Result) -> list[Table]:
    """Return the cost of cameras, and how many of them machines of this kind can run."""
    runs = result["cameras"]
    calm, alarmed = runs["1"]["node, calm"], runs["1"]["node, alarmed"]
    plain = runs["1"][_PLAIN]
    if "failed" in calm or "failed" in alarmed or "failed" in plain:
        return []
    share = calm["cpu_percent_per_camera"]
    inference = alarmed["cpu_percent_per_camera"] / alarmed["results_per_second_and_camera"]
    looks = calm["results_per_second_and_camera"]
    what = f"CPU of one inference ({result['model']}, {result['engine']}), with decoding"
    cost: list[tuple[Cell, ...]] = [(what, f"{number(inference / 100)} core-seconds")]
    rows: list[tuple[Cell, ...]] = []
    for cores in (2, 4, 8):
        row: list[Cell] = [str(cores)]
        for size in (1.0, _SMALL):
            model = inference * size
            still = share + looks * inference * (size - 1)
            for camera in (still, still + _BUSY_RATE * model):
                row.append(str(int(_LOAD * 100 * cores / camera)))
        rows.append(tuple(row))
    head = ("cores", "Nano, calm", "Nano, all alarmed", "Small, calm", "Small, all alarmed")
    return [
        Table(f"{name} cost", "What a camera costs", ("", ""), cost),
        Table(f"{name} machines", "Cameras per machine", head, rows),
    ]


def calm_tables(name: str, result: Result) -> list[Table]:
    found = result["calm"]
    latest = found["latest_delay_s"]
    roles = {role.split()[0]: share for role, share in found["by_role"].items()}
    rows: list[tuple[Cell, ...]] = [
        ("footage played to the node", f"{found['minutes']:.1f} min"),
        (
            "node, default settings",
            f"{number(found['node_cpu_percent'])} % of a core (mean with visits: "
            f"{number(found['node_cpu_percent_mean'])} %)",
        ),
        ("plain script", f"{number(found['plain_cpu_percent'])} % of a core"),
        ("node / plain script", f"**{found['ratio']:.3f}** (means: {found['ratio_of_means']:.3f})"),
        ("inferences a second without a person", number(found["calm_inferences_per_second"])),
        (
            "visits noticed",
            f"{found['visits'] - found['visits_missed']} of {found['visits']}, "
            f"at most {number(latest)} s later than without the motion gate",
        ),
        (
            "where the node's CPU goes [% of a core]",
            ", ".join(f"{role} {number(share)}" for role, share in roles.items()),
        ),
    ]
    title = f"A calm camera on real footage ({result['model']}, {result['engine']})"
    cost: tuple[Cell, ...] = (
        f"CPU per calm camera (1080p H.264, {result['model']}, {result['engine']})",
        f"{number(found['node_cpu_percent'])} % of one core, {found['ratio']:.2f} × a plain script",
    )
    return [
        Table(name, title, ("", ""), rows),
        Table(f"{name} cost", "What a calm camera costs", ("", ""), [cost]),
    ]
