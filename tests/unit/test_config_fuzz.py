"""Fuzzing the configuration: any text is either accepted or rejected with a ConfigError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tridetr.config import Config
from tridetr.config.camera_sections import CameraSection
from tridetr.config.load import parse_config
from tridetr.errors import ConfigError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["synthetic", "rtsp://u:p@h/x", "embedded", "auto", "~", "0x10", "1e999"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3)
)
KEYS = st.sampled_from(sorted(Config.model_fields))
CAMERA_KEYS = st.sampled_from(sorted(CameraSection.model_fields))


def parse(text: str) -> None:
    try:
        parse_config(text, origin=Path("node.yaml"))
    except ConfigError:
        return


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
@example("cameras: &a {hall: *a}")
@example("a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]")
@example("? {a: 1}\n: 2")
@example("cameras: {1: {source: synthetic}}")
@example("\0")
@example("2001-01-01: 1")
@example("!!python/object/apply:os.system ['true']")
def test_any_text_is_accepted_or_rejected_with_a_config_error(text: str) -> None:
    parse(text)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.dictionaries(CAMERA_KEYS, VALUES, max_size=5),
)
def test_any_values_are_accepted_or_rejected_with_a_config_error(
    sections: dict[str, Any], camera: dict[str, Any]
) -> None:
    parse(yaml.safe_dump({"cameras": {"hall": {"source": "synthetic", **camera}}, **sections}))


@pytest.mark.parametrize("depth", [50, 2000])
def test_deep_nesting_is_rejected_with_a_config_error(depth: int) -> None:
    """It used to end with the traceback of a RecursionError."""
    parse("cameras: " + "[" * depth + "]" * depth)
