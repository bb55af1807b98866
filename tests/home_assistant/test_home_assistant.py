"""The real Home Assistant, a real mosquitto and a real controller: entities, states, availability, restarts."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from support.containers import ROOT
from support.home_assistant import HomeAssistant, running_home_assistant
from support.mosquitto import Mosquitto, listening, running_mosquitto
from support.sentry import EMPTY, PERSON, Actor, ControllerProcess, running_controller
from support.waiting import wait_for
from tridetr.controller.history import DATABASE
from tridetr.controller.payloads import NODE_S
from tridetr.recorder.archive import Archive, VisitFacts
from tridetr.shm.boards import CameraState

pytestmark = [pytest.mark.home_assistant, pytest.mark.timeout(900)]

DOCS = ROOT / "docs"
SOON_S = 60
CAMERA = {
    "binary_sensor.hall_person": "off",
    "binary_sensor.hall_camera": "on",
    "binary_sensor.hall_problem": "off",
    "sensor.hall_sentry": "standby",
    "switch.hall_armed": "on",
}
NODE = {
    "binary_sensor.tridetr_node1_detector": "off",
    "binary_sensor.tridetr_node1_event_delivery": "off",
    "binary_sensor.tridetr_node1_disk": "off",
    "binary_sensor.tridetr_node1_notifications": "off",
    "switch.tridetr_node1_armed": "on",
}


class Film:
    """Plays a live camera with its detector: five frames a second of whatever is in front of it.

    Attributes:
        seen: What is there now.
        has_results: Whether the detector works.
    """

    def __init__(self, actor: Actor) -> None:
        self.seen = EMPTY
        self.has_results = True
        self._actor = actor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        while not self._stop.wait(0.2):
            if self.has_results:
                self._actor.show(self.seen, age_s=0.05)
            else:
                self._actor.be(CameraState.LIVE)

    def visit_id(self) -> str:
        return self._actor.board().visit_id

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclass
class House:
    """All of it together."""

    home: HomeAssistant
    broker: Mosquitto
    node: ControllerProcess
    film: Film
    archive: Archive

    def wait_states(self, wanted: dict[str, str]) -> None:
        def differing() -> dict[str, str]:
            states = self.home.states()
            found = {name: states.get(name, {}).get("state", "missing") for name in wanted}
            return {name: state for name, state in found.items() if state != wanted[name]}

        last: dict[str, str] = {}

        def agree() -> bool:
            last.clear()
            last.update(differing())
            return not last

        try:
            wait_for(agree, SOON_S)
        except AssertionError:
            raise AssertionError(f"not as wanted: {last}; wanted {wanted}") from None

    def visit(self) -> None:
        self.film.seen = PERSON
        self.wait_states({"binary_sensor.hall_person": "on", "sensor.hall_sentry": "tracking"})
        self.film.seen = EMPTY
        self.wait_states(CAMERA)


def documented(page: str, key: str) -> list[dict[str, Any]]:
    """Return the automations of the YAML blocks of a page."""
    blocks = [block.split("```")[0] for block in (DOCS / page).read_text().split("```yaml\n")[1:]]
    found = [yaml.safe_load(block) for block in blocks]
    return [item for block in found if key in block for item in block[key]]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    automations = documented("how-to/home-assistant.md", "automation")
    assert len(automations) == 2
    files = {
        "blueprints/automation/tridetr/visit.yaml": DOCS / "how-to" / "home-assistant-visit.yaml"
    }
    with (
        running_mosquitto(folder / "broker") as broker,
        running_controller(
            folder / "node",
            {"port": broker.port, "pictures": True},
            gateway={"host": "10.0.0.7"},
            evidence={},
        ) as (node, actor),
        Archive(folder / "node/state/evidence", keep_days=1, max_mib=100) as archive,
        closing(Film(actor)) as film,
        running_home_assistant(folder / "home", files, automation=automations) as home,
    ):  # fmt: skip
        home.add_mqtt(broker.port)
        yield House(home, broker, node, film, archive)


def test_entities_and_devices_appear_and_states_follow(house: House) -> None:
    house.wait_states({**CAMERA, **NODE})
    house.visit()
    visits = house.home.states()["event.hall_visits"]["attributes"]
    assert visits["event_type"] == "person_left"
    assert visits["event_id"].endswith(":left")
    devices = {
        device["name"]: device for device in house.home.command("config/device_registry/list")
    }
    hall, node = devices["Hall"], devices["tridetr node1"]
    assert hall["via_device_id"] == node["id"]
    assert hall["configuration_url"] == node["configuration_url"] == "http://10.0.0.7:8080/"
    assert hall["manufacturer"] == "tridetr"
    areas = {
        area["area_id"]: area["name"] for area in house.home.command("config/area_registry/list")
    }
    assert areas[hall["area_id"]] == "Hall"


def test_the_picture_of_the_visit(house: House) -> None:
    """The recorder's archive is filled by the test."""
    house.wait_states({**CAMERA, **NODE})
    house.film.seen = PERSON
    house.wait_states({"binary_sensor.hall_person": "on"})
    jpeg = (ROOT / "docs/images/viewer.png").read_bytes()[:50_000]
    visit = VisitFacts(house.film.visit_id(), "hall", "person", time.time_ns(), time.time_ns())
    house.archive.save_picture(visit, (jpeg, jpeg), 0.9, {})
    wait_for(lambda: house.home.state("image.hall_picture") not in ("", "unknown"), SOON_S)
    path = house.home.states()["image.hall_picture"]["attributes"]["entity_picture"]
    assert house.home.picture(path) == jpeg
    house.film.seen = EMPTY
    house.wait_states(CAMERA)


