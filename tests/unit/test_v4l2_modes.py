"""The choice of a camera's mode."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tridetr.capture.v4l2.modes import Mode, Wish, choose, describe_modes

# Modes of an ordinary USB camera: large pictures have a high rate as MJPEG only.
WEBCAM = [
    Mode("YUYV", 640, 480, (30.0, 15.0)),
    Mode("YUYV", 1280, 720, (10.0, 5.0)),
    Mode("YUYV", 1920, 1080, (5.0,)),
    Mode("MJPG", 640, 480, (60.0, 30.0, 15.0)),
    Mode("MJPG", 1280, 720, (60.0, 30.0)),
    Mode("MJPG", 1920, 1080, (30.0,)),
    Mode("MJPG", 3840, 2160, (15.0,)),
    Mode("H264", 1920, 1080, (60.0,)),
]
BOARD = [Mode("NV12", 1920, 1080, (30.0,)), Mode("YUYV", 1920, 1080, (30.0,)), *WEBCAM]
SILENT = [Mode("YUYV", 720, 576), Mode("RGB3", 720, 576)]  # an old grabber: no rates at all


@pytest.mark.parametrize(
    ("modes", "wish", "expected"),
    [
        (WEBCAM, Wish(), "MJPG 1920x1080 30"),  # the largest fluent one, not the 4K one
        (WEBCAM, Wish(640, 480), "MJPG 640x480 30"),  # both do it: no encoding for viewers
        (WEBCAM, Wish(640, 480, pixel_format="yuyv"), "YUYV 640x480 30"),
        (WEBCAM, Wish(1280, 720, fps=50), "MJPG 1280x720 60"),  # the lowest rate that reaches it
        (WEBCAM, Wish(640, 480, fps=12), "MJPG 640x480 15"),
        (WEBCAM, Wish(640, 480, fps=100), "MJPG 640x480 60"),  # the highest where none reaches it
        (WEBCAM, Wish(1900, 1000), "MJPG 1920x1080 30"),  # the nearest size
        (WEBCAM, Wish(pixel_format="yuyv"), "YUYV 640x480 30"),  # larger ones are a slide show
        (WEBCAM, Wish(fps=5, pixel_format="yuyv"), "YUYV 1920x1080 5"),  # ... unless asked for
        (WEBCAM, Wish(3840, 2160), "MJPG 3840x2160 15"),
        (BOARD, Wish(), "NV12 1920x1080 30"),  # neither decoding nor chroma to drop
        (BOARD, Wish(1920, 1080, pixel_format="mjpeg"), "MJPG 1920x1080 30"),
        (SILENT, Wish(), "YUYV 720x576 0"),
        ([Mode("YUYV", 4000, 3000, (2.0,))], Wish(), "YUYV 4000x3000 2"),
        (WEBCAM, Wish(pixel_format="nv12"), None),
        ([Mode("H264", 640, 480, (30.0,))], Wish(), None),
        ([], Wish(640, 480), None),
    ],
)
def test_the_mode_nearest_to_the_wish_is_chosen(
    modes: list[Mode], wish: Wish, expected: str | None
) -> None:
    choice = choose(modes, wish)
    got = choice and f"{choice.mode.fourcc} {choice.mode.width}x{choice.mode.height} {choice.fps:g}"
    assert got == expected


_MODE = st.builds(
    Mode,
    st.sampled_from(["YUYV", "MJPG", "NV12", "YU12", "H264", "RGB3"]),
    st.integers(16, 4000),
    st.integers(16, 3000),
    st.lists(st.floats(1, 240), max_size=4).map(tuple),
)
_WISH = st.builds(
    Wish,
    fps=st.none() | st.floats(1, 240),
    pixel_format=st.sampled_from([None, "mjpeg", "yuyv", "nv12", "i420"]),
)


@given(st.lists(_MODE, max_size=12), _WISH)
def test_the_choice_is_always_an_offered_mode(modes: list[Mode], wish: Wish) -> None:
    choice = choose(modes, wish)
    fitting = [mode for mode in modes if mode.name and wish.pixel_format in (None, mode.name)]
    if choice is None:
        assert not fitting
        return
    assert choice.mode in fitting
    assert choice.fps in (*choice.mode.rates, 0.0)


def test_modes_are_described_in_readable_form() -> None:
    assert describe_modes(WEBCAM).splitlines() == [
        "YUYV (yuyv): 640x480@30, 1280x720@10, 1920x1080@5",
        "MJPG (mjpeg): 640x480@60, 1280x720@60, 1920x1080@30, 3840x2160@15",
        "H264 (not supported): 1920x1080@60",
    ]


def test_without_the_extra_the_error_names_it() -> None:
    code = (
        "import sys; sys.modules['linuxpy'] = None\n"
        "from tridetr.errors import ConfigError\n"
        "try:\n"
        "    import tridetr.capture.sources.v4l2\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install 'tridetr[v4l2]'" in answer.stdout
    assert "GPL-3.0-or-later" in answer.stdout
