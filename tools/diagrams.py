#!/usr/bin/env python3
"""Draw the diagrams of the documentation as SVG, in a light and a dark theme, into docs/images/diagrams.

python tools/diagrams.py            # writes all; needs Graphviz (`dot`)
python tools/diagrams.py --check    # compares the texts of each diagram with those of the committed file

The diagram of the state machine is derived by calling the controller's own transition function.
"""

from __future__ import annotations

import argparse
import html
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from tridetr.controller.state_machine import Memory, Result, Silence, State, step
from tridetr.shm import layout

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images" / "diagrams"
_ROLES = ("ink", "line", "fill", "edge", "soft", "alarm")
THEMES = {
    suffix: dict(zip(_ROLES, colours.split(), strict=True))
    for suffix, colours in (
        ("", "#1f2933 #52606d #e6f4f1 #0f766e #f1f5f9 #fde2e1"),
        ("-dark", "#e5e9f0 #9aa5b1 #12403c #2dd4bf #252d3a #5b2322"),
    )
}
FONT = "Helvetica,Arial,sans-serif"

CONTEXT = """
  cameras [label="cameras\\nUSB · RTSP · HTTP · files" fillcolor="{soft}"]
  tridetr [label="tridetr node\\nfinds people, decides, publishes"]
  browser [label="browser\\nviewer" fillcolor="{soft}"]
  broker [label="MQTT broker" fillcolor="{soft}"]
  ha [label="Home Assistant\\nautomations" fillcolor="{soft}"]
  prom [label="Prometheus\\nGrafana" fillcolor="{soft}"]
  cameras -> tridetr [label="video"]
  tridetr -> browser [label="pictures, boxes, states"]
  tridetr -> broker [label="states, visits"]
  broker -> ha
  prom -> tridetr [label="scrapes /metrics"]
"""
CONTAINERS = """
  camera [label="camera" fillcolor="{soft}"]
  subgraph cluster_node {{ label="one node: a process for each box"; color="{line}"; fontcolor="{ink}"
    style=rounded
    capture [label="capture\\none per camera"]
    detector [label="detector"]
    triton [label="Triton\\nRF-DETR"]
    controller [label="controller\\nstate machine, outbox"]
    gateway [label="gateway\\nviewer, API, metrics"]
    frames [label="frame ring\\n/dev/shm" shape=cylinder fillcolor="{soft}"]
    packets [label="packet ring\\n/dev/shm" shape=cylinder fillcolor="{soft}"]
    results [label="detection ring\\n/dev/shm" shape=cylinder fillcolor="{soft}"]
    recorder [label="recorder\\noptional"]
    evidence [label="evidence\\nvideo and pictures" shape=cylinder fillcolor="{soft}"]
    db [label="controller.db\\nSQLite" shape=cylinder fillcolor="{soft}"]
  }}
  browser [label="browser" fillcolor="{soft}"]
  broker [label="MQTT broker" fillcolor="{soft}"]
  camera -> capture
  capture -> frames
  capture -> packets
  frames -> detector [label="lease"]
  detector -> triton [label="name and offset" dir=both]
  frames -> triton [style=dashed label="reads in place"]
  detector -> results
  results -> controller
  results -> gateway
  frames -> gateway
  packets -> gateway
  packets -> recorder
  frames -> recorder
  controller -> recorder [label="visits, by the sentry board" constraint=false]
  recorder -> evidence
  evidence -> gateway [constraint=false]
  controller -> db [dir=both]
  controller -> broker
  controller -> capture [label="mode: standby, alarmed" constraint=false]
  gateway -> browser
"""
POD = """
  subgraph cluster_pod {{
    label="pod of one camera node: nothing privileged, user 10001"; color="{line}"; fontcolor="{ink}"
    style=rounded
    init [label="init: build-engine\\nGPU only" fillcolor="{soft}"]
    capture [label="capture-CAMERA\\none per camera"]
    triton [label="triton"]
    detector [label="detector"]
    controller [label="controller"]
    gateway [label="gateway"]
    recorder [label="recorder\\noptional"]
    shm [label="emptyDir, memory\\n/dev/shm" shape=cylinder fillcolor="{soft}"]
    run [label="emptyDir\\n/run/tridetr" shape=cylinder fillcolor="{soft}"]
  }}
  state [label="volume: pvc or hostPath\\n/var/lib/tridetr" shape=cylinder fillcolor="{soft}"]
  device [label="/dev/videoN\\nor the network" fillcolor="{soft}"]
  service [label="Service" fillcolor="{soft}"]
  init -> triton [style=dashed]
  device -> capture
  capture -> shm
  shm -> triton [dir=both]
  detector -> shm [dir=both]
  shm -> controller
  shm -> gateway
  triton -> run [dir=both]
  shm -> recorder
  controller -> state [dir=both]
  recorder -> state
  gateway -> service [dir=back]
"""