def test_problems_of_the_detector_and_the_disk(house: House) -> None:
    house.wait_states({**CAMERA, **NODE})
    house.film.has_results = False
    house.wait_states(
        {
            "binary_sensor.tridetr_node1_detector": "on",
            "binary_sensor.hall_problem": "on",
            "binary_sensor.hall_person": "unknown",
        }
    )
    house.film.has_results = True
    house.wait_states({**CAMERA, **NODE})
    file = house.node.folder / "state" / DATABASE
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        house.film.seen = PERSON
        house.wait_states(
            {"binary_sensor.hall_person": "on", "binary_sensor.tridetr_node1_disk": "on"}
        )
        house.film.seen = EMPTY
        house.wait_states({"binary_sensor.hall_person": "off"})
    house.wait_states({**CAMERA, **NODE})


def test_armed_switches_act_and_survive_a_restart(house: House) -> None:
    house.wait_states({**CAMERA, **NODE})
    for entity in ("switch.hall_armed", "switch.tridetr_node1_armed"):
        for service, state in (("turn_off", "off"), ("turn_on", "on")):
            house.home.ask(f"/api/services/switch/{service}", {"entity_id": entity})
            house.wait_states({entity: state})
    house.home.ask("/api/services/switch/turn_off", {"entity_id": "switch.hall_armed"})
    house.wait_states({"switch.hall_armed": "off"})
    house.node.kill()
    # Otherwise the states from before the kill would pass for those after it.
    house.wait_states({"switch.hall_armed": "unavailable"})
    house.node.start()
    house.wait_states({**CAMERA, "switch.hall_armed": "off"})
    house.home.ask("/api/services/switch/turn_on", {"entity_id": "switch.hall_armed"})
    house.wait_states(CAMERA)


def test_the_documented_automations_run_once_per_visit(house: House) -> None:
    house.wait_states({**CAMERA, **NODE})
    states = house.home.states()
    names = [name for name in states if name.startswith("automation.")]
    assert len(names) == 2
    assert {states[name]["state"] for name in names} == {"on"}
    before = notifications(house)
    house.visit()
    wait_for(lambda: len(notifications(house)) == len(before) + 1, SOON_S)
    assert notifications(house)[-1]["title"] == "person_arrived at Hall"
    plain = house.home.states()["automation.a_person_is_in_the_hall"]["attributes"]
    assert plain["last_triggered"]
    # The node comes back: nothing has happened.
    house.node.kill()
    house.wait_states(dict.fromkeys(CAMERA, "unavailable"))
    house.node.start()
    house.wait_states(CAMERA)
    assert len(notifications(house)) == len(before) + 1


