"""The documentation keeps up with the code that it describes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tridetr import __version__
from tridetr.config import Config
from tridetr.controller.topics import Topics
from tridetr.shm.names import CONSUMERS

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=TOOLS, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_diagrams_show_what_the_code_does() -> None:
    answer = tool("diagrams.py", "--check")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("config", [f"| `{name}` |" for name in Config.model_fields]),
        ("cli", ["`tridetr up`", "`tridetr analyse`", "`tridetr models pull`", "`--duration`"]),
        ("api", ["`GET /api/cameras`", "`GET /readyz`", "`after`"]),
        ("metrics", ["| `tridetr_frames_published_total` | counter | `camera` |"]),
    ],
)
def test_reference_pages_are_made_from_the_code(kind: str, wanted: list[str]) -> None:
    answer = tool("reference_docs.py", kind)
    assert answer.returncode == 0, answer.stderr
    assert not [text for text in wanted if text not in answer.stdout]


def test_package_chart_images_and_changelog_have_one_version() -> None:
    answer = tool("check-version", __version__)
    assert answer.returncode == 0, answer.stderr


def test_the_table_of_topics_has_every_topic() -> None:
    topics = Topics("<prefix>", "<device>", "<discovery_prefix>")
    ours = {
        topics.availability,
        topics.command,
        topics.state("<camera>"),
        topics.presence("<camera>", "person").replace("person", "<class>"),
        topics.problem("<camera>"),
        topics.problem(),
        topics.status("<camera>"),
        topics.events("<camera>"),
    }
    text = (ROOT / "docs" / "mqtt.md").read_text()
    assert ours <= set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE))


def test_the_ring_protocol_names_every_kind_of_ring() -> None:
    text = (ROOT / "docs" / "explanation" / "ring-protocol.md").read_text()
    (paragraph,) = re.findall(r"^\*\*Rings\.\*\* .*?\n\n", text, flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`([a-z]+)`", paragraph)) == set(CONSUMERS)


@pytest.mark.parametrize("page", ["explanation/frame-trace.md", "how-to/extend.md"])
def test_pages_name_files_that_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    names, folder, missing = re.findall(r"`([\w/]+\.(?:py|yaml|md))`", text), "", []
    for name in names:
        # "`capture/sources/v4l2.py`, `network.py`": a bare name is in the folder of the one before
        folder = name.rpartition("/")[0] or folder
        path = name if "/" in name else f"{folder}/{name}"
        if not any((base / path).exists() for base in (ROOT / "clients" / "tridetr", ROOT)):
            missing.append(path)
    assert names
    assert not missing
