"""Traces: what happened to one frame, from the camera to the browser, as OpenTelemetry spans.

Capture decides which frames are traced (`sample`). The context then travels in the frame's and the result's slot, so
each process adds its spans by what it reads there. Spans are made afterwards from times that are known anyway: an
untraced frame costs one comparison. Without `configure`, without the extra `otel` or with `otel.endpoint: null` nothing
is sampled and nothing recorded.

A span is laid into a bounded queue and sent by a thread; a collector that is away costs the spans and nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tridetr.shm.values import TraceContext

if TYPE_CHECKING:
    from tridetr.config.schema import OtelSection

log = logging.getLogger("tridetr.tracing")

QUEUE = 2048  # spans that wait for the collector; more are dropped, oldest first
_BATCH = 256
_DELAY_MS = 1000
_TIMEOUT_S = 5.0
_FLUSH_S = 1.0  # at the end of the process

Attribute: TypeAlias = "str | int | float | bool"
_Emit = Callable[[str, TraceContext, "TraceContext | None", int, int, dict[str, Attribute]], None]

_NOTHING = contextlib.nullcontext()  # may be entered by many at once

_ratio = 0.0
_emit: _Emit | None = None
_finish: Callable[[], None] | None = None


def configure(section: OtelSection, role: str) -> None:
    """Begin to trace in this process, if the configuration says so.

    Args:
        section: where to and how often.
        role: name of the process, such as ``capture hall``.
    """
    global _ratio, _emit, _finish
    shutdown()
    if section.endpoint is None:
        return
    try:
        _emit, _finish = _exporter(section.endpoint, role)
    except ImportError:
        log.warning(
            "otel.endpoint is set, but OpenTelemetry is not installed: no traces of this process "
            "(pip install 'tridetr[otel]')"
        )
        return
    _ratio = section.sample_ratio
    atexit.register(shutdown)


def shutdown() -> None:
    """Send what waits, for a second at most, and trace no more."""
    global _ratio, _emit, _finish
    finish, _finish, _emit, _ratio = _finish, None, None, 0.0
    if finish is not None:
        # The library would wait for half a minute for a dead collector.
        thread = threading.Thread(target=finish, name="trace flush", daemon=True)
        thread.start()
        thread.join(_FLUSH_S)
        atexit.unregister(shutdown)


def sample() -> TraceContext | None:
    """Return the context of a new trace for some of the frames, None for all others."""
    if not _ratio or random.random() >= _ratio:  # noqa: S311
        return None
    return TraceContext(secrets.randbits(128) or 1, secrets.randbits(64) or 1)


def child(parent: TraceContext) -> TraceContext:
    """Return the context of a new span below ``parent``; ``parent`` itself where nothing is recorded."""
    if _emit is None:
        return parent
    return TraceContext(parent.trace_id, secrets.randbits(64) or 1, parent.flags)


def record(
    name: str,
    context: TraceContext,
    parent: TraceContext | None,
    start_ns: int,
    end_ns: int,
    **attributes: Attribute,
) -> None:
    """Record a span that is over.

    Args:
        name: what was done.
        context: of the span itself, from :func:`sample` or :func:`child`.
        parent: of the span that it is part of; None for the first one.
        start_ns: CLOCK_MONOTONIC [ns].
        end_ns: CLOCK_MONOTONIC [ns].
        attributes: facts to search by; dots in their names are written as ``__``.
    """
    if _emit is not None:
        facts = {key.replace("__", "."): value for key, value in attributes.items()}
        _emit(name, context, parent, start_ns, max(start_ns, end_ns), facts)


def record_child(
    name: str, parent: TraceContext, start_ns: int, end_ns: int, **attributes: Attribute
) -> None:
    """Record a span below ``parent`` that has no spans of its own; arguments as for :func:`record`."""
    if _emit is not None:
        record(name, child(parent), parent, start_ns, end_ns, **attributes)


def step(
    name: str, parent: TraceContext | None, **attributes: Attribute
) -> contextlib.AbstractContextManager[None]:
    """Record the block as a span below ``parent``; does nothing for a frame that is not traced.

    Example:
        >>> with step("decide", None):
        ...     pass
    """
    return _NOTHING if parent is None or _emit is None else _step(name, parent, attributes)


@contextlib.contextmanager
def _step(name: str, parent: TraceContext, attributes: dict[str, Attribute]) -> Iterator[None]:
    start_ns = time.monotonic_ns()
    try:
        yield
    finally:
        record_child(name, parent, start_ns, time.monotonic_ns(), **attributes)


def _exporter(endpoint: str, role: str) -> tuple[_Emit, Callable[[], None]]:
    """Return what takes a span and what ends it all.

    Raises:
        ImportError: the extra `otel` is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

    from tridetr import __version__

    class Exporter(SpanExporter):  # type: ignore[misc]
        """Says once that the collector does not take spans, and once that it does again."""

        def __init__(self) -> None:
            self._http = OTLPSpanExporter(
                endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT_S
            )
            self._failing = False

        def export(self, spans: Sequence[Any]) -> Any:
            result = self._http.export(spans)
            failing = result is not SpanExportResult.SUCCESS
            if failing != self._failing:
                self._failing = failing
                if failing:
                    log.warning("%s does not take traces: they are dropped", endpoint)
                else:
                    log.info("%s takes traces again", endpoint)
            return result

        def shutdown(self) -> None:
            self._http.shutdown()

    # The library says every failure and every dropped span: too much for a collector that is away all night.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    processor = BatchSpanProcessor(
        Exporter(),
        max_queue_size=QUEUE,
        schedule_delay_millis=_DELAY_MS,
        max_export_batch_size=_BATCH,
    )
    program, _, camera = role.partition(" ")
    facts = {"service.name": f"tridetr-{program}", "service.version": __version__}
    if camera:
        facts["service.instance.id"] = camera
    resource, scope = Resource(facts), InstrumentationScope("tridetr", __version__)

    def context_of(context: TraceContext, *, remote: bool) -> Any:
        flags = TraceFlags(context.flags)
        return SpanContext(context.trace_id, context.span_id, remote, flags)

    def emit(
        name: str,
        context: TraceContext,
        parent: TraceContext | None,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, Attribute],
    ) -> None:
        to_unix_ns = time.time_ns() - time.monotonic_ns()
        span = ReadableSpan(
            name,
            context=context_of(context, remote=False),
            parent=context_of(parent, remote=True) if parent else None,
            resource=resource,
            attributes=attributes,
            kind=SpanKind.INTERNAL,
            instrumentation_scope=scope,
            start_time=start_ns + to_unix_ns,
            end_time=end_ns + to_unix_ns,
        )
        processor.on_end(span)

    return emit, processor.shutdown