def notifications(house: House) -> list[dict[str, Any]]:
    found = house.home.command("persistent_notification/get")
    mine = [one for one in found if "arrived" in one["title"]]
    return sorted(mine, key=lambda one: str(one["created_at"]))


def test_availability_follows_and_the_node_heals(house: House) -> None:
    house.wait_states({**CAMERA, **NODE})
    house.node.kill()
    gone = dict.fromkeys([*CAMERA, *NODE, "event.hall_visits"], "unavailable")
    house.wait_states(gone)
    house.node.start()
    house.wait_states({**CAMERA, **NODE})
    house.node.terminate()
    house.wait_states(gone)
    house.node.start()
    house.wait_states({**CAMERA, **NODE})


def test_a_broker_that_forgets_everything_heals(house: House) -> None:
    house.wait_states({**CAMERA, **NODE})
    house.broker.kill()
    house.wait_states(dict.fromkeys(CAMERA, "unavailable"))
    house.broker.start()
    house.wait_states({**CAMERA, **NODE})
    house.visit()


def test_a_restart_of_home_assistant_heals(house: House) -> None:
    house.wait_states({**CAMERA, **NODE})
    before = house.home.states()["event.hall_visits"]["attributes"].get("event_id")
    before_restart = len(notifications(house))
    house.home.stop()
    house.film.seen = PERSON  # unseen by it
    house.home.start()
    house.wait_states({"binary_sensor.hall_person": "on", "sensor.hall_sentry": "tracking"})
    house.film.seen = EMPTY
    house.wait_states({**CAMERA, **NODE})
    after = house.home.states()["event.hall_visits"]["attributes"]
    assert after["event_type"] == "person_left"
    assert after["event_id"] != before
    # They do not survive a restart, and the returning entities cause none.
    assert len(notifications(house)) <= before_restart


def test_a_calm_time_writes_no_rows(house: House) -> None:
    """About 10,000 rows a day and camera were written when attributes had ages in them."""
    house.wait_states({**CAMERA, **NODE})
    with listening(house.broker) as ear:
        wait_for(lambda: len(ear.payloads("/hall/status")) > 1, SOON_S)
        time.sleep(3)  # what the recorder has not written yet
        before, heard = rows(house.home), len(ear.payloads("/hall/status"))
        time.sleep(2.5 * NODE_S + 5)  # longer than entities without a message stay available
        assert len(ear.payloads("/hall/status")) - heard >= 10
        house.wait_states({**CAMERA, **NODE})
        after = rows(house.home)
    assert after == before


def test_a_broker_that_still_says_online_does_not_keep_a_dead_node_available(
    house: House,
) -> None:
    """After a power cut of both, a broker has what it saved last, and no connection whose will it would publish."""
    house.wait_states({**CAMERA, **NODE})
    house.node.kill()
    house.wait_states(dict.fromkeys(CAMERA, "unavailable"))
    with listening(house.broker) as ear:
        ear.client.publish("tridetr/node1/availability", "online", qos=1, retain=True)
        house.wait_states({**CAMERA, **NODE})
    sensors = [name for name in [*CAMERA, *NODE] if not name.startswith("switch")]
    time.sleep(2.5 * NODE_S)
    house.wait_states(dict.fromkeys(sensors, "unavailable"))
    house.node.start()
    house.wait_states({**CAMERA, **NODE})


def rows(home: HomeAssistant) -> int:
    """Return how many states the recorder has written for entities of the node."""
    file = home.folder / "home-assistant_v2.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        query = (
            "SELECT count(*) FROM states JOIN states_meta USING (metadata_id) "
            "WHERE states_meta.entity_id LIKE '%.hall_%' OR states_meta.entity_id LIKE '%.tridetr_%'"
        )
        return int(database.execute(query).fetchone()[0])
