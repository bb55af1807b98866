from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from support.waiting import wait_for
from tridetr.shm import names
from tridetr.triton.health import PROBE_AFTER_S, Health
from tridetr.triton.server_log import ServerLog, parse
from tridetr.triton.server_process import ServerProcess


@pytest.mark.parametrize(
    ("looks", "wanted"),
    [
        # (successes, failures, seconds since the start) -> whether it probes
        ([(1, 0, 1)], [False]),
        ([(0, 0, 1), (0, 0, PROBE_AFTER_S)], [False, True]),
        ([(5, 0, 1), (5, 0, 3), (5, 0, 1 + PROBE_AFTER_S)], [False, False, True]),
        ([(5, 0, 1), (5, 1, 2)], [False, True]),
        ([(5, 1, 1), (6, 2, 2)], [False, False]),  # some clients send invalid requests
        ([(5, 9, 1), (5, 9, 2)], [False, False]),
    ],
)
def test_when_the_watcher_probes(looks: list[tuple[int, int, float]], wanted: list[bool]) -> None:
    health = Health(0.0)
    assert [health.needs_probe(*look) for look in looks] == wanted


def test_a_successful_probe_counts() -> None:
    health = Health(0.0)
    assert health.needs_probe(0, 0, PROBE_AFTER_S)
    health.probed(PROBE_AFTER_S)
    assert not health.needs_probe(0, 0, PROBE_AFTER_S + 1)
    assert health.needs_probe(0, 0, 2 * PROBE_AFTER_S)


@pytest.mark.parametrize(
    ("line", "level", "text"),
    [
        (
            "2026-01-02T04:47:57Z E 8481 model_lifecycle.cc:642] \"failed to load 'm'\"\n",
            logging.ERROR,
            "failed to load 'm'",
        ),
        ('2026-01-02T04:47:57Z W 8481 x.cc:1] "odd"', logging.WARNING, "odd"),
        ('2026-01-02T04:47:57Z I 8481 server.cc:1] "chatter"', logging.DEBUG, "chatter"),
        ('2026-01-02T04:47:57Z I 8481 model.py:9] "m runs on X"', logging.INFO, "m runs on X"),
        ("I1122 04:47:56.534015 8490 model.py:6]  early", logging.INFO, "early"),
        ("error: creating server: no model", logging.ERROR, "creating server: no model"),
        ("+----+", logging.DEBUG, ""),
        ("| Model | Status |", logging.DEBUG, ""),
        ("terminate called", logging.DEBUG, "terminate called"),
        (
            '2026-01-02T04:47:30Z E 8266 server.cc:241] "CudaDriverHelper has not been initialized."',
            logging.DEBUG,
            "CudaDriverHelper has not been initialized.",
        ),
    ],
)
def test_log_lines_of_the_server_keep_their_level(line: str, level: int, text: str) -> None:
    assert parse(line) == (level, text)


def test_errors_are_kept_for_the_message_of_a_failed_start() -> None:
    server_log = ServerLog(logging.getLogger("tridetr.test"))
    for number in range(30):
        server_log.feed(f"error: number {number}")
    server_log.feed('2026-01-02T04:47:57Z W 1 x.cc:1] "a warning"')
    assert server_log.last_words[-1] == "number 29"
    assert len(server_log.last_words) == 20


def test_lines_of_other_programs_explain_a_failed_start() -> None:
    server_log = ServerLog(logging.getLogger("tridetr.test"))
    assert server_log.last_words == ["it logged nothing"]
    server_log.feed('2026-01-02T04:47:57Z I 1 x.cc:1] "loading: m:1"')
    server_log.feed("+-----+")
    assert server_log.last_words == ["loading: m:1"]
    for _ in range(3):
        server_log.feed("bash: line 1: /tmp/a: No such file or directory")
    server_log.feed('2026-01-02T04:47:58Z I 1 x.cc:1] "Waiting"')
    assert server_log.last_words == ["bash: line 1: /tmp/a: No such file or directory"]


@pytest.mark.parametrize(
    ("kind", "device"), [("CPU device 0", "CPU"), ("GPU device 0", "GPU 0"), (None, "")]
)
def test_the_models_device_is_read_from_the_log(kind: str | None, device: str) -> None:
    said = ServerLog(logging.getLogger("tridetr.test"))
    name = "TRITONBACKEND_ModelInstanceInitialize: rfdetr_ort_0_0"
    line = "2026-01-02T04:47:57Z I 1 onnxruntime.cc:3]"
    said.feed(f'{line} "{name} ({kind})"' if kind else f'{line} "something else"')
    assert said.device == device


def test_the_cpu_time_of_a_native_backend_is_the_servers() -> None:
    """Otherwise a slow native backend would count as hung."""
    busy = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.3: pass\ntime.sleep(60)"
    process = ServerProcess([sys.executable, "-c", busy], dict(os.environ), Path.cwd())
    try:
        process.remember_stubs()
        wait_for(lambda: process.backend_cpu_s() >= 0.3, 20, "no CPU time is seen")
        assert not process.lost_stub()
    finally:
        process.stop(0)
    assert process.backend_cpu_s() == 0  # the process has exited: no error


def test_a_region_that_others_can_open_is_made_private(instance: str) -> None:
    path = names.SHM_DIR / (names.triton_region_prefix(instance) + "1")
    path.touch()
    path.chmod(0o644)
    try:
        assert names.close_triton_regions(instance) == [path.name]
        assert path.stat().st_mode & 0o777 == 0o600
        assert not names.close_triton_regions(instance)
    finally:
        path.unlink()