def dot(body: str, theme: dict[str, str], rankdir: str) -> str:
    """Return the SVG that Graphviz makes of a diagram."""
    text = (
        f'digraph {{ bgcolor=transparent; rankdir={rankdir}; fontname="{FONT}"; fontsize=12; '
        f"nodesep=0.35; ranksep=0.5\n"
        f'node [shape=box style="rounded,filled" fontname="{FONT}" fontsize=12 fontcolor="{theme["ink"]}" '
        f'color="{theme["edge"]}" fillcolor="{theme["fill"]}"]\n'
        f'edge [fontname="{FONT}" fontsize=10 fontcolor="{theme["ink"]}" color="{theme["line"]}"]\n'
        f"{body.format(**theme)}}}"
    )
    done = subprocess.run(["dot", "-Tsvg"], input=text, capture_output=True, text=True, check=True)
    svg = done.stdout[done.stdout.index("<svg") :]
    return re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)


def state_machine() -> str:
    """Return the transitions that the controller's own function makes, as a diagram."""
    second = 1_000_000_000
    keys = SimpleNamespace(confirm_frames=2, confirm_s=0.5, clear_s=3.0, unknown_s=5.0, hold_s=60.0)
    inputs: dict[str, Callable[[int], Result | Silence]] = {
        "person": lambda now: Result(True, now),
        "empty view": lambda now: Result(False, now),
        "silence for unknown_s": lambda _: Silence(keys.unknown_s),
        "silence for hold_s": lambda _: Silence(keys.hold_s),
    }
    seen: dict[tuple[str, str], list[str]] = {}
    todo, known = [(Memory(), 0)], {Memory()}
    while todo:
        memory, now = todo.pop(0)
        for name, make in inputs.items():
            for pause_s in (0.1, 1, 4):
                after, transition = step(memory, make(now + round(pause_s * second)), keys)
                pair = (_name(memory), _name(after))
                label = name if transition is None else f"{name}: person_{transition.value}"
                if pair[0] != pair[1] and label not in seen.setdefault(pair, []):
                    seen[pair].append(label)
                if after not in known and len(known) < 500 and now < 20 * second:
                    known.add(after)
                    todo.append((after, now + round(pause_s * second)))
    lines = []
    for memory in {_name(memory): memory for memory in known}.values():
        colour = "{alarm}" if memory.alarmed else "{soft}"
        rate = "full rate" if memory.alarmed else "standby_fps"
        lines.append(f'"{_name(memory)}" [label="{_name(memory)}\\n{rate}" fillcolor="{colour}"]')
    for (one, other), labels in seen.items():
        # The shorter silence is the condition where both lead to the same state
        labels = [text for text in labels if text != "silence for hold_s" or len(labels) == 1]
        text = "\\n".join(labels).replace(": ", " →\\n")
        lines.append(f'"{one}" -> "{other}" [label="{text}"]')
    return "\n".join(sorted(lines))


def _name(memory: Memory) -> str:
    held = memory.state is State.UNKNOWN and memory.visit_open
    return memory.state.name.capitalize() + (" (visit held)" if held else "")


class Canvas:
    """A few shapes as SVG."""

    def __init__(self, width: int, height: int, theme: dict[str, str]) -> None:
        self.theme = theme
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="{FONT}" font-size="13" fill="{theme["ink"]}">',
            f'<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto">'
            f'<path d="M0 0 8 4 0 8z" fill="{theme["line"]}"/></marker></defs>',
        ]

    def box(self, x: int, y: int, width: int, height: int, *lines: str, fill: str = "fill") -> None:
        """Draw a box with lines of text in its middle."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{self.theme[fill]}" '
            f'stroke="{self.theme["edge"]}"/>'
        )
        top = y + height / 2 - 8 * (len(lines) - 1) + 4
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + 16 * number, line, anchor="middle")

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", size: int = 13) -> None:
        """Draw a line of text."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}">{html.escape(text)}</text>'
        )

    def line(
        self, x1: int, y1: int, x2: int, y2: int, *, dashed: bool = False, tip: bool = True
    ) -> None:
        """Draw a line, by default with an arrow's tip."""
        style = ' stroke-dasharray="5 4"' if dashed else ""
        end = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{self.theme["line"]}"{style}{end}/>'
        )

    def svg(self) -> str:
        """Return the document."""
        return "\n".join([*self.parts, "</svg>\n"])


