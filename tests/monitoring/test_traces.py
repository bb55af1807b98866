"""One connected trace for a frame, from the camera to the browser, through the real Triton."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from websockets.sync.client import connect

from support.otlp import Span
from support.waiting import wait_for
from support.watched import Watched

WAY = {"frame", "decode", "publish", "detect", "infer", "post", "decide", "send"}


def whole(spans: list[Span]) -> bool:
    return {span.name for span in spans} >= WAY and any(
        s.service == "tridetr-triton" for s in spans
    )


@pytest.fixture(scope="module")
def trace(watched: Watched) -> list[Span]:
    """Return a whole trace, recorded with a viewer; more than one is needed, as gRPC loses some parents."""

    url = watched.node.url.replace("http", "ws") + "/ws/street"
    deadline_s = time.monotonic() + 120
    with connect(url, max_size=None) as socket:
        while time.monotonic() < deadline_s:
            socket.recv(timeout=30)
            for spans in watched.collector.traces().values():
                if whole(spans):
                    return spans
    raise AssertionError(f"no whole trace; last: {spans}")


def test_the_trace_is_one_tree(trace: list[Span]) -> None:
    ids = {span.id for span in trace}
    assert len(ids) == len(trace)
    roots = [span for span in trace if span.parent.strip("0") == ""]
    assert [root.name for root in roots] == ["frame"]
    for span in trace:
        assert span in roots or span.parent in ids, f"{span.name} hangs in the air"
    by_name = {span.name: span for span in trace}
    assert by_name["infer"].parent == by_name["post"].parent == by_name["detect"].id
    assert by_name["decide"].parent == by_name["detect"].id
    assert by_name["decode"].parent == by_name["detect"].parent == by_name["frame"].id


def test_the_servers_spans_hang_below_the_inference(trace: list[Span]) -> None:
    infer = next(span for span in trace if span.name == "infer")
    of_server = [span for span in trace if span.service == "tridetr-triton"]
    assert any(span.parent == infer.id for span in of_server)
    for span in of_server:
        assert infer.start_ns - 5_000_000 <= span.start_ns <= infer.end_ns + 5_000_000


def test_times_are_those_of_the_frame(trace: list[Span]) -> None:
    by_name = {span.name: span for span in trace}
    order = ["decode", "publish", "infer", "post", "decide"]
    for before, after in pairwise(order):
        assert by_name[before].start_ns <= by_name[after].start_ns + 1_000_000
    detect, infer = by_name["detect"], by_name["infer"]
    assert detect.start_ns <= infer.start_ns <= infer.end_ns <= detect.end_ns
    assert by_name["frame"].attributes["camera"] == "street"
    services = {span.service for span in trace}
    assert services == {
        "tridetr-capture",
        "tridetr-detector",
        "tridetr-triton",
        "tridetr-controller",
        "tridetr-gateway",
    }


def test_a_dead_collector_does_not_slow_the_node(watched: Watched, trace: list[Span]) -> None:
    """All frames are traced here: without its collector the node must go on as before."""
    watched.collector.refuse = True
    try:
        before = watched.node.cameras()["street"]
        refused = watched.collector.requests
        wait_for(lambda: watched.collector.requests > refused + 2, 60, "no further request")
        wait_for(lambda: watched.node.cameras()["street"] != before, 20, "the camera stands still")
    finally:
        watched.collector.refuse = False
