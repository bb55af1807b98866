"""Spans reach a collector; if it is unavailable, or tracing is off, the process is not affected."""

from __future__ import annotations

import gzip
import logging
import sys
import threading
import time
import timeit
import tracemalloc
from collections.abc import Iterator

import pytest

from support.otlp import running_collector
from support.waiting import slack, wait_for
from tridetr.config.node_sections import OtelSection
from tridetr.shm.values import TraceContext
from tridetr.telemetry import tracing

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture(autouse=True)
def switched_off() -> Iterator[None]:
    yield
    tracing.shutdown()
    for thread in threading.enumerate():  # a retry in the background would disturb later tests
        if thread.name == "trace flush" or thread.name.startswith("OtelBatch"):
            thread.join(60)
            assert not thread.is_alive(), thread.name


def configure(endpoint: str | None, ratio: float = 1.0, role: str = "capture hall") -> None:
    tracing.configure(OtelSection(endpoint=endpoint, sample_ratio=ratio), role)


def test_a_span_and_its_child_arrive_unchanged() -> None:
    with running_collector() as collector:
        configure(collector.endpoint)
        now_ns, unix_ns = time.monotonic_ns(), time.time_ns()
        first = tracing.sample("frame", now_ns - 9_000_000, camera="hall")
        assert first
        root = first.context
        tracing.record("decode", root, now_ns - 5_000_000, now_ns - 2_000_000)
        first.end(now_ns, frame__number=7)
        with tracing.step("decide", root, camera="hall"):
            pass
        tracing.shutdown()
        spans = {span.name: span for span in collector.spans}
    frame, decode, decide = spans["frame"], spans["decode"], spans["decide"]
    assert (frame.trace, frame.id) == (f"{root.trace_id:032x}", f"{root.span_id:016x}")
    assert frame.parent == ""
    assert decode.parent == decide.parent == frame.id
    assert decode.trace == decide.trace == frame.trace
    assert frame.end_ns - frame.start_ns == pytest.approx(9_000_000, abs=1000)
    assert decode.end_ns - decode.start_ns == pytest.approx(3_000_000, abs=1000)
    assert abs(frame.end_ns - unix_ns) < 50_000_000
    assert frame.attributes == {"camera": "hall", "frame.number": 7}
    assert frame.service == "tridetr-capture"


@pytest.mark.parametrize(
    ("ratio", "low", "high"), [(0.0, 0, 0), (0.1, 100, 320), (1.0, 2000, 2000)]
)
def test_the_ratio_is_kept(ratio: float, low: int, high: int) -> None:
    configure(NOBODY, ratio)
    sampled = [trace for _ in range(2000) if (trace := tracing.sample("frame", 1))]
    assert low <= len(sampled) <= high
    assert len({trace.context.trace_id for trace in sampled}) == len(sampled)


def test_a_dead_collector_does_not_block_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running_collector() as collector, caplog.at_level(logging.INFO):
        collector.refuse = True
        configure(collector.endpoint)
        root = tracing.sample("frame", 1)
        assert root
        took = timeit.timeit(
            lambda: tracing.record("x", root.context, 1, 2), number=3 * tracing.QUEUE
        )
        assert took / (3 * tracing.QUEUE) < 2e-3
        wait_for(lambda: collector.requests, 20, "no attempt was made")
        began = time.monotonic()
        tracing.shutdown()
        assert time.monotonic() - began < slack(4)
    said = [record for record in caplog.records if "take" in record.message]
    assert len(said) <= 1
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


@pytest.mark.parametrize("size_mib", [6, 40])
def test_a_collectors_answer_is_neither_decompressed_nor_read_to_its_end(size_mib: int) -> None:
    """Only its status matters, and 200 KiB can become 200 MiB."""
    with running_collector() as collector:
        collector.body = gzip.compress(bytes(size_mib << 20), 1)
        configure(collector.endpoint)
        root = tracing.sample("frame", 1)
        assert root
        tracing.record("x", root.context, 1, 2)
        tracemalloc.start()
        try:
            tracing.shutdown()
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert [span.name for span in collector.spans] == ["x"]
    assert most < 5e6


def test_switched_off_it_costs_nothing_measurable() -> None:
    configure(None)
    parent = TraceContext(1, 2)
    assert tracing.sample("frame", 1) is None
    assert tracing.begin("detect", parent, 1) is None
    asked = timeit.repeat(lambda: tracing.sample("frame", 1), number=20_000, repeat=5)
    sampling = min(asked) / 20_000
    assert sampling < 5e-6, "a comparison, and not more"

    def untraced() -> None:
        with tracing.step("decide", None, camera="hall"):
            pass

    stepping = min(timeit.repeat(untraced, number=20_000, repeat=5)) / 20_000
    assert stepping < 20e-6


def test_without_the_extra_a_warning_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    configure(NOBODY)
    assert "pip install 'tridetr[otel]'" in caplog.text
    assert tracing.sample("frame", 1) is None