def ring_layout(theme: dict[str, str]) -> str:
    """Draw the file of a frame ring, with the numbers of `shm/layout.py`."""
    canvas = Canvas(860, 330, theme)
    canvas.text(20, 24, "file tridetr-INSTANCE-CAMERA-frames-GENERATION in /dev/shm", size=14)
    canvas.box(
        20,
        40,
        250,
        110,
        "header",
        f"whole pages of {layout.PAGE} bytes",
        "words of 64 bits",
        fill="soft",
    )
    for number, name in enumerate(("slot 0", "slot 1", "slot 2", "…")):
        canvas.box(
            270 + 142 * number, 40, 142, 110, name, "a FlatBuffer: Frame" if name != "…" else ""
        )
    words = [
        f"{layout.EPOCH_WORD} EPOCH: +1 for each writer that takes over",
        f"{layout.SUCCESSOR_WORD} SUCCESSOR: next generation",
        f"{layout.LAST_SEQUENCE_WORD} LAST_SEQUENCE: highest ever given",
        f"{layout.NEWEST_SLOT_WORD} NEWEST_SLOT: slot + 1, a hint",
        f"{layout.SEQUENCES}… SEQUENCES[i]: 0 = holds nothing",
    ]
    canvas.text(20, 182, "words of the header", size=14)
    for number, word in enumerate(words):
        canvas.text(20, 206 + 22 * number, word)
    canvas.text(440, 182, "bytes that are locked (open file description locks)", size=14)
    locks = [
        f"{layout.WRITER_BYTE}: exclusively by the writer, for life",
        f"{layout.HEADER_BYTE}: while the ring is made or mapped",
        f"{layout.DEVICE_BYTE}: shared while GPU memory is registered",
        f"{layout.SLOT_BYTE} + i: exclusively while slot i is written,",
        "shared while a reader uses it (a lease)",
    ]
    for number, lock in enumerate(locks):
        canvas.text(440 if number < 4 else 510, 206 + 22 * number, lock)
    return canvas.svg()


def lease_sequence(theme: dict[str, str]) -> str:
    """Draw how a frame is written, leased, inferred and released."""
    lanes = {"capture": 80, "ring (kernel locks)": 300, "detector": 520, "Triton": 720}
    canvas = Canvas(800, 520, theme)
    for name, x in lanes.items():
        canvas.box(x - 75, 10, 150, 34, name, fill="soft")
        canvas.line(x, 44, x, 510, dashed=True, tip=False)
    capture, ring, detector, triton = lanes.values()
    steps = [
        (capture, ring, "lock slot i exclusively, no waiting"),
        (ring, capture, "refused? take another slot"),
        (capture, ring, "SEQUENCES[i] = 0, write, = s, unlock"),
        (capture, detector, "wake (message queue of one)"),
        (detector, ring, "lock slot i shared"),
        (detector, ring, "check EPOCH and SEQUENCES[i]"),
        (detector, triton, "infer: region, offset"),
        (triton, ring, "reads the slot in place"),
        (triton, detector, "boxes, scores, classes"),
        (detector, ring, "unlock: the lease ends"),
    ]
    for number, (start, end, text) in enumerate(steps):
        y = 84 + 44 * number
        canvas.text((start + end) / 2, y - 7, text, anchor="middle", size=12)
        canvas.line(start, y, end, y, dashed=text.startswith("refused"))
    return canvas.svg()


def draw() -> dict[str, str]:
    """Return every picture by its file name."""
    pictures = {}
    for suffix, theme in THEMES.items():
        graphs = {
            "context": (CONTEXT, "LR"), "containers": (CONTAINERS, "LR"), "pod": (POD, "LR"),
            "state-machine": (state_machine(), "TB"),
        }  # fmt: skip
        for name, (body, direction) in graphs.items():
            pictures[f"{name}{suffix}.svg"] = dot(body, theme, direction)
        pictures[f"ring-layout{suffix}.svg"] = ring_layout(theme)
        pictures[f"lease-sequence{suffix}.svg"] = lease_sequence(theme)
    return pictures


def labels(svg: str) -> list[str]:
    """Return the texts in a picture: which do not depend on the version of Graphviz."""
    return sorted(html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg))


def main() -> None:
    """Write the pictures, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, svg in draw().items():
        path = FOLDER / name
        if not check:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(svg, encoding="utf-8")
        elif not path.exists() or labels(path.read_text(encoding="utf-8")) != labels(svg):
            stale.append(name)
    if stale:
        sys.exit(f"not up to date: {', '.join(stale)}; run `make diagrams` and commit")


if __name__ == "__main__":
    main()
