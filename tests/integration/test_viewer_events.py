"""The events page in a real Chromium: list, filters, timeline, picture, clip, links and login."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from support.browser import CHROMIUM, NO_CHROMIUM, WAIT_MS, Tab, open_tab
from support.evidence import keep_visits, picture, visit_id
from support.gateway import Gateway, cameras
from tridetr.config.node_sections import EvidenceSection
from tridetr.recorder.evidence_database import COMPLETE, ENDED, OPEN

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
    pytest.mark.timeout(240),
]
COUNT = 95
TOKEN = "a-token-of-enough-length"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with 95 visits, one every 45 minutes, over three days."""
    folder = tmp_path_factory.mktemp("events")
    with cameras(folder, "hall", "yard") as (config, _):
        path = folder / "evidence"
        keep_visits(
            path,
            COUNT,
            cameras=("hall", "yard"),
            classes=("person", "car", "dog"),
            minutes_apart=45,
        )
        config = config.model_copy(update={"evidence": EvidenceSection(path=path)})
        with Gateway(config) as running:
            yield running


def shown(tab: Tab) -> list[str]:
    links = tab.page.locator(".visit").evaluate_all("rows => rows.map((row) => row.hash.slice(1))")
    return [str(link) for link in links]


def expect_shown(tab: Tab, numbers: list[int]) -> None:
    expect(tab.page.locator(".visit")).to_have_count(len(numbers), timeout=WAIT_MS)
    assert shown(tab) == [visit_id(number) for number in numbers]


def close_detail(tab: Tab) -> None:
    tab.page.keyboard.press("Escape")
    # The page learns of it in a later task.
    expect(tab.page).to_have_url(re.compile("^[^#]*$"))
    expect(tab.page.locator("#detail")).to_be_hidden()


def test_list_contains_all_saved_visits(gateway: Gateway, tab: Tab) -> None:
    tab.page.goto(f"{gateway.url}/events")
    first = tab.page.locator(".visit").first
    expect(first).to_have_attribute("href", f"#{visit_id(COUNT - 1)}")
    expect(first.locator(".visit-what")).to_contain_text("Dog" if (COUNT - 1) % 3 == 2 else "Car")
    expect(first.locator(".visit-long")).to_have_text(re.compile(r"^2\d s$"))
    expect(first.locator(".visit-score")).to_have_text("94 %")
    tab.page.wait_for_function(
        "() => document.querySelector('.visit-thumb').naturalWidth === 160", timeout=WAIT_MS
    )
    assert tab.page.locator(".visit").count() < COUNT, "the rest is loaded when it is needed"
    for _ in range(40):
        tab.page.mouse.wheel(0, 4000)
        if tab.page.locator(".visit").count() == COUNT:
            break
        tab.page.wait_for_timeout(100)
    expect_shown(tab, list(reversed(range(COUNT))))
    expect(tab.page.locator("#note")).to_have_text("All saved visits are shown.")
    assert tab.complaints == []


def test_filters_are_stored_in_the_url(gateway: Gateway, tab: Tab) -> None:
    tab.page.goto(f"{gateway.url}/events")
    expect(tab.page.locator(".visit")).not_to_have_count(0)
    tab.page.get_by_label("Camera").select_option("yard")
    tab.page.get_by_label("Class").select_option("dog")
    wanted = [n for n in reversed(range(COUNT)) if n % 2 == 1 and n % 3 == 2]
    expect_shown(tab, wanted)
    expect(tab.page.locator(".line-name")).to_have_text("yard")
    # Newer and older are those of the list
    tab.page.locator(".visit").nth(1).click()
    for way, number in (("Older", wanted[2]), ("Newer", wanted[1]), ("Newer", wanted[0])):
        tab.page.get_by_role("button", name=way).click()
        expect(tab.page).to_have_url(re.compile(f"#{visit_id(number)}$"))
    expect(tab.page.get_by_role("button", name="Newer")).to_be_disabled()
    close_detail(tab)
    tab.page.reload()
    expect_shown(tab, wanted)
    yesterday = time.strftime("%Y-%m-%d", time.localtime(time.time() - 86_400))
    tab.page.locator("[name=day]").fill(yesterday)
    tab.page.wait_for_function("() => location.search.includes('day=')", timeout=WAIT_MS)
    expect(tab.page.locator("#day-title")).not_to_contain_text("Today")
    expect(tab.page.locator("#note")).to_have_text("All saved visits are shown.")
    found = shown(tab)
    assert 0 < len(found) < len(wanted)
    days = tab.page.locator(".visit time").evaluate_all("all => all.map((one) => one.dateTime)")
    for day in days:
        local = tab.page.evaluate(
            "(text) => { const d = new Date(text); return [d.getFullYear(), d.getMonth() + 1, d.getDate()]; }",
            day,
        )
        assert "{}-{:02}-{:02}".format(*local) == yesterday
    tab.page.get_by_role("button", name="Clear").click()
    expect(tab.page.locator(".visit").first).to_have_attribute("href", f"#{visit_id(COUNT - 1)}")
    assert "?" not in tab.page.url
    assert tab.complaints == []


