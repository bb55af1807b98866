"""The camera's own video in a real Chromium: decoded by WebCodecs, with each box on the picture it belongs to."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import pytest
from playwright.sync_api import expect

from support.browser import CHROMIUM, NO_CHROMIUM, WAIT_MS, Tab
from support.capture_rig import Seen, capturing
from support.data import FOOTAGE, FOOTAGE_TRUTH, shared
from support.gateway import Gateway, cameras
from support.video_camera import VideoCamera, playing
from support.waiting import wait_for
from tridetr.config import Config
from tridetr.config.source import CameraSource
from tridetr.shm.detections import DETECTION_DTYPE, DetectionWriter, ResultStamp
from tridetr.shm.names import VIEW

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
    pytest.mark.timeout(240),
]

# For each picture that was shown, from here on: the box that was drawn on it, the figure that is in it (by its colour),
# both as fractions of the picture.
RECORD = """() => {
  const card = document.querySelector('.card[data-camera="hall"]');
  const canvas = card.querySelector('.picture');
  const overlay = card.querySelector('.overlay');
  const seen = window.seen = [];
  let last = '';
  const find = (canvas, matches) => {
    const { width, height } = canvas;
    const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
    let [left, top, right, bottom] = [1, 1, 0, 0];
    for (let y = 0; y < height; y += 2) for (let x = 0; x < width; x += 2) {
      if (!matches(...data.subarray(4 * (y * width + x), 4 * (y * width + x) + 4))) continue;
      left = Math.min(left, x / width); right = Math.max(right, (x + 1) / width);
      top = Math.min(top, y / height); bottom = Math.max(bottom, (y + 1) / height);
    }
    return right ? [left, top, right, bottom] : null;
  };
  const near = (...rgb) => (...rgba) => rgba[3] > 60 && rgb.every((v, i) => Math.abs(v - rgba[i]) < 36);
  const look = () => {
    if (window.seen !== seen) return;  // started again
    requestAnimationFrame(look);
    if (card.dataset.packet === last) return;
    last = card.dataset.packet;
    seen.push({ packet: Number(last), box: find(overlay, near(0x5f, 0xe0, 0xb7)),
                       figure: find(canvas, near(255, 176, 133)) });
  };
  requestAnimationFrame(look);
}"""


@contextmanager
def viewer(tmp_path: Path, **options: Any) -> Iterator[tuple[VideoCamera, Config]]:
    with cameras(tmp_path, "hall") as (config, fakes):
        camera = VideoCamera(config.instance, fakes["hall"], **options)
        try:
            yield camera, config
        finally:
            camera.close()


def has_video(tab: Tab) -> None:
    expect(tab.card("hall").locator('[data-part="picture"]')).to_contain_text(
        "camera's own H.264", timeout=WAIT_MS
    )
    tab.has_picture("hall")


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0

    def area(box: list[float]) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    return width * height / (area(a) + area(b) - width * height)


def overlap_of_newest(tab: Tab, count: int) -> float:
    """Return the median overlap of figure and box in the newest recorded pictures; 0 if there are fewer."""
    seen = tab.page.evaluate("(count) => window.seen.slice(-count)", count)
    overlaps = [overlap(one["box"], one["figure"]) for one in seen if one["box"]]
    return median(overlaps) if len(overlaps) == count else 0.0


def test_video_is_selected_automatically_and_can_be_turned_off(tmp_path: Path, tab: Tab) -> None:
    with viewer(tmp_path) as (camera, config), Gateway(config) as gateway, playing(camera):
        tab.page.goto(gateway.url + "/#hall")
        card = tab.card("hall")
        expect(card).to_have_attribute("data-transport", "video", timeout=WAIT_MS)
        tab.has_picture("hall")
        expect(card.locator('[data-part="picture"]')).to_contain_text("camera's own H.264")
        expect(card.locator('[data-part="fps"]')).to_contain_text("fps")
        button = card.locator('[data-part="transport"]')
        expect(button).to_have_text("Pictures: Automatic")
        button.click()
        expect(button).to_have_text("Pictures: JPEG")
        expect(card).to_have_attribute("data-transport", "jpeg", timeout=WAIT_MS)
        expect(card.locator('[data-part="picture"]')).to_contain_text("JPEG", timeout=WAIT_MS)
        # The choice is saved, and the URL overrides it.
        tab.page.reload()
        expect(tab.card("hall").locator('[data-part="picture"]')).to_contain_text("JPEG")
        tab.page.goto(gateway.url + "/?pictures=auto#hall")
        expect(tab.card("hall")).to_have_attribute("data-transport", "video", timeout=WAIT_MS)
        tab.has_picture("hall")
        assert tab.complaints == []


@pytest.mark.parametrize(("late_s", "every"), [(0.2, 1), (0.2, 3)])
def test_late_boxes_match_the_person(tmp_path: Path, tab: Tab, late_s: float, every: int) -> None:
    """With an inference time of 200 ms, and with a result for every third picture only."""
    with (
        viewer(tmp_path) as (camera, config),
        Gateway(config) as gateway,
        playing(camera, late_s=late_s, every=every),
    ):
        tab.page.goto(gateway.url + "/#hall")
        expect(tab.card("hall")).to_have_attribute("data-transport", "video", timeout=WAIT_MS)
        tab.has_picture("hall")

        def is_settled() -> bool:
            tab.page.evaluate(RECORD)
            tab.page.wait_for_function("() => window.seen.length >= 30", timeout=WAIT_MS)
            seen = tab.page.evaluate("() => window.seen")
            # The line is drawn around the box, so that the overlap is below 1 even without a delay.
            overlaps = sorted(overlap(one["box"], one["figure"]) for one in seen if one["box"])
            return len(overlaps) >= len(seen) * 0.9 and overlaps[len(overlaps) // 10] >= 0.9

        wait_for(is_settled, 60, "pictures that are delayed as long as their boxes take")


def test_resolution_change_while_watching(tmp_path: Path, tab: Tab) -> None:
    with viewer(tmp_path) as (camera, config), Gateway(config) as gateway:
        with playing(camera):
            tab.page.goto(gateway.url + "/#hall")
            tab.has_picture("hall")
            picture = tab.card("hall").locator('[data-part="picture"]')
            expect(picture).to_contain_text("640 × 480, camera's own H.264", timeout=WAIT_MS)
        camera.start(320, 240)
        with playing(camera):
            expect(picture).to_contain_text("320 × 240, camera's own H.264", timeout=WAIT_MS)
        assert tab.complaints == []


def test_the_page_survives_a_restart_of_the_gateway(tmp_path: Path, tab: Tab) -> None:
    with viewer(tmp_path) as (camera, config), playing(camera):
        with Gateway(config) as gateway:
            port = gateway.port
            tab.page.goto(gateway.url + "/#hall")
            has_video(tab)
            before = int(tab.card("hall").get_attribute("data-packet"))
        expect(tab.card("hall")).to_have_attribute("data-trouble", "connection", timeout=WAIT_MS)
        again = config.model_copy(
            update={"gateway": config.gateway.model_copy(update={"port": port})}
        )
        with Gateway(again):
            tab.has_picture("hall")
            tab.page.wait_for_function(
                "(n) => Number(document.querySelector('.card')?.dataset.packet) > n",
                arg=before + 5,
                timeout=WAIT_MS,
            )


def test_b_frames_are_shown_in_order(tmp_path: Path, tab: Tab) -> None:
    with (
        viewer(tmp_path, b_frames=2) as (camera, config),
        Gateway(config) as gateway,
        playing(camera),
    ):
        tab.page.goto(gateway.url + "/#hall")
        expect(tab.card("hall")).to_have_attribute("data-transport", "video", timeout=WAIT_MS)
        tab.has_picture("hall")
        tab.page.evaluate(RECORD)
        tab.page.wait_for_function("() => window.seen.length >= 20", timeout=WAIT_MS)
        lefts = [one["figure"][0] for one in tab.page.evaluate("() => window.seen")]
    assert (
        lefts == sorted(lefts) or max(lefts) - min(lefts) > 0.5
    )  # the figure starts again on the left


def test_undecodable_video_is_shown_as_jpeg(tmp_path: Path, tab: Tab) -> None:
    with (
        viewer(tmp_path, encoder="libx265") as (camera, config),
        Gateway(config) as gateway,
        playing(camera),
    ):
        tab.page.goto(gateway.url + "/#hall")
        supported = tab.page.evaluate(
            "(codec) => VideoDecoder.isConfigSupported({ codec }).then((it) => it.supported, () => false)",
            camera.info.codec_string,
        )
        if supported:
            pytest.skip("this Chromium decodes H.265")
        tab.has_picture("hall")
        picture = tab.card("hall").locator('[data-part="picture"]')
        expect(picture).to_contain_text("JPEG")
        expect(picture).to_have_attribute("title", re.compile(r"H\.265"))


def test_rotated_camera_is_shown_upright_with_its_boxes(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall", width=480, height=640) as (config, fakes):
        camera = VideoCamera(config.instance, fakes["hall"], size=(640, 480), rotation=90)
        try:
            with Gateway(config) as gateway, playing(camera):
                tab.page.goto(gateway.url + "/#hall")
                has_video(tab)
                picture = tab.card("hall").locator('[data-part="picture"]')
                expect(picture).to_contain_text("480 × 640, camera's own H.264")
                tab.page.evaluate(RECORD)
                # The first pictures may be shown before their boxes: the page learns how long these take.
                wait_for(lambda: overlap_of_newest(tab, 12) >= 0.9, 20, "boxes on their pictures")
        finally:
            camera.close()


def test_open_groups_of_pictures_are_shown(tmp_path: Path, tab: Tab) -> None:
    """Only the first key frame of such a camera is an IDR frame, and Chromium fails at the others."""
    with viewer(tmp_path, b_frames=2, open_gop=True) as (camera, config):
        for _ in range(25):
            camera.frame()
        with Gateway(config) as gateway, playing(camera):
            tab.page.goto(gateway.url + "/#hall")
            tab.page.wait_for_function(
                """() => {
                  const { transport, packet } = document.querySelector('.card')?.dataset ?? {};
                  return transport === 'jpeg' || packet;
                }""",
                timeout=WAIT_MS,
            )
            before = float(tab.card("hall").get_attribute("data-captured") or 0)
            tab.page.wait_for_function(
                "(ms) => Number(document.querySelector('.card')?.dataset.captured) > ms + 1000",
                arg=before,
                timeout=WAIT_MS,
            )
            tab.has_picture("hall")
    assert tab.complaints == []


def test_second_stream_is_shown_enlarged_if_the_browser_decodes_it(
    tmp_path: Path, tab: Tab
) -> None:
    with cameras(tmp_path, "hall") as (config, fakes):
        source = CameraSource.parse("rtsp://127.0.0.1/main")
        hall = config.cameras["hall"].model_copy(update={"view": source})
        config = config.model_copy(update={"cameras": {"hall": hall}})
        camera = VideoCamera(config.instance, fakes["hall"])
        view = VideoCamera(config.instance, fakes["hall"], size=(1280, 960), kind=VIEW)
        stop, encoding = threading.Event(), threading.Lock()

        def play() -> None:
            while not stop.wait(0.1):
                sequence = camera.frame()
                with encoding:
                    view.encode(sequence)
                camera.camera.result(sequence)
                camera.camera.report()

        thread = threading.Thread(target=play)
        thread.start()
        try:
            with Gateway(config) as gateway:
                tab.page.goto(gateway.url + "/#hall")
                picture = tab.card("hall").locator('[data-part="picture"]')
                expect(picture).to_contain_text("1280 × 960, camera's own H.264", timeout=WAIT_MS)
                tab.page.evaluate(RECORD)
                tab.page.wait_for_function("() => window.seen.length >= 12", timeout=WAIT_MS)
                seen = tab.page.evaluate("() => window.seen")
                overlaps = sorted(
                    overlap(one["box"], one["figure"])
                    for one in seen
                    if one["box"] and one["figure"]
                )
                assert overlaps[len(overlaps) // 2] >= 0.9, overlaps

                with encoding:
                    view.start(1280, 960, encoder="libx265")
                expect(picture).to_contain_text("640 × 480, camera's own H.264", timeout=WAIT_MS)
                expect(picture).to_contain_text("view: this browser does not decode H.265")
        finally:
            stop.set()
            thread.join()
            camera.close()
            view.close()


def test_missing_key_frames_are_shown(tmp_path: Path, tab: Tab) -> None:
    with viewer(tmp_path, group=1000) as (camera, config), Gateway(config) as gateway:
        camera.frame()
        with playing(camera):
            tab.page.goto(gateway.url + "/#hall")
            has_video(tab)  # from the key frame in the ring
        camera.reopen(config.instance)  # capture was restarted: no key frame to start from
        with playing(camera):
            cover = tab.card("hall").locator(".cover-title")
            expect(cover).to_have_text("Waiting for a key frame…", timeout=WAIT_MS)
            # After a while, JPEGs are shown instead.
            picture = tab.card("hall").locator('[data-part="picture"]')
            expect(picture).to_contain_text("JPEG", timeout=WAIT_MS)
            tab.has_picture("hall")
            assert "no key frame" in (picture.get_attribute("title") or "")


RECORD_BOXES = """() => {
  const card = document.querySelector('.card');
  const overlay = card.querySelector('.overlay');
  window.seen = [];
  new MutationObserver(() => {
    window.seen.push([Number(card.dataset.captured), overlay.dataset.boxes]);
  }).observe(card, { attributes: true, attributeFilter: ['data-packet'] });
}"""
FIRST, LENGTH = 230, 210  # frames of the footage in which one person is in view


def test_real_footage_with_inference_at_200_ms(tmp_path: Path, tab: Tab) -> None:
    """The drawn box is the one that the model detects in the picture that is shown."""
    truth = json.loads(shared(*FOOTAGE_TRUTH).read_text())["detections"][FIRST : FIRST + LENGTH]
    people = [[box for box in found if box[4] >= 0.5] for found in truth]
    clip = cut(shared(*FOOTAGE), tmp_path / "clip.mp4")
    numbers: dict[float, int] = {}
    stop = threading.Event()
    with capturing(tmp_path, clip) as rig:

        def detect() -> None:
            """Take the newest frame, wait 200 ms, and publish the oracle's detections in it."""
            with DetectionWriter(rig.config.instance, rig.camera) as writer:
                while not stop.wait(0.01):
                    if not rig.frames:
                        continue
                    frame, taken = rig.frames[-1], time.monotonic_ns()
                    if not stop.wait(0.2):
                        found = people[frame.stamp.frame_number % LENGTH]
                        writer.publish(*result(frame, found, taken))

        detector = threading.Thread(target=detect)
        detector.start()
        section = rig.config.gateway.model_copy(update={"port": 0})
        try:
            with Gateway(rig.config.model_copy(update={"gateway": section})) as gateway:
                tab.page.goto(gateway.url)
                picture = tab.card(rig.camera).locator('[data-part="picture"]')
                expect(picture).to_contain_text("camera's own H.264", timeout=WAIT_MS)
                rig.wait_frames(20)
                tab.page.evaluate(RECORD_BOXES)
                rig.wait_frames(120)
                seen = tab.page.evaluate("() => window.seen")
        finally:
            stop.set()
            detector.join()
        for frame in rig.frames:
            numbers[round(frame.stamp.capture_unix_ns / 1e6, 3)] = frame.stamp.frame_number % LENGTH
    overlaps = []
    for captured, drawn in seen:
        found = people[numbers[captured]] if captured in numbers else []
        boxes = json.loads(drawn) if drawn else []
        if len(found) == 1 and boxes:
            overlaps.append(max(overlap(box, found[0][:4]) for box in boxes))
    assert len(overlaps) > 60, (len(seen), len(overlaps))
    mean, median = float(np.mean(overlaps)), float(np.median(overlaps))
    print(f"IoU over {len(overlaps)} pictures: mean {mean:.3f}, median {median:.3f}")
    assert mean >= 0.9, sorted(overlaps)
    assert median >= 0.9


def cut(footage: Path, clip: Path) -> Path:
    """Copy the packets of some frames, from a key frame on."""
    with av.open(str(footage)) as source, av.open(str(clip), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        start = None
        for number, packet in enumerate(source.demux(stream)):
            if FIRST <= number < FIRST + LENGTH and packet.dts is not None:
                assert packet.pts is not None
                assert number > FIRST or packet.is_keyframe
                start = packet.dts if start is None else start
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                packet.stream = copy
                target.mux(packet)
    return clip


def result(frame: Seen, people: list[list[float]], taken: int) -> tuple[ResultStamp, Any]:
    """Return the result of a frame."""
    detections = np.zeros(len(people), DETECTION_DTYPE)
    for index, box in enumerate(people):
        detections[index] = (*box[:4], box[4], 1, 0)
    now = time.monotonic_ns()
    stamp = ResultStamp(
        frame.stamp.frame_number, frame.sequence, 768, 432, frame.stamp.capture_monotonic_ns,
        frame.stamp.capture_unix_ns, False, taken, taken, now, now, "oracle", "1",
    )  # fmt: skip
    return stamp, detections
