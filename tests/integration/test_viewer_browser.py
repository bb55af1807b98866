"""The viewer in a real headless Chromium, with a real gateway and real rings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from support.browser import CHROMIUM, NO_CHROMIUM, WAIT_MS, Tab, open_tab
from support.gateway import FakeCamera, Gateway, cameras
from tridetr.config import AlarmSection
from tridetr.model_card import ModelInfo
from tridetr.served_model import write_served_model
from tridetr.shm.boards import CameraState, SentryState

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
    pytest.mark.timeout(240),
]


# Where the overlay's box and the picture's figure are, as fractions. The box's sides are the columns with much of its
# colour; its upper and lower edge are read along the right side, which the label does not reach.
FIND_BOX = """([camera]) => {
  const card = document.querySelector(`.card[data-camera="${camera}"]`);
  const read = (canvas, matches) => {
    const { width, height } = canvas;
    const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    const is = (x, y) => matches(...data.subarray(4 * (y * width + x), 4 * (y * width + x) + 4));
    const range = (size) => [...Array(size).keys()];
    const xs = range(width).filter((x) => range(height).filter((y) => is(x, y)).length > height * 0.3);
    if (!xs.length) return null;
    const ys = range(height).filter((y) => is(xs.at(-1), y));
    return [xs[0] / width, ys[0] / height, (xs.at(-1) + 1) / width, (ys.at(-1) + 1) / height];
  };
  const near = (...rgb) => (...rgba) => rgba[3] > 60 && rgb.every((v, i) => Math.abs(v - rgba[i]) < 36);
  return { box: read(card.querySelector(".overlay"), near(0x5f, 0xe0, 0xb7)),
           figure: read(card.querySelector(".picture"), near(255, 176, 133)) };
}"""


def expect_box_on_truth(tab: Tab, camera: FakeCamera, number: int) -> None:
    # In one evaluation, so that the box cannot fade between waiting and reading on a slow machine.
    script = f"([camera]) => {{ const found = ({FIND_BOX})([camera]); return found.box && found; }}"
    found = tab.page.wait_for_function(script, arg=[camera.name], timeout=WAIT_MS).json_value()
    x1, y1, x2, y2 = camera.truth(number)
    truth = [x1 / camera.width, y1 / camera.height, x2 / camera.width, y2 / camera.height]
    assert found["box"] == pytest.approx(truth, abs=0.012), found
    assert found["figure"] == pytest.approx(truth, abs=0.012), found


def test_picture_box_and_state(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.play(fps=10)
        tab.page.goto(gateway.url)
        tab.has_picture("hall")
        badge = tab.card("hall").locator(".badge")
        for state, word in (
            (SentryState.STANDBY, "Standby"),
            (SentryState.VALIDATION, "Validation"),
            (SentryState.TRACKING, "Tracking"),
            (SentryState.UNKNOWN, "Unknown"),
        ):
            camera.state = state
            expect(badge).to_have_text(word, timeout=WAIT_MS)
        expect(tab.card("hall").locator('[data-part="fps"]')).to_contain_text(
            "fps", timeout=WAIT_MS
        )
        latency = tab.card("hall").locator('[data-part="latency"]')
        expect(latency).to_contain_text("s", timeout=WAIT_MS)
        assert 0 < float(tab.card("hall").get_attribute("data-latency")) < 5000
        # Stop: the picture and its box are those of the last frame.
        last = camera.stand_still()
        expect(tab.card("hall")).to_have_attribute("data-frame", str(last), timeout=WAIT_MS)
        expect(tab.card("hall").locator(".overlay")).to_have_attribute(
            "data-sequence", tab.card("hall").get_attribute("data-sequence"), timeout=WAIT_MS
        )
        # Boxes that are not renewed fade away; the picture is marked as old.
        expect(tab.card("hall")).to_have_attribute("data-trouble", "old", timeout=WAIT_MS)
        expect(tab.card("hall").locator(".cover-title")).to_have_text("No new picture")
        wait_for_no_box(tab)
        assert tab.complaints == []


def test_boxes_match_the_ground_truth_and_their_frame(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall", "yard") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.report()
        camera.frame()
        tab.page.goto(gateway.url + "/#hall")
        expect(tab.card("hall")).to_have_attribute("data-frame", "1", timeout=WAIT_MS)
        for number in range(2, 6):
            sequence = camera.frame()
            assert sequence is not None
            expect(tab.card("hall")).to_have_attribute("data-frame", str(number), timeout=WAIT_MS)
            camera.result(sequence)
            expect(tab.card("hall").locator(".overlay")).to_have_attribute(
                "data-sequence", str(sequence), timeout=WAIT_MS
            )
            expect_box_on_truth(tab, camera, number)
        # A newer picture without a result shows the nearest boxes, which its own boxes then replace.
        newer = camera.frame()
        assert newer is not None
        expect(tab.card("hall")).to_have_attribute("data-frame", "6", timeout=WAIT_MS)
        overlay = tab.card("hall").locator(".overlay")
        expect(overlay).to_have_attribute("data-sequence", str(newer - 1))
        camera.result(newer)
        expect(overlay).to_have_attribute("data-sequence", str(newer), timeout=WAIT_MS)
        # Boxes can be turned off.
        tab.page.keyboard.press("b")
        wait_for_no_box(tab)
        expect(tab.page.locator("#boxes")).to_have_attribute("aria-pressed", "false")


def wait_for_no_box(tab: Tab) -> None:
    tab.page.wait_for_function(f"() => (({FIND_BOX})(['hall'])).box === null", timeout=WAIT_MS)


def test_page_survives_a_restart_of_the_gateway(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall", "yard") as (config, fakes):
        for camera in fakes.values():
            camera.play(fps=10)
        first = Gateway(config).start()
        port = first.port
        tab.page.goto(first.url)
        tab.has_picture("hall")
        tab.page.evaluate("window.mark = 1")
        first.stop()
        expect(tab.card("hall")).to_have_attribute("data-trouble", "connection", timeout=WAIT_MS)
        expect(tab.page.locator("#summary")).to_have_text("Connecting to the gateway…")
        fixed = config.model_copy(
            update={"gateway": config.gateway.model_copy(update={"port": port})}
        )
        with Gateway(fixed):
            before = int(tab.card("hall").get_attribute("data-sequence"))
            tab.has_picture("hall")
            tab.has_picture("yard")
            tab.page.wait_for_function(
                f"() => +document.querySelector('[data-camera=hall]').dataset.sequence > {before}",
                timeout=WAIT_MS,
            )
        assert tab.page.evaluate("window.mark") == 1  # the same page, not reloaded


def test_faults_are_shown_and_text_is_never_markup(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall", "yard") as (config, fakes), Gateway(config) as gateway:
        camera = fakes["hall"]
        camera.message = "<img src=x onerror=\"document.title='owned'\">"
        camera.camera_state = CameraState.OFFLINE
        camera.play(fps=5)
        tab.page.goto(gateway.url)
        card = tab.card("hall")
        expect(card.locator(".cover-title")).to_contain_text("Camera offline", timeout=WAIT_MS)
        expect(card.locator(".cover-text")).to_have_text(camera.message)
        assert card.locator(".cover img").count() == 0
        camera.camera_state, camera.message = CameraState.FROZEN, ""
        expect(card.locator(".cover-title")).to_contain_text("Picture frozen", timeout=WAIT_MS)
        camera.camera_state = CameraState.LIVE
        tab.has_picture("hall")
        expect(tab.card("yard").locator(".cover-text")).to_contain_text("no capture process")
        assert "owned" not in tab.page.title()
        assert tab.complaints == []


def test_header_and_cover_show_the_failed_part(tmp_path: Path, tab: Tab) -> None:
    names = ("hall", "garage", "statue", "yard")
    with cameras(tmp_path, *names) as (config, fakes):
        model = ModelInfo("rfdetr_ort", "1", "onnxruntime", "CPU", "fp32", {"person": 1})
        config.run_dir.mkdir()
        write_served_model(config.run_dir, model)
        gateway = Gateway(config).start()
        for camera in fakes.values():
            camera.play(fps=5)
        summary = tab.page.locator("#summary")
        tab.page.goto(gateway.url)
        expect(summary).to_have_text("4 cameras, all quiet", timeout=WAIT_MS)
        # The detector is dead for one camera, whose picture stays live; another one is offline.
        fakes["statue"].gives_results = False
        fakes["garage"].camera_state = CameraState.OFFLINE
        expect(summary).to_have_text("2 of 4 blind: garage, statue", timeout=WAIT_MS)
        statue = tab.card("statue")
        expect(statue.locator(".cover-title")).to_contain_text("Not watching since")
        expect(statue.locator(".cover-text")).to_have_text("the detector returns no results")
        expect(statue.locator(".badge")).to_have_text("Unknown")  # no all-clear
        expect(tab.page.locator("#announce")).to_contain_text("is not watched")
        fakes["yard"].state = SentryState.TRACKING
        expect(summary).to_have_text("Person: yard · 2 of 4 blind: garage, statue")
        # Alarmed first.
        places = [tab.card(name).bounding_box() for name in names]
        assert min(places, key=lambda box: (box["y"], box["x"])) == places[3]
        fakes["garage"].camera_state = CameraState.LIVE
        fakes["yard"].state = SentryState.STANDBY
        for camera in fakes.values():
            camera.gives_results = False
        expect(summary).to_have_text(
            f"4 of 4 blind: {', '.join(names)} · detection is down", timeout=WAIT_MS
        )
        for camera in fakes.values():
            camera.gives_results = True
        expect(summary).to_have_text("4 cameras, all quiet", timeout=WAIT_MS)
        # Only important changes are announced.
        assert tab.page.locator('[role="status"]').count() == 0
        gateway.stop()
        expect(tab.page.locator("body")).to_have_class("gone", timeout=WAIT_MS)
        assert tab.complaints == []


def test_notices_for_unknown_alarm_class_and_demonstration_model(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall", "yard") as (config, fakes):
        config = config.model_copy(update={"alarm": AlarmSection(classes=["cat", "person"])})
        config.run_dir.mkdir()
        model = ModelInfo("rfdetr_ort", "1", "onnxruntime", "CPU", "fp32", {"person": 1})
        write_served_model(config.run_dir, model)
        fakes["yard"].source_kind = "rtsp"
        with Gateway(config) as gateway:
            for camera in fakes.values():
                camera.play(fps=5)
            tab.page.goto(gateway.url)
            notices = tab.page.locator("#notices")
            expect(notices).to_contain_text("hall, yard: the model does not know the alarm class")
            expect(notices).to_contain_text("yard: the bundled demonstration model")
            write_served_model(config.run_dir, replace(model, classes={"dog": 1}))
            expect(tab.card("hall").locator(".cover-text")).to_contain_text("'cat', 'person'")


@pytest.mark.parametrize(
    ("width", "height", "columns", "scrolls"),
    [(1440, 900, 3, False), (1024, 768, 2, True), (390, 844, 1, True), (1920, 1080, 4, False)],
)
def test_grid_fits_the_window(
    tmp_path: Path, browser: Browser, width: int, height: int, columns: int, scrolls: bool
) -> None:
    names = [*(f"c{n}" for n in range(7)), "a-name-of-32-letters-isnt-short_"]
    with cameras(tmp_path, *names, width=320, height=180) as (config, fakes):
        with Gateway(config) as gateway:
            for camera in fakes.values():
                camera.play(fps=2)
            size = {"width": width, "height": height}
            for scheme in ("dark", "light"):
                with open_tab(browser, viewport=size, color_scheme=scheme) as tab:
                    tab.page.goto(gateway.url)
                    tab.has_picture("c0")
                    boxes = [tab.card(name).bounding_box() for name in names]
                    assert len({round(box["x"]) for box in boxes}) == columns
                    lowest = max(box["y"] + box["height"] for box in boxes)
                    assert (lowest > height) is scrolls
                    name = tab.card(names[-1]).locator(".name")
                    assert name.evaluate("node => node.scrollWidth <= node.clientWidth")
                    ground = tab.page.evaluate(
                        "getComputedStyle(document.documentElement).backgroundColor"
                    )
                    assert (ground == "rgb(244, 246, 248)") is (scheme == "light")


def test_keyboard_and_enlarged_view(tmp_path: Path, tab: Tab) -> None:
    options: dict[str, Any] = {"width": 1280, "height": 720}
    with (
        cameras(tmp_path, "hall", "yard", **options) as (config, fakes),
        Gateway(config) as gateway,
    ):
        for camera in fakes.values():
            camera.play(fps=5)
        tab.page.goto(gateway.url)
        tab.has_picture("hall")
        width = "() => document.querySelector('[data-camera=hall] .picture').width"
        assert tab.page.evaluate(width) == 640  # from the first picture on
        large = tab.page.get_by_role("button", name="Enlarge hall")
        large.focus()
        tab.page.keyboard.press("Enter")
        expect(tab.page.locator("body")).to_have_class("single")
        expect(tab.card("yard")).to_be_hidden()
        tab.page.wait_for_function(f"{width.replace('() =>', '() => 1280 ===')}", timeout=WAIT_MS)
        assert tab.page.url.endswith("#hall")
        tab.page.keyboard.press("ArrowRight")
        expect(tab.card("yard")).to_be_visible()
        expect(tab.card("yard").locator(".open")).to_be_focused()
        shortcuts = tab.page.get_by_role("button", name="Shortcuts")
        shortcuts.click()
        expect(shortcuts).to_have_attribute("aria-pressed", "false")
        tab.page.keyboard.press("b")
        tab.page.keyboard.press("ArrowRight")
        expect(tab.page.locator("#boxes")).to_have_attribute("aria-pressed", "true")
        expect(tab.card("yard")).to_be_visible()
        tab.page.reload()  # the choice is saved
        expect(shortcuts).to_have_attribute("aria-pressed", "false")
        shortcuts.click()
        tab.has_picture("yard")
        tab.page.keyboard.press("Escape")
        expect(tab.card("hall")).to_be_visible()
        expect(tab.card("yard")).to_be_visible()
        tab.page.go_back()
        expect(tab.card("hall")).to_be_hidden()
        assert tab.complaints == []


def test_viewer_fits_on_a_phone(tmp_path: Path, browser: Browser) -> None:
    with cameras(tmp_path, "hall", "yard") as (config, fakes), Gateway(config) as gateway:
        for camera in fakes.values():
            camera.play(fps=5)
        context = browser.new_context(
            viewport={"width": 360, "height": 740},
            device_scale_factor=2,
            is_mobile=True,
            has_touch=True,
        )
        context.set_default_timeout(WAIT_MS)
        tab = Tab(context.new_page())
        for address in (gateway.url, gateway.url + "/#hall"):
            tab.page.goto(address)
            tab.has_picture("hall")
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert tab.page.evaluate(overflow) <= 0
        fakes["yard"].gives_results = False
        tab.page.goto(gateway.url)
        tab.page.get_by_role("button", name="Status").tap()
        expect(tab.page.locator("#status")).to_contain_text("Not watching since")
        expect(tab.card("hall")).to_be_hidden()
        tab.page.get_by_role("button", name="Events").tap()
        expect(tab.page.get_by_text("Nothing has happened yet.")).to_be_visible()
        tab.page.get_by_role("button", name="Live").tap()
        expect(tab.card("hall")).to_be_visible()
        manifest = tab.page.locator('link[rel="manifest"]').get_attribute("href")
        assert tab.page.request.get(f"{gateway.url}/{manifest}").json()["start_url"] == "../"
        context.close()


def test_blocked_storage(tmp_path: Path, tab: Tab) -> None:
    """Choices are lost when the page is closed, but the page works."""
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        fakes["hall"].play(fps=5)
        tab.page.add_init_script(
            "Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked'); } });"
        )
        tab.page.goto(gateway.url)
        tab.has_picture("hall")
        shortcuts = tab.page.get_by_role("button", name="Shortcuts")
        shortcuts.click()
        expect(shortcuts).to_have_attribute("aria-pressed", "false")
        assert tab.complaints == []


def test_pure_javascript_modules(tmp_path: Path, tab: Tab) -> None:
    """The modules of the page that only compute."""
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        tab.page.goto(gateway.url)
        found = tab.page.evaluate(
            """async () => {
          const [boxes, clock, meters, stream, dom, layout, summary] = await Promise.all(
            ["boxes", "clock", "meters", "stream", "dom", "layout", "summary"]
              .map((name) => import(`/static/${name}.js`)));
          const { EventList } = await import("/static/events.js");
          const [list, node] = [document.createElement("ul"), document.createElement("p")];
          const events = new EventList(list, node, () => {});
          const real = fetch;
          const listed = [];
          let stored = [[7, 700], [8, 800]];
          globalThis.fetch = async (url) => {
            const after = Number(new URL(url, location).searchParams.get("after"));
            return Response.json({ events: stored.filter(([seq]) => seq > after).reverse().map(
              ([seq, unix_ms]) => ({ seq, unix_ms, camera: "a", kind: "person_left", details: {} })) });
          };
          for (const further of [[], [[9, 900]], null, [[1, 1000]], [[2, 2000]]]) {
            stored = further === null ? [] : [...stored, ...further];  // null: the database is new
            await events.refresh();
            listed.push([...list.children].map((row) => Number(row.dataset.seq)));
          }
          globalThis.fetch = real;
          const offset = new clock.ClockOffset();
          offset.add(1000, 6100, 1200);  // 5000 ahead, but the way back was slow: 200 ms
          offset.add(2000, 7010, 2020);  // 20 ms
          const meter = new meters.Meter();
          for (let time = 0; time <= 2000; time += 100) meter.add(time, time);
          const packed = new Uint8Array([8, 0, 0, 0, ...new TextEncoder().encode('{"a": 1}'), 255, 216]);
          const broken = (bytes) => {
            try { stream.unpack(new Uint8Array(bytes).buffer); return false; } catch { return true; }
          };
          const nonsense = [[], [9, 0, 0, 0, 123, 125], [2, 0, 0, 0, 91, 91], [4, 0, 0, 0, 110, 117, 108, 108]];
          const watching = { watching: true };
          const card = { camera: "a", isOpen: true, state: "standby", watching, visitClass: "person" };
          return {
            match: boxes.bestMatch([{ sequence: 3 }, { sequence: 5 }, { sequence: 9 }], 7).sequence,
            noMatch: boxes.bestMatch([], 7),
            opacity: [boxes.opacity(0, 0), boxes.opacity(1000, 0), boxes.opacity(5000, 0), boxes.opacity(0, 9000)],
            offset: offset.offset, error: offset.error,
            median: meter.median(2000), rate: meter.rate(2000), later: meter.rate(4000),
            gone: meter.rate(9000),
            listed,
            header: stream.unpack(packed.buffer).header, image: [...stream.unpack(packed.buffer).image],

            broken: nonsense.map(broken),
            delays: [0, 1, 5, 50].map((n) => [stream.reconnectDelay(n, 0), stream.reconnectDelay(n, 1)]),
            columns: [[1, 1100, 800], [2, 1100, 800], [8, 1100, 800], [8, 366, 700], [64, 1100, 800]].map(
              (of) => layout.columnsFor(...of, 46)),
            headers: [
              [{ ...card, isCurrent: true }],
              [{ ...card, isCurrent: false }],
              [{ ...card, isLate: true, state: "tracking", watching: { watching: false, part: "detector" } }],
              [{ camera: "a", isOpen: true, state: "standby", watching: null, visitClass: "person" }],
              [{ camera: "a", isOpen: true, state: "tracking", watching: { watching: true }, visitClass: "car" }],
              [{ camera: "a", isOpen: true, state: "unknown", watching: { watching: false }, visitClass: "" }],
              [],
            ].map((cards) => summary.summarise(cards, { broker: cards.length ? "away" : "connected" }).text),
            words: [dom.milliseconds(87.4), dom.milliseconds(1234), dom.duration(59_000), dom.duration(3_700_000)],
          };
        }"""
        )
        assert found == {
            "match": 5,
            "noMatch": None,
            "opacity": [1, 0.5, 0, 0],
            "offset": 5000,
            "error": 10,
            "rate": pytest.approx(10),
            "later": pytest.approx(10 * 10 / 29, rel=0.2),
            "median": 1000,
            "gone": 0,
            "listed": [[8, 7], [9, 8, 7], [9, 8, 7], [1], [2, 1]],
            "header": {"a": 1},
            "image": [255, 216],
            "broken": [True] * 4,
            "delays": [[100, 200], [200, 400], [2500, 5000], [2500, 5000]],
            "columns": [1, 2, 3, 1, 3],
            "headers": [
                "1 camera, all quiet · broker unreachable",
                "1 camera · broker unreachable",
                "Person: a · Blind: a · the connection is too slow · broker unreachable",
                "1 camera · broker unreachable",
                "Car: a · broker unreachable",
                "Blind: a · broker unreachable",
                "Connecting…",
            ],
            "words": ["87 ms", "1.2 s", "59 s", "1 h 1 min"],
        }
        assert tab.complaints == []


def test_login_with_the_token_until_logout(tmp_path: Path, tab: Tab) -> None:
    (tmp_path / "token").write_text("open sesame, please")
    with cameras(tmp_path, "hall", gateway={"token_file": tmp_path / "token"}) as (config, fakes):
        with Gateway(config) as gateway:
            fakes["hall"].play(fps=5)
            tab.page.goto(gateway.url)
            assert tab.page.url.endswith("/login")
            field = tab.page.get_by_label("Gateway token")
            field.fill("open barley")
            tab.page.keyboard.press("Enter")
            expect(tab.page.get_by_role("alert")).to_contain_text("Wrong token")
            field.fill("open sesame, please")
            tab.page.keyboard.press("Enter")
            tab.has_picture("hall")
            assert "sesame" not in tab.page.url
            tab.page.get_by_role("button", name="Log out").click()
            tab.page.wait_for_url("**/login")
            tab.page.goto(gateway.url)
            assert tab.page.url.endswith("/login")