def test_a_late_answer_does_not_reopen_a_closed_visit(gateway: Gateway, tab: Tab) -> None:
    tab.page.goto(f"{gateway.url}/events#{visit_id(COUNT - 1)}")
    expect(tab.page.locator("#detail")).to_be_visible()
    held: list[Route] = []
    tab.page.route(f"**/api/visits/{visit_id(COUNT - 2)}?*", lambda route: held.append(route))
    with tab.page.expect_request(f"**/api/visits/{visit_id(COUNT - 2)}?*"):
        tab.page.get_by_role("button", name="Older").click()
    close_detail(tab)
    with tab.page.expect_response(held[0].request.url):
        held[0].continue_()
    tab.page.evaluate(
        "new Promise((resolve) => setTimeout(resolve))"
    )  # the page has read the answer
    expect(tab.page.locator("#detail")).to_be_hidden()
    assert "#" not in tab.page.url
    assert tab.complaints == []


def test_a_list_that_cannot_be_loaded_is_tried_again_with_the_next_look(
    gateway: Gateway, tab: Tab
) -> None:
    """The page sent the next request at once, 50 a second, until the rate limit locked out the other pages too."""
    asked = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=503, json={"error": "the disk is gone"})

    tab.page.route("**/api/visits?*", refuse)
    tab.page.goto(f"{gateway.url}/events#%")  # and a link that was cut off
    expect(tab.page.locator("#note")).to_contain_text("cannot be loaded: the disk is gone")
    expect(tab.page.locator("#detail h2")).to_have_text("Visit not found")
    tab.page.wait_for_timeout(300)
    assert len(asked) == 1
    tab.page.unroute("**/api/visits?*")
    tab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(tab.page.locator(".visit").first).to_have_attribute("href", f"#{visit_id(COUNT - 1)}")
    assert [text for text in tab.complaints if "Failed to load resource" not in text] == []


def test_one_visit_its_boxes_and_its_clip(gateway: Gateway, tab: Tab) -> None:
    tab.page.goto(f"{gateway.url}/events")
    tab.page.locator(".visit").nth(2).click()
    detail = tab.page.locator("#detail")
    number = COUNT - 3
    expect(detail).to_be_visible()
    expect(tab.page).to_have_url(re.compile(f"/events#{visit_id(number)}$"))
    # The picture has its box until boxes are turned off
    place = detail.locator("rect").bounding_box()
    shot = detail.locator(".shot").bounding_box()
    assert place is not None
    assert shot is not None
    assert (place["x"] - shot["x"]) / shot["width"] == pytest.approx(250 / 640, abs=0.01)
    assert (place["y"] - shot["y"]) / shot["height"] == pytest.approx(60 / 360, abs=0.015)
    detail.get_by_role("button", name="Boxes").click()
    expect(detail.locator("[data-part=boxes]")).to_be_hidden()
    # The clip can be played, but does not start by itself
    video = detail.locator("video")
    tab.page.wait_for_function(
        "() => document.querySelector('video').readyState >= 1", timeout=WAIT_MS
    )
    assert video.evaluate("node => node.paused")
    video.evaluate("node => { node.muted = true; return node.play(); }")
    tab.page.wait_for_function(
        "() => document.querySelector('video').currentTime > 0.5", timeout=WAIT_MS
    )
    assert video.evaluate("node => node.duration") == pytest.approx(2.0, abs=0.2)
    assert video.evaluate("node => [node.videoWidth, node.videoHeight]") == [640, 360]
    # Newer and older, by button and key
    detail.get_by_role("button", name="Older").click()
    expect(tab.page).to_have_url(re.compile(f"#{visit_id(number - 1)}$"))
    tab.page.keyboard.press("ArrowLeft")
    expect(tab.page).to_have_url(re.compile(f"#{visit_id(number)}$"))
    # Download, and the link
    with tab.page.expect_download() as download:
        detail.get_by_role("link", name="Download picture").click()
    assert Path(download.value.path()).read_bytes() == picture(number)
    assert re.match(r"(hall|yard)-\d{4}-\d\d-\d\dT[-\d]+\.jpg", download.value.suggested_filename)
    with tab.page.expect_download() as download:
        detail.get_by_role("link", name="Download clip").click()
    assert b"ftyp" in Path(download.value.path()).read_bytes()[:16]
    link = detail.get_by_role("link", name="Link to this visit").evaluate("node => node.href")
    assert link == f"{gateway.url}/events#{visit_id(number)}"
    tab.page.keyboard.press("Escape")
    expect(detail).to_be_hidden()
    expect(tab.page).to_have_url(re.compile("/events$"))
    tab.page.goto(link)
    expect(detail.locator("h2")).to_contain_text(" at ")
    assert tab.complaints == []


