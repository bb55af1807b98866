"""Trace single frames from the camera to the browser, as OpenTelemetry spans.

Capture decides which frames are traced (`sample`). The trace context is stored in the slot of the frame and of its
result, where the other processes read it to add their spans. Spans use timestamps that are taken anyway, so an untraced
frame costs one comparison. Without `configure`, without the extra `otel`, or with `otel.endpoint: null`, nothing is
sampled or recorded.

Finished spans wait in a bounded queue and are sent by a thread. If the collector is unavailable, spans are dropped;
nothing else is affected.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tridetr.shm.values import TraceContext

if TYPE_CHECKING:
    from tridetr.config.node_sections import OtelSection

log = logging.getLogger("tridetr.tracing")

QUEUE = 2048  # spans that wait for the collector; more are dropped, oldest first
_BATCH = 256
_DELAY_MS = 1000
_TIMEOUT_S = 5.0
_LONGEST_ANSWER = 64 * 1024  # bytes that are read of a collector's answer; only its status matters
_FLUSH_S = 1.0  # at the end of the process

Attribute: TypeAlias = "str | int | float | bool"
_NOTHING = contextlib.nullcontext()  # reusable and reentrant


@dataclass(frozen=True, slots=True)
class Span:
    """A span that has begun; it is only recorded when :meth:`end` is called.

    Attributes:
        context: The trace context to pass as the parent of its children.
    """

    context: TraceContext
    _span: Any  # OpenTelemetry's
    _to_unix_ns: int

    def end(self, end_ns: int, **attributes: Attribute) -> None:
        """End the span and record it.

        Args:
            end_ns: CLOCK_MONOTONIC [ns]; if it is before the span's begin, the begin is used.
            attributes: Further attributes, as for :func:`begin`.
        """
        self._span.set_attributes(_dotted(attributes))
        self._span.end(max(self._span.start_time, end_ns + self._to_unix_ns))


_ratio = 0.0
_begin: Callable[[str, TraceContext | None, int, dict[str, Attribute]], Span] | None = None
_finish: Callable[[], None] | None = None


def configure(section: OtelSection, role: str) -> None:
    """Start tracing in this process, if `otel.endpoint` is set.

    Args:
        section: Endpoint and share of frames.
        role: Name of the process, such as ``capture hall``.
    """
    global _ratio, _begin, _finish
    shutdown()
    if section.endpoint is None:
        return
    try:
        _begin, _finish = _exporter(section.endpoint, role)
    except ImportError:
        log.warning(
            "otel.endpoint is set, but OpenTelemetry is not installed: this process records no traces. Install it "
            "with pip install 'tridetr[otel]'"
        )
        return
    _ratio = section.sample_ratio
    atexit.register(shutdown)


def shutdown() -> None:
    """Stop tracing; send the spans that are waiting, for one second at most."""
    global _ratio, _begin, _finish
    finish, _finish, _begin, _ratio = _finish, None, None, 0.0
    if finish is not None:
        finish()
        atexit.unregister(shutdown)


def sample(name: str, start_ns: int, **attributes: Attribute) -> Span | None:
    """Begin the first span of a new trace, for the configured share of frames.

    Args:
        name: Name of the span.
        start_ns: CLOCK_MONOTONIC [ns].
        attributes: Attributes of the span; write ``__`` for a dot in a name.

    Returns:
        The span; None if the frame is not traced.
    """
    if _begin is None or random.random() >= _ratio:  # noqa: S311
        return None
    return _begin(name, None, start_ns, _dotted(attributes))


def begin(
    name: str, parent: TraceContext | None, start_ns: int, **attributes: Attribute
) -> Span | None:
    """Begin a span below ``parent``; arguments as for :func:`sample`.

    Returns:
        The span; None where nothing is recorded or the frame is not traced.
    """
    if parent is None or _begin is None:
        return None
    return _begin(name, parent, start_ns, _dotted(attributes))


def record(name: str, parent: TraceContext | None, start_ns: int, end_ns: int) -> None:
    """Record a span below ``parent`` (None: nothing) that has ended, without children; times are monotonic [ns]."""
    if span := begin(name, parent, start_ns):
        span.end(end_ns)


def step(
    name: str, parent: TraceContext | None, **attributes: Attribute
) -> contextlib.AbstractContextManager[None]:
    """Record the block as a span below ``parent``; does nothing for a frame that is not traced.

    Example:
        >>> with step("decide", None):
        ...     pass
    """
    span = begin(name, parent, time.monotonic_ns(), **attributes)
    return _NOTHING if span is None else _step(span)


@contextlib.contextmanager
def _step(span: Span) -> Iterator[None]:
    try:
        yield
    finally:
        span.end(time.monotonic_ns())


def _dotted(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    return {key.replace("__", "."): value for key, value in attributes.items()}


def _exporter(endpoint: str, role: str) -> tuple[Callable[..., Span], Callable[[], None]]:
    """Return a function that begins a span, and one that shuts the exporter down.

    Raises:
        ImportError: The extra `otel` is not installed.
    """
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    from tridetr import __version__

    class Adapter(requests.adapters.HTTPAdapter):
        """Reads only the beginning of an answer, without decompressing it: a small one may contain gigabytes."""

        def send(self, *arguments: Any, **options: Any) -> requests.Response:
            response = super().send(*arguments, **(options | {"stream": True}))
            begin = response.raw.read(_LONGEST_ANSWER, decode_content=False)
            if len(begin) < _LONGEST_ANSWER:
                response.raw.release_conn()
            else:
                response.close()
            response.raw = io.BytesIO(begin)
            return response

    class Exporter(SpanExporter):  # type: ignore[misc]  # the extra may be missing
        """Logs once when the collector stops accepting spans, and once when it accepts them again."""

        def __init__(self) -> None:
            session = requests.Session()
            session.mount("http://", Adapter())
            session.mount("https://", Adapter())
            session.headers["Accept-Encoding"] = "identity"
            self._http = OTLPSpanExporter(
                endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT_S, session=session
            )
            self._failing = False

        def export(self, spans: Sequence[Any]) -> Any:
            result = self._http.export(spans)
            failing = result is not SpanExportResult.SUCCESS
            if failing != self._failing:
                self._failing = failing
                if failing:
                    log.warning("%s does not accept traces: they are dropped", endpoint)
                else:
                    log.info("%s accepts traces again", endpoint)
            return result

        def shutdown(self) -> None:
            self._http.shutdown()

    # The library logs every failure and every dropped span: too much while a collector is unavailable for hours
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    exporter = Exporter()
    processor = BatchSpanProcessor(
        exporter,
        max_queue_size=QUEUE,
        schedule_delay_millis=_DELAY_MS,
        max_export_batch_size=_BATCH,
    )
    program, _, camera = role.partition(" ")
    facts = {"service.name": f"tridetr-{program}", "service.version": __version__}
    if camera:
        facts["service.instance.id"] = camera
    provider = TracerProvider(ALWAYS_ON, Resource(facts), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("tridetr", __version__)

    def begin(
        name: str, parent: TraceContext | None, start_ns: int, attributes: dict[str, Attribute]
    ) -> Span:
        above = None
        if parent is not None:
            flags = TraceFlags(parent.flags)
            remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
            above = set_span_in_context(NonRecordingSpan(remote))
        to_unix_ns = time.time_ns() - time.monotonic_ns()
        span = tracer.start_span(
            name, above, attributes=attributes, start_time=start_ns + to_unix_ns
        )
        made = span.get_span_context()
        context = TraceContext(made.trace_id, made.span_id, made.trace_flags)
        return Span(context, span, to_unix_ns)

    def finish() -> None:
        # The library would wait for half a minute for an unavailable collector
        thread = threading.Thread(target=provider.shutdown, name="trace flush", daemon=True)
        thread.start()
        thread.join(_FLUSH_S)
        exporter.shutdown()  # ends its attempts

    return begin, finish