def test_timeline_of_the_day(gateway: Gateway, tab: Tab) -> None:
    tab.page.goto(f"{gateway.url}/events")
    spans = tab.page.locator(".line-bar [data-kind=visit]")
    expect(spans).not_to_have_count(0)
    expect(tab.page.locator(".line-bar [data-kind=unrecorded]").first).to_be_visible()
    expect(tab.page.locator(".line-name").nth(0)).to_have_text("hall")
    expect(spans.first).to_have_attribute("aria-label", re.compile("^Visit at "))
    expect(tab.page.locator(".line-bar .future")).to_have_count(
        2
    )  # the future is not shown as quiet
    spans.first.click()
    expect(tab.page.locator("#detail")).to_be_visible()
    tab.page.keyboard.press("Escape")
    tab.page.get_by_label("Day", exact=True).fill("2026-01-01")
    expect(tab.page.locator(".line-bar .future")).to_have_count(0)
    assert tab.complaints == []


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844), (320, 640)])
def test_nothing_is_wider_than_the_window(
    gateway: Gateway, browser: Browser, width: int, height: int
) -> None:
    with open_tab(browser, viewport={"width": width, "height": height}) as tab:
        tab.page.goto(f"{gateway.url}/events")
        expect(tab.page.locator(".visit")).not_to_have_count(0)
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.page.evaluate(overflow) <= 0
        tab.page.locator(".visit").first.click()
        expect(tab.page.locator("#detail")).to_be_visible()
        sides = tab.page.locator("#detail").evaluate("node => node.scrollWidth - node.clientWidth")
        assert sides <= 0


def test_a_login_leads_back_to_the_visit(tmp_path: Path, tab: Tab) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with cameras(tmp_path, "hall", gateway={"token_file": file}) as (config, _):
        keep_visits(tmp_path / "evidence", 2)
        config = config.model_copy(update={"evidence": EvidenceSection(path=tmp_path / "evidence")})
        with Gateway(config) as gateway:
            tab.page.goto(f"{gateway.url}/events#{visit_id(0)}")
            tab.page.get_by_label("Gateway token").fill(TOKEN)
            tab.page.get_by_role("button", name="Log in").click()
            expect(tab.page.locator("#detail h2")).to_have_text("Person at hall")
            expect(tab.page).to_have_url(re.compile(f"/events#{visit_id(0)}$"))


def test_new_visits_appear_and_removed_ones_are_explained(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall") as (config, _):
        path = tmp_path / "evidence"
        config = config.model_copy(update={"evidence": EvidenceSection(path=path)})
        with Gateway(config) as gateway:
            tab.page.goto(f"{gateway.url}/events")
            expect(tab.page.locator("#note")).to_have_text("No visit has been recorded yet.")
            keep_visits(path, 3, clips=False)
            expect(tab.page.locator(".visit")).to_have_count(3, timeout=WAIT_MS)
            with closing(sqlite3.connect(path / "evidence.db")) as connection, connection:
                connection.execute("DELETE FROM visit WHERE visit_id = ?", (visit_id(1),))
            tab.page.locator(".visit").nth(1).click()
            expect(tab.page.locator("#detail h2")).to_have_text("Visit not found")


def test_shown_visit_is_updated_with_its_end_and_clip(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall") as (config, _):
        path = tmp_path / "evidence"
        keep_visits(path, 1)
        config = config.model_copy(update={"evidence": EvidenceSection(path=path)})

        def change(columns: str, *values: object) -> None:
            with closing(sqlite3.connect(path / "evidence.db")) as connection, connection:
                connection.execute(f"UPDATE visit SET {columns}", values)
            tab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

        with closing(sqlite3.connect(path / "evidence.db")) as connection, connection:
            (clip,) = connection.execute("SELECT clip FROM visit").fetchone()
            connection.execute("UPDATE visit SET clip = NULL, is_open = ?", (OPEN,))
        with Gateway(config) as gateway:
            tab.page.goto(f"{gateway.url}/events#{visit_id(0)}")
            detail = tab.page.locator("#detail")
            later = detail.get_by_text("The clip is saved a few seconds after")
            expect(tab.page.locator(".visit-long")).to_have_text("Present")
            expect(later).to_be_visible()
            change("is_open = ?", ENDED)
            expect(tab.page.locator(".visit-long")).to_have_text(re.compile(r"^2\d s$"))
            expect(detail.locator("[data-part=facts]")).not_to_contain_text("now")
            expect(later).to_be_visible()
            change("is_open = ?, clip = ?", COMPLETE, clip)
            expect(later).to_be_hidden()
            expect(detail.locator("video")).to_be_visible()
            # A row that is updated keeps the focus
            tab.page.keyboard.press("Escape")
            expect(tab.page.locator(".visit")).to_be_focused()
            change("score = ?", 0.12)
            expect(tab.page.locator(".visit-score")).to_have_text("12 %")
            expect(tab.page.locator(".visit")).to_be_focused()
            bar = tab.page.locator(".line-bar a")
            bar.focus()
            bar.evaluate("node => { node.dataset.before = 1; }")
            change("score = ?", 0.34)
            expect(tab.page.locator("[data-before]")).to_have_count(0)
            expect(bar).to_be_focused()
    assert tab.complaints == []


def test_page_without_evidence_shows_the_config_key(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        tab.page.goto(gateway.url)
        tab.page.get_by_role("link", name="Events").click()
        expect(tab.page.locator("#note")).to_contain_text("`evidence: {}`")
